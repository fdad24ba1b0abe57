"""Synthetic omics: what is planted is there, and the models meant for it find it."""

import numpy as np
import pytest
import torch
from omics_cohorts import TARGETS, omics_schema

from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum
from fedrx_models.cohort.cohort import concatenate
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.registry import build_model
from fedrx_protocol.privacy.calibration import training_noise_multiplier
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, OptimizerSection
from fedrx_server.rounds.optimizer import ServerOptimizer
from fedrx_simulation.cohorts.federation import ImpossibleCohorts
from fedrx_simulation.cohorts.genomic import GenomicCohorts, generate_genomic
from fedrx_simulation.cohorts.genomic_blocks import planted_genes

torch.set_num_threads(1)
INTERACTION, RESPONDER, TOXICITY = 0.6, 1.0, 1.5


def alleles(target, genes=12):
    """A study of one block of allele counts."""
    return FeatureSchema.model_validate(
        {
            "blocks": [
                {
                    "name": "variants",
                    "kind": "mutation",
                    "unit": "alleles",
                    "minimum": 0,
                    "maximum": 2,
                    "mean": 1,
                    "genes": [f"G{i}" for i in range(genes)],
                }
            ],
            "graph": {"edges": [["G0", "G1"], ["G1", "G2"]]},
            "target": target,
        }
    )


DOSE = TARGETS["continuous"] | {"scale": 1.0}
RESPONSE = {"kind": "binary", "name": "response", "rate": 0.4}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("missingness", [0.0, 0.5])
def test_any_study_with_blocks_gets_patients(kind, missingness):
    schema = omics_schema(kind)
    knobs = GenomicCohorts(schema, sites=3, patients=(20, 40), missingness=missingness)
    cohorts = generate_genomic(knobs)
    assert list(cohorts) == ["site-1", "site-2", "site-3"]
    everybody = concatenate(list(cohorts.values()))
    assert all(20 <= len(cohort) <= 40 for cohort in cohorts.values())
    absent = np.isnan(next(iter(everybody.blocks.values()))).all(axis=1).mean()
    assert absent == 0 if not missingness else 0.1 < absent < 0.9
    assert torch.isfinite(encode(everybody, schema).y).all()


def test_the_same_seed_gives_the_same_patients_and_sites_do_not_depend_on_each_other():
    schema = alleles(DOSE)
    first, again, fewer, other = (
        generate_genomic(GenomicCohorts(schema, sites=sites, patients=(30, 30), seed=seed))
        for sites, seed in ((3, 1), (3, 1), (2, 1), (3, 2))
    )
    assert [c.fingerprint for c in first.values()] == [c.fingerprint for c in again.values()]
    assert first["site-1"].fingerprint == fewer["site-1"].fingerprint
    assert first["site-1"].fingerprint != other["site-1"].fingerprint


@pytest.mark.parametrize(
    ("knob", "words"),
    [
        ({"sites": 0}, "sites is 0"),
        ({"patients": (5, 2)}, r"patients is 5\.\.2"),
        ({"missingness": 1.0}, "missingness is 1"),
        ({"noise_sd": -1.0}, "noise_sd is -1"),
        ({"heterogeneity": 2.0}, "heterogeneity is 2"),
    ],
)
def test_impossible_knobs_are_one_sentence(knob, words):
    with pytest.raises(ImpossibleCohorts, match=words):
        GenomicCohorts(alleles(DOSE), **knob)


def test_a_study_with_too_few_genes_is_refused():
    with pytest.raises(ImpossibleCohorts, match="at least 4 genes"):
        GenomicCohorts(alleles(DOSE, genes=3))


def federation(target, patients=500, seed=1):
    """Eight sites' patients, joined; a sum over sites is a sum over patients."""
    knobs = GenomicCohorts(
        alleles(target),
        sites=8,
        patients=(patients, patients),
        interaction=INTERACTION,
        responder=RESPONDER,
        toxicity=TOXICITY,
        seed=seed,
    )
    return concatenate(list(generate_genomic(knobs).values()))


