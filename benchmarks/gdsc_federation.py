"""Training on the cell lines as their tissues would train together, for `gdsc.py`.

Sites add their patients' gradients, and a patient's gradient does not depend on the site. So the
sum over 27 sites is the sum over all patients, which takes a fraction of the time: that both are
equal is checked in the first step of every training. The transport and the masks change a sum by
its rounding only, and are left out.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from gdsc_data import Floats

from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.contract import PatientModel, get_vector, set_vector
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, OptimizerSection
from fedrx_server.rounds.optimizer import ServerOptimizer

FOLDS = 5
CLIPPING_NORM = 0.1
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        parameters: of the model.
        rate: Adam's.
        rounds: the numbers of rounds to choose from, inside each fold; one needs no choice.
        private: parameters that replace some where there is noise, which grows with every weight.
        private_rate: Adam's, where there is noise.
        blocks: what it reads of a line.
    """

    parameters: dict[str, object]
    rate: float
    rounds: tuple[int, ...]
    private: dict[str, object] = field(default_factory=dict)
    private_rate: float = 1e-3
    blocks: tuple[str, ...] = ("expression",)


SQUARED = {"huber_delta": 3.0}
RECIPES = {
    "linear": Recipe(SQUARED, 3e-4, (40, 60, 80)),
    "mlp": Recipe(
        {"hidden": [1024], **SQUARED},
        3e-4,
        (30, 40, 50),
        private={"hidden": [8], "linear_path": False},
        private_rate=1e-2,
    ),
    "genomic_cnn": Recipe(
        {"gene_tokens": 64, "channels": 8, "hidden": 512, **SQUARED},
        3e-4,
        (20, 30, 40),
        private={"gene_tokens": 16, "channels": 4, "layers": 1, "hidden": 8, "linear_path": False},
        private_rate=1e-2,
    ),
    "genomic_transformer": Recipe(
        {"gene_tokens": 48, "size": 32, **SQUARED},
        5e-4,
        (20, 30, 40),
        private={
            "gene_tokens": 8,
            "size": 8,
            "heads": 2,
            "layers": 1,
            "feed_forward": 16,
            "hidden": 8,
            "linear_path": False,
        },
        private_rate=1e-2,
    ),
    "drug_gene_gnn": Recipe(
        {"size": 4, "hidden": 256, **SQUARED},
        5e-4,
        (20, 30, 40),
        private={"size": 2, "hidden": 8, "linear_path": False},
        private_rate=1e-2,
        blocks=("expression", "copy_number"),
    ),
    "multiomics_vae": Recipe(
        {"latent": 48, "hidden": 256, "head_hidden": 512, **SQUARED},
        5e-4,
        (20, 30, 40),
        # At weight 1 giving the blocks back is 15 times the outcome's gradient; clipping cuts both.
        private={
            "latent": 4,
            "hidden": 2,
            "head_hidden": 8,
            "reconstruction": 0.0,
            "kl": 0.0,
            "linear_path": False,
        },
        private_rate=1e-2,
        blocks=("expression", "copy_number", "mutation", "methylation"),
    ),
}


def correlations(predicted: Floats, response: Floats) -> Floats:
    """Per-drug correlation over lines, `(drugs,)`."""
    found = []
    for mine, true in zip(predicted.T, response.T, strict=True):
        known = np.isfinite(true) & np.isfinite(mine)
        found.append(np.corrcoef(mine[known], true[known])[0, 1])
    return np.array(found)


def folds(count: int, seed: int) -> Floats:
    """A fold for each of `count`, `(count,)`."""
    order = np.random.default_rng(seed).permutation(count)
    fold = np.empty(count, dtype=np.int64)
    fold[order] = np.arange(count) % FOLDS
    return fold


@dataclass(frozen=True)
class Federation:
    """Sites' training patients, and how their steps are taken.

    Attributes:
        sites: each site's training patients.
        noise_multiplier: 0 for no privacy, else of the whole sum.
        seed: of the noise.
    """

    sites: list[PatientBatch]
    noise_multiplier: float = 0.0
    seed: int = 0

    @cached_property
    def everybody(self) -> PatientBatch:
        """All sites' patients in a row."""
        names = [f.name for f in dataclasses.fields(PatientBatch)]
        return PatientBatch(
            **{name: torch.cat([getattr(site, name) for site in self.sites]) for name in names}
        )

    def train(
        self,
        model: PatientModel,
        rate: float,
        rounds: int,
        watch: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Full-batch steps of the coordinator's Adam on the sum over sites."""
        self.check(model)
        settings = OptimizerSection(name="adam", learning_rate=rate, momentum=0.9, decay="linear")
        optimizer = ServerOptimizer(settings, get_vector(model), rounds)
        rng = np.random.default_rng(self.seed)
        for round_ in range(1, rounds + 1):
            total = self._part(model, self.everybody)
            if self.noise_multiplier:
                spread = self.noise_multiplier * CLIPPING_NORM
                total = total + rng.normal(0.0, spread, total.shape)
            optimizer.step(total / len(self.everybody), round_)
            set_vector(model, optimizer.weights)
            watch(round_)

    def check(self, model: PatientModel) -> None:
        """Hold the sum of the sites' parts against that of all patients; exits if they differ."""
        total = self._part(model, self.everybody)
        parts = np.sum([self._part(model, site) for site in self.sites], axis=0)
        if np.linalg.norm(total - parts) > _ROUNDING * np.linalg.norm(total):
            raise SystemExit("the sites' sums do not add up to the sum over all patients")

    def _part(self, model: PatientModel, patients: PatientBatch) -> Floats:
        """What these patients add to a step."""
        if self.noise_multiplier:
            return clipped_gradient_sum(model, patients, CLIPPING_NORM).vector
        return gradient_sum(model, patients)


def by_site(batch: PatientBatch, tissues: Floats, chosen: Floats) -> list[PatientBatch]:
    """The chosen lines `(lines,)` of every tissue that has some."""
    groups = [np.flatnonzero(chosen & (tissues == tissue)) for tissue in sorted(set(tissues))]
    return [batch.select(torch.from_numpy(group)) for group in groups if len(group)]


def model_of(name: str, schema: FeatureSchema, seed: int, **more: object) -> PatientModel:
    """The model of a recipe, with other parameters where they are given."""
    section = ModelSection(name=name, **{**RECIPES[name].parameters, **more})
    return build_model(section, schema, seed=seed)
