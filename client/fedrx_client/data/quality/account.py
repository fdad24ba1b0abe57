"""The account of what reading did to a table; a site reads it before it takes part."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class DataQuality:
    """Counts only; they still stay at the site, as small counts can point at patients.

    Attributes:
        source: the file's name.
        rows_read: rows in the file.
        rows_kept: rows that became patients.
        dropped: by reason, rows that did not; each row counts for the first reason that applies.
        missing: by feature, kept patients without a value, after imputation.
        imputed: by "feature by rule", values that a rule filled in.
        unknown: by feature, values that were not understood and count as missing, because the
            mapping says so.
        strangers: by a block's file, rows of patients who are not in the table.
        absent: features, blocks and markers that the site does not have, as the mapping says.
        notes: sentences on what a person should look at.
    """

    source: str
    rows_read: int
    rows_kept: int
    dropped: Mapping[str, int]
    missing: Mapping[str, int]
    imputed: Mapping[str, int]
    unknown: Mapping[str, int]
    strangers: Mapping[str, int] = field(default_factory=dict)
    absent: Sequence[str] = ()
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Write a few lines for a person."""
        lines = [f"{self.source}: {self.rows_read:,} rows read, {self.rows_kept:,} kept."]
        lines += _line("Dropped", self.dropped)
        lines += _line("Missing", self.missing, self.rows_kept)
        lines += _line("Imputed", self.imputed)
        lines += _line("Not understood, taken as missing", self.unknown)
        lines += _line(f"Rows of patients who are not in {self.source}", self.strangers)
        if self.absent:
            lines.append(f"Not at this site, as the mapping says: {', '.join(self.absent)}.")
        return "\n".join((*lines, *self.notes))


def _line(title: str, counts: Mapping[str, int], total: int | None = None) -> list[str]:
    """Write one line, or none where all counts are 0."""
    parts = [
        f"{name} {count:,}" + (f" ({100 * count / total:.1f} %)" if total else "")
        for name, count in counts.items()
        if count
    ]
    return [f"{title}: {', '.join(parts)}."] if parts else []
