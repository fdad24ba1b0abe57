"""What came back, as an HTML page for the site alone: all text escaped, no script, no request."""

from collections.abc import Sequence
from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from fedrx_client.clinic.follow_up import Followed
from fedrx_client.clinic.predict import DECIDES
from fedrx_common.text import escaped

_TEMPLATE = "follow_up.html"


def follow_up_page(site: str, found: Sequence[Followed]) -> str:
    """Write the whole document.

    Args:
        site: its name.
        found: what came back; every text in it is foreign.
    """
    template = resources.files("fedrx_client.clinic").joinpath("templates", _TEMPLATE)
    style = resources.files("fedrx_client.data.quality").joinpath("templates", "quality.css")
    environment = Environment(
        loader=DictLoader({_TEMPLATE: template.read_text("utf-8")}),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(_TEMPLATE).render(
        style=Markup(style.read_text("utf-8")),  # noqa: S704 - a file of ours
        site=site,
        found=found,
        decides=DECIDES,
        number=_number,
        percent=_percent,
        spread=_spread,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _spread(calibration: Sequence[tuple[float, float, int]]) -> tuple[float, float]:
    """Where the axes of a calibration chart begin, and how long they are."""
    values = [value for predicted, actual, _ in calibration for value in (predicted, actual)]
    least = min(values, default=0.0)
    return least, (max(values, default=1.0) - least) or 1.0


def _visible(value: object) -> object:
    """Write out what would not show in a text; the template then escapes it as HTML."""
    return value if isinstance(value, Markup) else escaped(str(value))
