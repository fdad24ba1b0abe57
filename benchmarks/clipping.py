"""Time of one clipped gradient sum, as a ratio to plain training: `python benchmarks/clipping.py`.

One thread, and its own seconds on the processor rather than the wall clock, so that others on the
machine count less. Plain is one forward and one backward pass; both are timed in turns. The
figures to compare with are in Bu et al. (2022), arXiv:2210.00038, table 1.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from opacus import GradSampleModule

from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum, supports_bookkeeping
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import PatientModel
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux

PATIENTS = 256
GENES = 128
DRUGS = 30
VISITS = 96


def schema() -> FeatureSchema:
    """Three blocks over the same genes, a ring of edges, and a panel of drugs."""
    genes = [f"G{i}" for i in range(GENES)]
    block = {"unit": "sd", "minimum": -9, "maximum": 9, "genes": genes}
    drugs = [
        {"name": f"drug {i}", "mean": 0, "scale": 1, "targets": [genes[i]]} for i in range(DRUGS)
    ]
    return FeatureSchema.model_validate(
        {
            "blocks": [
                {**block, "name": "expression", "kind": "expression"},
                {**block, "name": "copy_number", "kind": "copy_number"},
                {**block, "name": "mutation", "kind": "mutation"},
            ],
            "graph": {"edges": list(zip(genes, [*genes[1:], genes[0]], strict=True))},
            "target": {
                "kind": "panel",
                "name": "response",
                "unit": "sd",
                "minimum": -9,
                "maximum": 9,
                "drugs": drugs,
            },
        }
    )


def patients(count: int) -> PatientBatch:
    some = torch.rand(count, DRUGS) < 0.8
    return PatientBatch(
        x=torch.zeros(count, 0),
        y=torch.randn(count, DRUGS) * some,
        y_observed=some.float(),
        omics=torch.randn(count, 3 * GENES),
        omics_observed=torch.ones(count, 3),
    )


def course_schema() -> FeatureSchema:
    """Eight markers in a ring, all forecast at three horizons."""
    names = [f"m{i}" for i in range(8)]
    marker = {"unit": "sd", "minimum": -9, "maximum": 9, "mean": 0, "scale": 1}
    return FeatureSchema.model_validate(
        {
            "visits": {"time_unit": "hour", "most": VISITS},
            "markers": [{"name": name, **marker} for name in names],
            "graph": {"edges": list(zip(names, [*names[1:], names[0]], strict=True))},
            "target": {
                "kind": "forecast",
                "name": "course",
                "markers": names,
                "horizons": [{"at": at, "window": (at, at + 1)} for at in (1, 6, 24)],
            },
        }
    )


def courses(count: int) -> PatientBatch:
    plan = FluxCohorts(course_schema(), sites=1, patients=(count, count))
    (cohort,) = generate_flux(plan).values()
    return encode(cohort, cohort.schema)


FLUX_SECTIONS: dict[str, dict[str, object]] = {
    "linear_mixed": {},
    "tcn": {},
    "lstm": {},
    "transformer": {},
    "pathway_gnn": {},
}
SECTIONS: dict[str, dict[str, object]] = {
    "linear": {},
    "mlp": {"hidden": [128, 128]},
    "genomic_cnn": {"gene_tokens": 64, "channels": 32},
    "genomic_transformer": {"gene_tokens": 64, "size": 64, "feed_forward": 128},
    "drug_gene_gnn": {"size": 16},
    "multiomics_vae": {"hidden": 256},
}


def in_turns(steps: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each step, `repeats` times, after one run that nobody times."""
    times: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats + 1):
        for taken, step in zip(times, steps, strict=True):
            start = time.process_time()
            step()
            if repeat:
                taken.append(time.process_time() - start)
    return times


def hooks(model: PatientModel, batch: PatientBatch) -> float:
    """Seconds with Opacus's hooks; not a number where it cannot."""
    hooked = GradSampleModule(model, loss_reduction="sum", strict=False)

    def step() -> None:
        hooked.zero_grad()
        hooked(batch).sum().backward()
        each = [p.grad_sample for p in model.parameters()]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in each]).norm(dim=0)
        factors = (1.0 / norms).clamp(max=1.0)
        [torch.einsum("b,b...", factors, g) for g in each]

    try:
        return min(in_turns([step], 3)[0])
    except (NotImplementedError, AttributeError, RuntimeError):
        return float("nan")
    finally:
        hooked.to_standard_module()


def line_of(model: PatientModel, batch: PatientBatch, repeats: int, *, others: bool) -> str:
    """A model's line of the table."""
    if not supports_bookkeeping(model):
        raise SystemExit(f"{model.name}: book-keeping does not apply")
    plain, ours = in_turns(
        [lambda: gradient_sum(model, batch), lambda: clipped_gradient_sum(model, batch, 1.0)],
        repeats,
    )
    weights = sum(p.numel() for p in model.parameters())
    line = f"{model.name:22}{weights:9}{min(plain) * 1e3:10.2f}{min(ours) / min(plain):7.2f}"
    line += f"{median(o / p for o, p in zip(ours, plain, strict=True)):8.2f}"
    if others:
        mapped = in_turns([lambda: clipped_gradient_sum(model, batch, 1.0, method="vmap")], 3)
        line += f"{min(mapped[0]) / min(plain):7.1f}{hooks(model, batch) / min(plain):7.1f}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--others", action="store_true", help="time vmap and Opacus's hooks too")
    parser.add_argument("--models", help="comma-separated; all of them, if not given")
    told = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(
        f"{'model':22}{'weights':>9}{'plain ms':>10}{'best':>7}{'median':>8}{'vmap':>7}{'hooks':>7}"
    )
    families: list[tuple[dict[str, dict[str, object]], FeatureSchema, PatientBatch]] = [
        (SECTIONS, schema(), patients(PATIENTS)),
        (FLUX_SECTIONS, course_schema(), courses(PATIENTS)),
    ]
    for sections, columns, batch in families:
        for name, parameters in sections.items():
            if told.models is None or name in told.models.split(","):
                section = ModelSection(name=name, **parameters)
                model = build_model(section, columns, seed=0)
                print(line_of(model, batch, told.repeats, others=told.others), flush=True)


if __name__ == "__main__":
    main()
