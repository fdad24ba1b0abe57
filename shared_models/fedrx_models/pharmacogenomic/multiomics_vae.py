"""`multiomics_vae`: several omics blocks, any of them missing, in one latent space.

Each block that a patient has estimates the patient's place there, with a precision. The estimates
and the standard normal prior are multiplied (product of experts: Wu, Goodman 2018,
arXiv:1802.05335), so a missing block adds nothing and the others count as before. The latent space
is trained to reconstruct the blocks (Kingma, Welling 2014) and to predict the study's outcome.

The latent noise of the training loss is a sign for each dimension, keyed by the patient's own
values. It has mean 0, variance 1 and no random state, so a resumed run repeats itself and no
patient's loss depends on another patient.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from fedrx_common.errors import StudyError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import (
    block_columns,
    column_names,
    columns_by_feature,
    flat_inputs,
    flat_width,
    outcome_count,
)
from fedrx_models.contract import UNDER_NOISE, AnyPrediction, Floats, PatientModel
from fedrx_models.heads import OutcomeHead
from fedrx_models.layers import drawn_linear, zero_linear
from fedrx_models.pharmacogenomic.linear import HuberDelta
from fedrx_protocol.study.schema import FeatureSchema

_LOG_VARIANCE_RANGE = 6.0
_FIRST_LOG_PRECISION = 4.0
_LARGEST_VALUE = 10.0  # normalised; a larger value says no more about a patient's place
_HASH_STEPS = 64  # of a normalised value, for the sign that stands for the latent noise
_HASH_MODULUS = 2_147_483_647


class MultiomicsVaeConfig(BaseModel):
    """Hyper-parameters of `multiomics_vae`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    latent: int = Field(default=32, ge=1, le=512, description="dimensions of the latent space")
    hidden: int = Field(default=128, ge=1, le=4096, description="width inside each block's coders")
    head_hidden: int = Field(default=128, ge=1, le=4096, description="width before the outcome")
    # Where patients are clipped, every other loss takes its share of the norm; see
    # `output_gradient_norms`.
    reconstruction: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="weight of giving the blocks back; 0 where noise is added",
        json_schema_extra={UNDER_NOISE: 0.0},
    )
    kl: float = Field(
        default=0.01,
        ge=0,
        le=10,
        description="weight of the pull to the prior, per dimension; 0 where noise is added",
        json_schema_extra={UNDER_NOISE: 0.0},
    )
    linear_path: bool = Field(
        default=True, description="add a linear model of the same inputs to the outcome"
    )
    huber_delta: HuberDelta = 1.0


