"""A site's private head: fitted to its own patients, judged on its own, kept in its own folder.

Nothing here makes a message. The results are exact and carry no noise, so they are for the
hospital's own eyes and must not leave it.
"""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedrx_client.approvals.study_files import KeptStudy
from fedrx_client.data.privacy.deidentify import pseudonym
from fedrx_client.participation.settings import split_salt
from fedrx_common.errors import DataError, MisuseError
from fedrx_common.files import FolderUnusable, write_private
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import PatientModel
from fedrx_models.fitting import fit, predict
from fedrx_models.metrics.registry import exact_metrics
from fedrx_models.personal import personalise, private_head_bytes
from fedrx_models.pharmacogenomic.multiomics_vae import MultiomicsVae
from fedrx_models.registry import build_model

PRIVATE_HEAD = "private-head.safetensors"
_SEED = 0  # of start weights and of the patients set aside for early stopping; no secret is needed


@dataclass(frozen=True)
class PersonalResult:
    """What personalising changed for a site's own held-out patients.

    Attributes:
        training: patients that the private head was fitted to.
        held_out: patients that all were judged on; no model here has seen them.
        metrics: exact metrics of `federated`, `personalised` and `site_alone`; empty where the
            held-out patients allow no judgement, e.g. all have the same outcome.
        head: where the private head is kept.
    """

    training: int
    held_out: int
    metrics: Mapping[str, Mapping[str, float]]
    head: Path


def personalise_here(
    folder: Path, kept: KeptStudy, cohort: Cohort, model: PatientModel
) -> PersonalResult:
    """Fit, judge and keep a private head.

    The patients are split as they were in training, so that those held out are new to the
    federated model too.

    Args:
        folder: the site's folder.
        kept: the study, which this site approved.
        cohort: the site's patients.
        model: the finished federated model.

    Raises:
        DataError: all patients are held out, or none is.
    """
    study = kept.study
    salt = split_salt(folder, study.digest)
    training, held_out = cohort.split(study.cohort.held_out, salt)
    if not len(training) or not len(held_out):
        raise DataError(
            f"site '{cohort.site}' has {len(training)} patients to fit a private head to and "
            f"{len(held_out)} to judge it on: bring more patients."
        )
    personal = personalise(model, encode(training, study.feature_schema))
    path = folder / "studies" / study.digest / PRIVATE_HEAD
    write_private(path, private_head_bytes(personal))
    alone = build_model(study.model, study.feature_schema, seed=_SEED)
    models = {
        "federated": model,
        "personalised": personal,
        "site_alone": fit(alone, training, _SEED),
    }
    metrics: dict[str, Mapping[str, float]] = {}
    for name, one in models.items():
        try:
            predicted = predict(one, held_out)
            metrics[name] = exact_metrics(cohort.schema.target, predicted, held_out.target).flat()
        except DataError:
            metrics[name] = {}
    return PersonalResult(len(training), len(held_out), metrics, path)


def write_latent(
    path: Path,
    cohort: Cohort,
    model: PatientModel,
    key: Callable[[], bytes] | None = None,
) -> int:
    """Write a CSV table: the patient, whether each block was there, and the latent place.

    Args:
        path: the table; it must not be there yet.
        cohort: the site's patients.
        model: the finished federated model.
        key: gives the site's key of pseudonyms; without it, the hospital's ids are written.

    Returns:
        How many dimensions the latent space has.

    Raises:
        MisuseError: the model has no latent space, or the folder is missing.
        FolderUnusable: the file is there already.
    """
    if not isinstance(model, MultiomicsVae):
        raise MisuseError(
            f"model '{model.name}' has no latent space: only 'multiomics_vae' has one."
        )
    if path.exists():
        raise FolderUnusable(f"{path} is there already: name another file.")
    if not path.parent.is_dir():
        raise MisuseError(f"{path.parent} is no folder: make it, or name another file.")
    batch = encode(cohort, cohort.schema)
    places, observed = model.latent(batch), batch.omics_observed.bool().tolist()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    blocks = [f"has_{block.name}" for block in cohort.schema.blocks]
    table.writerow(["patient", *blocks, *(f"latent_{i + 1}" for i in range(places.shape[1]))])
    names = cohort.patients
    if key is not None:
        secret = key()
        names = tuple(pseudonym(patient, secret) for patient in names)
    for patient, there, place in zip(names, observed, places, strict=True):
        table.writerow([patient, *(int(one) for one in there), *(f"{v:.6g}" for v in place)])
    write_private(path, text.getvalue().encode())
    return int(places.shape[1])
