"""What every flux model reads at a visit: the newest values, and fading means of all before it.

Nothing here is trained, and nothing at a visit depends on a later one or on another patient. Most
of what can be known of a marker's next value is in how its newest value differs from its recent
means, whatever the gaps between visits; a network that is handed these need not learn to average.
"""

import dataclasses

import torch
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import column_names
from fedrx_models.cohort.visits import VisitColumns, forecast_target
from fedrx_protocol.study.schema import FeatureSchema

MOST_MEMORIES = 4
_AT_ONCE = 256  # patients whose summaries are computed together
_LARGEST = 8.0  # normalised; what is further out is a rare value, and would drown all others
_FOREVER = 1e6  # in units of the longest horizon: a plain mean of the episode so far
_COUNT_SCALE = 2.0  # brings the logarithm of a count near 1
FAINTEST = 1e-6
"""A mean that so little remembers says nothing: it is the newest value."""


class VisitSummaries(nn.Module):
    """`PatientBatch -> (B, T, width)`, 0 at rows after a patient's last visit.

    At each visit: its place in time; static features; treatments and their fading means; for each
    marker the newest value, its age, whether there is one, and for each memory how far the fading
    mean lies from the newest value, and how much was measured. A memory of length tau weighs a
    value of age a by exp(-a / tau); there is one of half of each horizon, and one of the whole
    episode.

    Args:
        schema: a forecast.

    Attributes:
        width: values of a visit.
        marker_width: values of one marker, see `by_marker`.
        shared_width: values that belong to no marker, see `shared`.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        self.columns = VisitColumns.of(schema)
        times = [horizon.at for horizon in forecast_target(schema).horizons]
        self.short, self.long = times[0], times[-1]
        self.memories = (*(t / 2 for t in times[-MOST_MEMORIES:]), self.long * _FOREVER)
        memories = len(self.memories)
        self.marker_width = 4 + 2 * memories
        self.shared_width = 4 + len(column_names(schema)) + self.columns.treatments * (1 + memories)
        self.width = self.shared_width + self.columns.markers * self.marker_width

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """All of it side by side: what is shared, then marker by marker."""
        if batch.summaries.shape[2]:
            return batch.summaries
        shared, markers = self._computed(batch)
        return torch.cat([shared, markers.flatten(2)], dim=2)

    def parts(self, batch: PatientBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Shared `(B, T, shared_width)`, and by marker `(B, T, M, marker_width)`."""
        if not batch.summaries.shape[2]:
            return self._computed(batch)
        shared = batch.summaries[:, :, : self.shared_width]
        markers = batch.summaries[:, :, self.shared_width :]
        return shared, markers.reshape(*shared.shape[:2], self.columns.markers, self.marker_width)

    def prepared(self, batch: PatientBatch) -> PatientBatch:
        """The batch with these summaries in it, computed for a few patients at a time.

        Each patient's follow from that patient's visits alone. A pass has a fixed number of rows,
        the last one filled up, so that one patient more or less changes no other's last digit.
        """
        count = len(batch)
        if not count:
            return batch
        rows = torch.arange(-(-count // _AT_ONCE) * _AT_ONCE, device=batch.x.device)
        starts = range(0, len(rows), _AT_ONCE)
        rows = rows.clamp(max=count - 1)
        with torch.no_grad():
            found = torch.cat([self(batch.select(rows[i : i + _AT_ONCE])) for i in starts])
        return dataclasses.replace(batch, summaries=found[:count])

    def _computed(self, batch: PatientBatch) -> tuple[torch.Tensor, torch.Tensor]:
        visits, columns = batch.visits, self.columns
        valid = visits[:, :, columns.valid, None]
        known, last = visits[:, :, columns.known], _held(visits[:, :, columns.last])
        given = visits[:, :, columns.treatment]
        values = _held(visits[:, :, columns.value])
        seen = torch.cat([values, visits[:, :, columns.observed], given, valid], dim=2)
        count = columns.markers
        age = torch.log1p(visits[:, :, columns.age].clamp(min=0.0) / self.short)
        markers = [last, known, age * known, visits[:, :, columns.observed]]
        shared = [self._place(visits), batch.x[:, None].expand(-1, visits.shape[1], -1), given]
        # Which visits a visit remembers, and how old they are, is the same for all memories.
        before, ages = look_back(visits, self.columns)
        for memory in self.memories:
            sums = torch.bmm(before * torch.exp(-ages / memory), seen)
            total, weight = sums[:, :, :count], sums[:, :, count : 2 * count]
            markers.append((total / weight.clamp(min=FAINTEST) - last) * (weight > FAINTEST))
            markers.append(torch.log1p(weight) / _COUNT_SCALE)
            shared.append(sums[:, :, 2 * count : -1] / sums[:, :, -1:].clamp(min=FAINTEST))
        mask = valid.unsqueeze(3)
        return torch.cat(shared, dim=2) * valid, torch.stack(markers, dim=3) * mask

    def _place(self, visits: torch.Tensor) -> torch.Tensor:
        """The place of a visit in time, `(B, T, 4)`."""
        gap = visits[:, :, self.columns.gap].clamp(min=0.0)
        elapsed = visits[:, :, self.columns.elapsed].clamp(min=0.0)
        parts = [
            visits[:, :, self.columns.starts],
            torch.log1p(gap / self.short),
            torch.log1p(elapsed / self.short) / 2,
            torch.log1p(elapsed / self.long),
        ]
        return torch.stack(parts, dim=2)


def look_back(visits: torch.Tensor, columns: VisitColumns) -> tuple[torch.Tensor, torch.Tensor]:
    """For visit i and visit j: 1 where j is of the same episode and not later, and j's age at i.

    Both `(B, T, T)`; ages are 0 where there is nothing to look back on.
    """
    places = torch.arange(visits.shape[1], device=visits.device)
    episode = visits[:, :, columns.starts].cumsum(dim=1)
    valid = visits[:, :, columns.valid]
    elapsed = visits[:, :, columns.elapsed]
    same = (episode[:, :, None] == episode[:, None, :]) & (places[:, None] >= places[None, :])
    before = same.to(visits) * valid[:, None, :] * valid[:, :, None]
    ages = (elapsed[:, :, None] - elapsed[:, None, :]).clamp(min=0.0) * before
    return before, ages


def _held(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-_LARGEST, _LARGEST)
