"""The report: one HTML file that opens anywhere, offline, for a hospital board and a coordinator.

What it shows is in `data`, its sentences in `text` and `promise`, its plots in `figures` and
`forecast_figures`, its page in `page` and `templates/`.
"""

from pathlib import Path

from fedrx_common.errors import RunError
from fedrx_common.files import write_file
from fedrx_server.report.data import (
    DoseGroups,
    EpsilonCurve,
    GroupErrors,
    LearningCurve,
    Predictions,
    PrivacyStatement,
    ReportData,
    ResultRow,
    RunCost,
)
from fedrx_server.report.page import page

__all__ = [
    "DoseGroups",
    "EpsilonCurve",
    "GroupErrors",
    "LearningCurve",
    "Predictions",
    "PrivacyStatement",
    "ReportData",
    "ResultRow",
    "RunCost",
    "write_report",
]


def write_report(path: Path | str, data: ReportData) -> Path:
    """Write the report, all or nothing, and return its path.

    Raises:
        RunError: the place cannot be written.
    """
    path = Path(path)
    try:
        write_file(path, page(data).encode(), sync=False)
    except OSError as error:
        raise RunError(f"{path}: the report cannot be written ({error.strerror}).") from None
    return path
