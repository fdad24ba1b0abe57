"""A site's patients in a finished model's latent space, for the site's own plots.

The table is patients' data, one line each: it is written for the site's owner alone and is in no
privacy account, so nothing in here makes a message.
"""

import csv
import io
from pathlib import Path

from fedrx_common.errors import MisuseError
from fedrx_common.files import FolderExists, write_private
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import PatientModel
from fedrx_models.pharmacogenomic.multiomics_vae import MultiomicsVae


def write_latent(path: Path, cohort: Cohort, model: PatientModel) -> int:
    """Write a CSV table: the patient's id, whether each block was there, and the latent place.

    Args:
        path: the table; it must not be there yet.
        cohort: the site's patients.
        model: the finished federated model.

    Returns:
        How many dimensions the latent space has.

    Raises:
        MisuseError: the model has no latent space, or there is no such folder.
        FolderExists: the file is there already.
    """
    if not isinstance(model, MultiomicsVae):
        raise MisuseError(
            f"model '{model.name}' has no latent space: only 'multiomics_vae' has one."
        )
    if path.exists():
        raise FolderExists(f"{path} is there already: name another file.")
    if not path.parent.is_dir():
        raise MisuseError(f"{path.parent} is no folder: make it, or name another file.")
    batch = encode(cohort, cohort.schema)
    places, observed = model.latent(batch), batch.omics_observed.bool().tolist()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    blocks = [f"has_{block.name}" for block in cohort.schema.blocks]
    table.writerow(["patient", *blocks, *(f"latent_{i + 1}" for i in range(places.shape[1]))])
    for patient, there, place in zip(cohort.patients, observed, places, strict=True):
        table.writerow([patient, *(int(one) for one in there), *(f"{v:.6g}" for v in place)])
    write_private(path, text.getvalue().encode())
    return int(places.shape[1])
