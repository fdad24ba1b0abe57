"""Every family of models, trained on patients with one cause each: is it the first reason?"""

import numpy as np
import pytest
import torch
from planted_reasons import courses_with_one_cause, patients_with_one_cause

from fedrx_models.explain.explanation import explain
from fedrx_models.fitting import fit
from fedrx_models.registry import build_model, models_of
from fedrx_protocol.study.study import ModelSection

PATIENTS, ASKED = 300, 60
SMALL = {
    "mlp": {"hidden": [8]},
    "genomic_cnn": {"channels": 4, "hidden": 8},
    "genomic_transformer": {"size": 8, "heads": 2, "layers": 1, "feed_forward": 8, "hidden": 8},
    "drug_gene_gnn": {"size": 4, "hidden": 8},
    "multiomics_vae": {"latent": 4, "hidden": 8, "head_hidden": 8},
    "tcn": {"channels": 6, "layers": 2},
    "lstm": {"size": 6},
    "transformer": {"size": 8, "heads": 2, "feed_forward": 8},
    "pathway_gnn": {"size": 4, "layers": 1},
}


def first(explanations):
    return [one.main(1)[0].key for one in explanations]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*models_of("pharmacogenomic"), *models_of("flux")])
def test_the_planted_cause_is_the_first_reason_and_lime_and_shap_agree(name):
    torch.set_num_threads(1)
    draw = courses_with_one_cause if name in models_of("flux") else patients_with_one_cause
    cohort, _ = draw(PATIENTS, 1)
    section = ModelSection.model_validate({"name": name, **SMALL.get(name, {})})
    model = fit(build_model(section, cohort.schema, seed=0), cohort, 0)
    asked, planted = draw(ASKED, 2)
    if name == "last_value":  # which can follow nothing but the marker itself
        planted = ("crp",) * ASKED
    found = explain(model, asked)
    assert max(abs(one.missed) for one in found) <= 1e-3
    assert np.mean([one == two for one, two in zip(first(found), planted, strict=True)]) >= 0.95
    shap = explain(model, asked, method="kernel_shap", samples=512)
    lime = explain(model, asked, method="lime", samples=512)
    assert max(abs(one.missed) for one in (*shap, *lime)) <= 1e-3
    same = [one == two for one, two in zip(first(shap), first(lime), strict=True)]
    assert np.mean(same) >= 0.9
