"""The report as one HTML page for the site alone: every text escaped, no script, no request."""

from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from fedrx_client.data.quality.findings import QualityReport
from fedrx_common.text import escaped

_TEMPLATE = "quality.html"


def page(report: QualityReport) -> str:
    """Write the whole document.

    Args:
        report: what was found; every text in it is foreign.
    """
    folder = resources.files("fedrx_client.data.quality").joinpath("templates")
    environment = Environment(
        loader=DictLoader({_TEMPLATE: folder.joinpath(_TEMPLATE).read_text("utf-8")}),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = folder.joinpath("quality.css").read_text("utf-8")
    return environment.get_template(_TEMPLATE).render(
        style=Markup(style),  # noqa: S704 - a file of ours
        report=report,
        number=_number,
    )


def _number(value: float | None) -> str:
    """Write a number with four digits that count, or a dash."""
    return "–" if value is None else f"{value:,.4g}"


def _visible(value: object) -> object:
    """Write out what would not show in a text; the template then escapes it as HTML."""
    return value if isinstance(value, Markup) else escaped(str(value))
