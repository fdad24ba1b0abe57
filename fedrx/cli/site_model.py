"""`fedrx site personalise` and `fedrx site embed`: a finished model at this hospital."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedrx.views.terminal import say

_NAMES = {
    "federated": "federated model",
    "personalised": "with this site's private head",
    "site_alone": "this site alone",
}


def personalise(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    model: Annotated[Path, typer.Argument(help="The finished study's model.safetensors.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a private head to this site's own patients; it is kept here and never sent anywhere."""
    from fedrx_client.approvals.study_files import StudyFiles
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_client.participation.personalise import personalise_here
    from fedrx_client.participation.site_source import SiteSource
    from fedrx_models.files import load_model
    from fedrx_models.metrics.registry import measures_of

    identity, found = SiteIdentity(folder), load_model(model)
    kept = StudyFiles(folder).load(found.study_digest)
    schema = kept.study.feature_schema
    way = SiteSource(folder, identity.site, kept.study, kept.mapping, kept.source)
    cohort = way.read().cohort
    result = personalise_here(folder, kept, cohort, found.model)
    if as_json:
        sys.stdout.write(json.dumps({**asdict(result), "head": str(result.head)}) + "\n")
        return
    say(f"On this site's {result.held_out} held-out patients, exact, for your eyes only:")
    for key, metrics in result.metrics.items():
        values = [
            f"{measure.label} {metrics[measure.key]:.{measure.digits}f}"
            for measure in measures_of(schema.target)
            if measure.key in metrics
        ]
        say(f"  {_NAMES[key]}: {', '.join(values) or 'they allow no judgement'}")
    say(f"Kept in {result.head}; it has no noise, so it must not leave this site.")


def embed(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    model: Annotated[Path, typer.Argument(help="The finished study's model.safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write (CSV).")],
    *,
    ids: Annotated[
        bool, typer.Option("--ids", help="Write the hospital's own ids, not pseudonyms.")
    ] = False,
) -> None:
    """Write each patient's place in the latent space, for this site's own plots."""
    from functools import partial

    from fedrx_client.approvals.study_files import StudyFiles
    from fedrx_client.data.load import load_cohort
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_client.participation.personalise import write_latent
    from fedrx_client.participation.settings import pseudonym_key
    from fedrx_client.participation.site_source import SiteSource
    from fedrx_models.files import load_model

    identity, found = SiteIdentity(folder), load_model(model)
    kept = StudyFiles(folder).load(found.study_digest)
    way = SiteSource(folder, identity.site, kept.study, kept.mapping, kept.source)
    if ids:
        schema = kept.study.feature_schema
        cohort = load_cohort(kept.source, kept.mapping, schema, site=identity.site).cohort
    else:
        cohort = way.read().cohort
    # What a server gave has pseudonyms already.
    key = None if ids or way.is_kept else partial(pseudonym_key, folder)
    dimensions = write_latent(output, cohort, found.model, key)
    say(
        f"{output}: {len(cohort)} patients in {dimensions} dimensions. These are patients' data "
        "without noise: they must not leave this site."
    )


def register(app: typer.Typer) -> None:
    """Add these commands to `fedrx site`."""
    model = "charite model.safetensors"
    app.command(epilog=f"Example: fedrx site personalise {model}")(personalise)
    app.command(epilog=f"Example: fedrx site embed {model} --output latent.csv")(embed)
