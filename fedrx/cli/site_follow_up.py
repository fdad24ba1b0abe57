"""`fedrx site follow-up`: what came back compared with what was predicted."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError


def register(app: typer.Typer) -> None:
    """Add this command to `fedrx site`."""
    app.command(
        "follow-up",
        epilog="Example: fedrx site follow-up charite --source doses.csv --mapping mapping.toml",
    )(follow_up)


def follow_up(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    *,
    source: Annotated[
        str, typer.Option("--source", "--data", help="Patients whose outcome is known now.")
    ],
    mapping: Annotated[Path, typer.Option(help="How the source becomes features (TOML).")],
    model: Annotated[
        Path | None, typer.Option(help="One model; those of FOLDER/services.toml if left out.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page (HTML) to this new file.")] = None,
    false_alarm: Annotated[
        float, typer.Option(help="Chance that an alarm ever rings while the model is right.")
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare kept predictions with outcomes; exit code 1 if coverage fell beyond chance."""
    from fedrx_client.clinic.follow_up import Followed, models_served, to_json
    from fedrx_client.clinic.follow_up import follow_up as compare
    from fedrx_client.clinic.follow_up_page import follow_up_page
    from fedrx_client.clinic.service.services_file import SERVICES
    from fedrx_client.data.load import load_cohort
    from fedrx_client.data.mapping import TableMapping
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_client.participation.settings import pseudonym_key
    from fedrx_client.records.follow_up import FollowUpStore
    from fedrx_common.files import write_file
    from fedrx_models.files import load_model

    site = SiteIdentity(folder).site
    if page is not None and page.exists():
        raise MisuseError(f"{page}: is already there; name a new file, or remove it.")
    kept = FollowUpStore(folder).all()
    wanted = models_served(folder / SERVICES) if model is None else (load_model(model),)
    asked = {one.model for one in kept}
    files = [one for one in wanted if one.digest in asked]
    if not files:
        raise MisuseError(
            f"{folder}: no prediction of {'these models' if model is None else model} is kept; set "
            "follow_up = true in services.toml, and serve."
        )
    described, key = TableMapping.load(mapping), pseudonym_key(folder)
    found: list[Followed] = []
    listed: list[dict[str, Any]] = []
    for one in files:
        cohort = load_cohort(source, described, one.model.schema, site=site).cohort
        came_back = compare(one, kept, cohort, key, false_alarm)
        found += came_back
        listed += to_json(came_back, one)
    if page is not None:
        write_file(page, follow_up_page(site, found).encode())
    if as_json:
        sys.stdout.write(json.dumps({"followed": listed}, ensure_ascii=False) + "\n")
    else:
        from fedrx.views.follow_up import show

        show(found)
    alarms = [one.alarm for one in found if one.alarm]
    for alarm in alarms:
        say(f"Alarm: {alarm}", err=True)
    if alarms:
        raise typer.Exit(1)