class _Coder(nn.Module):
    """A linear path and two layers beside it that start at zero, `(B, inputs) -> (B, outputs)`.

    The linear paths alone form an autoencoder that can span what PCA spans.
    """

    def __init__(
        self, inputs: int, hidden: int, straight: nn.Linear, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.straight = straight
        self.first = drawn_linear(inputs, hidden, generator, 2**0.5)
        self.second = zero_linear(hidden, straight.out_features)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        curved = self.second(nn.functional.gelu(self.first(values)))
        output: torch.Tensor = self.straight(values) + curved
        return output


class MultiomicsVae(PatientModel):
    """The blocks' coders, the latent space between them, and the outcome's head."""

    def __init__(
        self, config: MultiomicsVaeConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.name, self.config, self.schema = "multiomics_vae", config, schema
        self.settings = config
        self.places = list(block_columns(schema).values())
        sizes = [place.stop - place.start for place in self.places]
        latent, columns = config.latent, len(column_names(schema))
        # From each block to a mean and a log-precision for each dimension. Encoders start at zero:
        # drawn weights would stay as they are where no training patient has values, and add noise
        # to the place of every new one. They start precise, so that the latent noise does not hide
        # what the blocks say.
        self.encoders = nn.ModuleList()
        for size in sizes:
            straight = zero_linear(size, 2 * latent)
            with torch.no_grad():
                straight.bias[latent:] = _FIRST_LOG_PRECISION
            self.encoders.append(_Coder(size, config.hidden, straight, generator))
        # From a place in the latent space back to each block.
        self.decoders = nn.ModuleList()
        for size in sizes:
            straight = drawn_linear(latent, size, generator)
            self.decoders.append(_Coder(latent, config.hidden, straight, generator))
        outputs = outcome_count(schema.target)
        self.hidden = drawn_linear(latent + columns, config.head_hidden, generator, 2**0.5)
        self.out = zero_linear(config.head_hidden, outputs)
        self.linear = zero_linear(flat_width(schema), outputs) if config.linear_path else None
        self.head = OutcomeHead(schema.target, config.huber_delta)

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Compute the outcome's loss plus the latent space's, `(B,)`."""
        mean, log_variance = self._posterior(batch)
        noisy = mean + torch.exp(0.5 * log_variance) * _signs(batch.omics, self.settings.latent)
        losses: torch.Tensor = self.head(self._outputs(batch, mean), batch)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        errors = []  # of each block: the mean square over genes
        for place, decoder in zip(self.places, self.decoders, strict=True):
            values = batch.omics[:, place].clamp(-_LARGEST_VALUE, _LARGEST_VALUE)
            errors.append((decoder(noisy) - values).square().mean(dim=1))
        each = torch.stack(errors, dim=1) * batch.omics_observed
        unlike = each.sum(dim=1) / batch.omics_observed.sum(dim=1).clamp(min=1.0)
        return losses + self.settings.reconstruction * unlike + self.settings.kl * divergence

    def output_gradient_norms(
        self, outputs: torch.Tensor, batch: PatientBatch
    ) -> torch.Tensor | None:
        """Return `None` where the reconstruction or the prior has a gradient too."""
        alone = self.settings.reconstruction == 0 and self.settings.kl == 0
        return super().output_gradient_norms(outputs, batch) if alone else None

    def predict(self, batch: PatientBatch) -> AnyPrediction:
        """Predict in the target's kind and unit, from the mean of each patient's posterior."""
        with torch.no_grad():
            return self.head.predict(self.outputs(batch))

    def outputs(self, batch: PatientBatch) -> torch.Tensor:
        """Compute what the head reads, from the mean of each patient's posterior, `(B, K)`."""
        return self._outputs(batch, self._posterior(batch)[0])

    def latent(self, batch: PatientBatch) -> Floats:
        """Compute each patient's place in the latent space, `(B, latent)`, for a site's own plots.

        Places are patients' data: they stay at the site.
        """
        with torch.no_grad():
            found: Floats = self._posterior(batch)[0].cpu().double().numpy()
        return found

    @property
    def explainable_inputs(self) -> dict[str, tuple[int, ...]]:
        """Every feature of the schema."""
        return columns_by_feature(self.schema)

    def _posterior(self, batch: PatientBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute mean and log-variance, `(B, latent)`: the prior times each block's estimate."""
        precision = batch.omics.new_ones(batch.omics.shape[0], self.settings.latent)
        weighted = torch.zeros_like(precision)
        for i, (place, encoder) in enumerate(zip(self.places, self.encoders, strict=True)):
            values = batch.omics[:, place].clamp(-_LARGEST_VALUE, _LARGEST_VALUE)
            mean, log_precision = encoder(values).chunk(2, dim=1)
            bound = _LOG_VARIANCE_RANGE
            certain = (bound * torch.tanh(log_precision / bound)).exp()
            certain = batch.omics_observed[:, i : i + 1] * certain
            precision = precision + certain
            weighted = weighted + certain * mean
        return weighted / precision, -precision.log()

    def _outputs(self, batch: PatientBatch, latent: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.hidden(torch.cat([latent, batch.x], dim=1)))
        output: torch.Tensor = self.out(hidden)
        return output if self.linear is None else output + self.linear(flat_inputs(batch))


def build_multiomics_vae(
    config: MultiomicsVaeConfig, schema: FeatureSchema, generator: torch.Generator
) -> MultiomicsVae:
    """Build the model; its outcome starts at the study's public reference.

    Raises:
        StudyError: if the study has no block.
    """
    if not schema.blocks:
        raise StudyError("model 'multiomics_vae' needs at least one [[blocks]] in the study.")
    return MultiomicsVae(config, schema, generator)


def _signs(values: torch.Tensor, dimensions: int) -> torch.Tensor:
    """Compute -1 or 1 for each patient and dimension, `(B, dimensions)`, from the patient's values.

    The numbers are whole, so the order of a sum, and with it batch and device, changes nothing.
    """
    steps = (values.clamp(-_LARGEST_VALUE, _LARGEST_VALUE) * _HASH_STEPS).round().long()
    places = torch.arange(1, values.shape[1] + 1, device=values.device)
    keys = (steps * (places * 40_503 % 65_521)).sum(dim=1, keepdim=True) % _HASH_MODULUS
    which = torch.arange(1, dimensions + 1, device=values.device) * 1_103_515_245 % _HASH_MODULUS
    mixed = (keys % 46_337 + 1) * which % _HASH_MODULUS + keys
    return 1.0 - 2.0 * ((mixed >> 7) & 1).to(values.dtype)
