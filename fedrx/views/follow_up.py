"""What came back after go-live, in the terminal."""

from collections.abc import Sequence

from rich.table import Table

from fedrx.views.terminal import PlainConsole
from fedrx_client.clinic.follow_up import Followed
from fedrx_client.clinic.predict import DECIDES


def show(found: Sequence[Followed]) -> None:
    """Print one table for each outcome of each model, by month."""
    out = PlainConsole()
    for one in found:
        out.print(
            f"Model {one.model}, {one.name}: {one.patients} of {one.kept} predicted patients have "
            "an outcome."
        )
        if one.share is None or one.level is None or one.error is None or one.size is None:
            continue
        inside = "inside the interval" if one.kind == "interval" else "with the outcome"
        measure = "mean size of the error" if one.kind == "interval" else "Brier score"
        out.print(
            f"{100 * one.share:.0f} % were {inside} ({100 * one.level:.0f} % promised); outcome "
            f"minus prediction {one.error:+.3g} {one.unit}, {measure} {one.size:.3g}."
        )
        table = Table(title="By month of the prediction")
        for name in ("month", "patients", inside, "95 % interval", "outcome - prediction"):
            table.add_column(name, justify="left" if name == "month" else "right", no_wrap=True)
        for month in one.months:
            span = f"{100 * month.low:.0f} to {100 * month.high:.0f} %"
            share = f"{100 * month.share:.0f} %"
            table.add_row(month.month, str(month.patients), share, span, f"{month.error:+.3g}")
        out.print(table)
    out.print(f"Exact numbers, for this site alone. {DECIDES}")