def trained(name, cohort, *, private=False, parameters=None, clip=1.0, rate=0.02, rounds=80):
    """Full-batch Adam of the coordinator; privately, at epsilon 8."""
    model = build_model(ModelSection(name=name, **(parameters or {})), cohort.schema, seed=0)
    settings = OptimizerSection(name="adam", learning_rate=rate, momentum=0.9, decay="linear")
    optimizer = ServerOptimizer(settings, get_vector(model), rounds)
    batch, rng = encode(cohort, cohort.schema), np.random.default_rng(0)
    sigma = training_noise_multiplier(8.0, 1e-5, 1.0, rounds)
    for round_ in range(1, rounds + 1):
        if private:
            total = clipped_gradient_sum(model, batch, clip).vector
            total = total + rng.normal(0, sigma * clip, len(total))
        else:
            total = gradient_sum(model, batch)
        optimizer.step(total / len(batch), round_)
        set_vector(model, optimizer.weights)
    return model


def outputs(model, cohort, **steps):
    """What the model says, normalised or as log odds, if everybody had these alleles."""
    block = np.array(cohort.blocks["variants"])
    genes = cohort.schema.blocks[0].genes
    for gene, count in steps.items():
        block[:, genes.index(gene)] = count
    values = encode(
        type(cohort)(
            cohort.site, cohort.schema, cohort.patients, cohort.values, cohort.target,
            {"variants": block},
        ),
        cohort.schema,
    )  # fmt: skip
    mean = model.predict(values).mean
    return np.log(mean / (1 - mean)) if cohort.schema.target.kind == "binary" else mean


def interaction(model, cohort):
    """The planted effect as the model sees it: a quarter of the double difference, mean."""
    a, b = planted_genes(cohort.schema).interacting
    corners = {
        (i, j): outputs(model, cohort, **{a: i, b: j}).mean() for i in (0, 2) for j in (0, 2)
    }
    return (corners[2, 2] - corners[2, 0] - corners[0, 2] + corners[0, 0]) / 4


MEANT_FOR_IT = {
    "mlp": {"hidden": [32]},
    "genomic_cnn": {"channels": 4, "layers": 1, "hidden": 32},
    "drug_gene_gnn": {"size": 4, "hidden": 32},
    "multiomics_vae": {"latent": 12, "hidden": 32, "head_hidden": 32},
    "genomic_transformer": {"size": 4, "heads": 1, "layers": 1, "feed_forward": 8, "hidden": 32},
}


@pytest.mark.parametrize(
    "name",
    [
        *("linear", "mlp", "genomic_cnn", "drug_gene_gnn", "multiomics_vae"),
        pytest.param("genomic_transformer", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("private", [False, True])
def test_a_gene_gene_interaction_is_found_by_deep_models_and_not_by_linear(name, private):
    cohort = federation(DOSE)
    model = trained(name, cohort, private=private, parameters=MEANT_FOR_IT.get(name))
    found = interaction(model, federation(DOSE, patients=20, seed=2))
    if name == "linear":
        assert abs(found) < 1e-6
    else:
        assert 0.5 * INTERACTION < found < 1.3 * INTERACTION


@pytest.mark.parametrize("name", ["linear", "mlp", "drug_gene_gnn"])
@pytest.mark.parametrize("private", [False, True])
def test_responders_and_the_toxic_genotype_are_found(name, private):
    """Effects in log odds, by changing one gene only; within a half of what was planted."""
    cohort = federation(RESPONSE)
    # A tight bound would clip those the model is wrong about, and make it too sure of itself.
    parameters = MEANT_FOR_IT.get(name)
    model = trained(name, cohort, private=private, parameters=parameters, clip=8.0)
    probe, planted = federation(RESPONSE, patients=20, seed=2), planted_genes(cohort.schema)
    responds, harmed = (
        (outputs(model, probe, **{gene: 2}) - outputs(model, probe, **{gene: 0})).mean()
        for gene in (planted.responder, planted.toxic)
    )
    assert 0.5 * RESPONDER < responds < 2.2 * RESPONDER
    assert 0.5 * TOXICITY < harmed < 1.5 * TOXICITY
