"""The consortium's private summary, which a site may hold its own columns against.

A small JSON file:

    {"format": "fedrx/1 reference", "study": "<digest of the study>", "patients": 5410,
     "columns": {"weight_kg": {"mean": 77.1, "scale": 21.4},
                 "vkorc1": {"shares": {"G/G": 0.38, "A/G": 0.36, "A/A": 0.26}}}}

Means and scales are in the study's units, of a marker with transform "log" of the logarithm. What
the consortium measured with differential privacy is public to its sites; so nothing here is secret.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrx_common.documents import DocumentInvalid, read_json
from fedrx_common.errors import DataError
from fedrx_common.text import escaped
from fedrx_protocol.study.study import Study

LARGEST_BYTES = 10_000_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ColumnReference(_Part):
    """What the consortium measured of one column; numbers have the first two, codes the third."""

    mean: float | None = None
    scale: float | None = Field(default=None, gt=0)
    shares: dict[str, float] = Field(default={})


class ConsortiumSummary(_Part):
    """A whole summary. Read it with `ConsortiumSummary.load`."""

    format: Literal["fedrx/1 reference"]
    study: str = Field(pattern=r"^[0-9a-f]{64}$")
    patients: int | None = Field(default=None, ge=1)
    columns: dict[str, ColumnReference]

    @classmethod
    def load(cls, path: Path, study: Study) -> "ConsortiumSummary":
        """Read a summary of this study.

        Raises:
            DataError: it is missing, too large, not a summary, or of another study.
        """
        try:
            if path.stat().st_size > LARGEST_BYTES:
                raise DataError(f"{path}: is too large for a consortium's summary.")
            found = cls.model_validate(read_json(path.read_bytes()))
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such summary.") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
        except DocumentInvalid as error:
            raise DataError(f"{path}: {error}.") from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(escaped(str(part)[:60]) for part in first["loc"]) or "it"
            raise DataError(
                f"{path}: is not a consortium's summary: '{key}': {first['msg'].lower()}."
            ) from None
        if found.study != study.digest:
            raise DataError(
                f"{path}: is the summary of study {found.study[:12]}, not of '{study.name}' "
                f"({study.digest[:12]}): ask the coordinator for the right one."
            )
        return found
