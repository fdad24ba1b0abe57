"""Values into HTML: the packages' own templates, every text escaped, no request to anywhere."""

from collections.abc import Mapping
from importlib import resources

import plotly.graph_objects as go
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from fedrx_common.text import escaped

_OWN = "fedrx_server.report"


def rendered(template: str, /, *packages: str, with_plots: bool, **values: object) -> str:
    """The document that a template makes of values.

    Templates are read from packages before any value is seen, so no value can name a file.

    Args:
        template: the template's file name.
        packages: those with templates beside the report's own.
        with_plots: whether the page draws plots, and so needs Plotly's program.
        values: what the template shows; every text in them is foreign.
    """
    folders = [resources.files(package).joinpath("templates") for package in (_OWN, *packages)]
    files = [file for one in folders for file in one.iterdir() if file.name.endswith(".html")]
    sources = {file.name: file.read_text("utf-8") for file in files}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = resources.files(_OWN).joinpath("report.css").read_text("utf-8")
    plotly = get_plotlyjs() if with_plots else ""
    return environment.get_template(template).render(
        # Neither is foreign: one file is ours, the other one is Plotly's.
        style=Markup(style),  # noqa: S704
        plotly=Markup(plotly),  # noqa: S704
        **values,
    )


def _visible(value: object) -> object:
    """Write out what would not show in a text; the template then escapes it as HTML.

    Jinja passes the value of every expression through here. Markup is escaped already.
    """
    return value if isinstance(value, Markup) else escaped(str(value))


def drawn(figure: go.Figure, options: Mapping[str, object]) -> Markup:
    """A plot as HTML, of which every label is escaped already.

    Args:
        figure: the plot.
        options: Plotly's own.
    """
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=dict(options))
    return Markup(html)  # noqa: S704 - Plotly wrote it
