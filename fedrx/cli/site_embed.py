"""`fedrx site embed`: where this site's patients lie in a finished model's latent space."""

from pathlib import Path
from typing import Annotated

import typer

from fedrx.views.terminal import say


def embed(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    model: Annotated[Path, typer.Argument(help="The finished study's model.safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write (CSV).")],
) -> None:
    """Write each patient's place in the latent space, for this site's own plots."""
    from fedrx_client.approvals.study_files import StudyFiles
    from fedrx_client.data.load import load_cohort
    from fedrx_client.embed import write_latent
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_models.files import load_model

    identity, found = SiteIdentity(folder), load_model(model)
    kept = StudyFiles(folder).load(found.study_digest)
    schema = kept.study.feature_schema
    cohort = load_cohort(kept.table, kept.mapping, schema, site=identity.site).cohort
    dimensions = write_latent(output, cohort, found.model)
    say(
        f"{output}: {len(cohort)} patients in {dimensions} dimensions. These are patients' data "
        "without noise: they must not leave this site."
    )


def register(app: typer.Typer) -> None:
    """Add this command to `fedrx site`."""
    example = "fedrx site embed charite model.safetensors --output latent.csv"
    app.command(epilog=f"Example: {example}")(embed)
