"""`fedrx model responders`: whom a trial should enrol; nothing is sent or stored."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrx.cli.clinic import ModelPlace, open_model
from fedrx.cli.explain import picture_of


def register(app: typer.Typer) -> None:
    """Add this command to `fedrx model`."""
    app.command(
        epilog="Example: fedrx model responders runs/response --source site.csv --mapping m.toml"
    )(responders)


def responders(
    model: ModelPlace,
    *,
    source: Annotated[
        str, typer.Option("--source", "--data", help="Patients whose outcome is known.")
    ],
    mapping: Annotated[Path, typer.Option(help="How the source becomes features (TOML).")],
    candidates: Annotated[
        str | None,
        typer.Option(help="Patients to choose from, by the same mapping; else those of --source."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Calibrated probability from which to enrol (0.5).")
    ] = None,
    wanted: Annotated[
        float | None,
        typer.Option("--responders", help="Expected responders wanted, instead of a threshold."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw net benefit to this new file, .png or .svg.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whom a trial should enrol: probability, threshold, expected number, net benefit."""
    picture = None if figure is None else picture_of(figure)
    from fedrx.views.responders import draw_net_benefit, show
    from fedrx_client.clinic.patients import load_patients
    from fedrx_client.clinic.responders import plan_enrolment
    from fedrx_client.data.load import load_cohort
    from fedrx_client.data.mapping import TableMapping
    from fedrx_common.files import write_file

    found = open_model(model, None)
    found.require_usable()
    described, schema = TableMapping.load(mapping), found.model.schema
    known = load_cohort(source, described, schema, site="here").cohort
    some = None if candidates is None else load_patients(candidates, schema, described).cohort
    plan = plan_enrolment(found, known, some, threshold=threshold, responders=wanted)
    if figure is not None and picture is not None:
        write_file(figure, draw_net_benefit(plan, picture))
    if as_json:
        sys.stdout.write(json.dumps(plan.to_json(found), ensure_ascii=False) + "\n")
    else:
        show(plan, found)
