"""Forgetting: removes what a site kept of patients and of studies whose approval is over.

Approvals, ledger and audit log stay: they are the account of what was released, and hold no
patient. The log gets a line before anything is removed.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedrx_client.approvals.approval import DAY_S
from fedrx_client.approvals.store import Approvals, KeptApproval
from fedrx_client.approvals.study_files import StudyFiles
from fedrx_client.data.privacy.cache import CachedFile, cached, remove
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.records.audit_log import AuditEntry, existing_log
from fedrx_client.records.follow_up import FollowUpStore
from fedrx_common.errors import MisuseError, counted
from fedrx_common.files import unusable


class StillApproved(MisuseError):
    """A study whose approval is in force; without its files the site could not answer."""


@dataclass(frozen=True)
class Forgettable:
    """What may be removed.

    Attributes:
        cohorts: cached cohorts.
        studies: folders of kept studies, named by their digests.
        predictions: how many predictions are kept for follow-up, by study.
        before: unix seconds; of the predictions those made before then, or all for None.
    """

    cohorts: tuple[CachedFile, ...]
    studies: tuple[Path, ...]
    predictions: Mapping[str, int] = field(default_factory=dict)
    before: int | None = None

    def __bool__(self) -> bool:
        return bool(self.cohorts or self.studies or self.predictions)

    def text(self) -> str:
        """Say in words what it is."""
        cohorts = counted(len(self.cohorts), "cached cohort")
        found = f"{cohorts} and {counted(len(self.studies), 'study folder')}"
        kept = sum(self.predictions.values())
        return f"{found}, and {counted(kept, 'kept prediction')}" if kept else found


def of_study(folder: Path, study: str, now: int) -> Forgettable:
    """Find all that is kept of one study.

    Args:
        folder: the site's folder.
        study: the study's digest.
        now: unix seconds.

    Raises:
        StillApproved: its approval is in force.
    """
    for kept in Approvals(folder).all():
        if kept.approval.study == study and kept.state(now) == "in force":
            raise StillApproved(
                f"study '{kept.approval.name}' is approved and in force: take it back first with "
                "`fedrx site approve --revoke`."
            )
    cohorts = tuple(one for one in cached(folder) if one.study == study)
    counts = FollowUpStore(folder).counts()
    predictions = {study: counts[study]} if study in counts else {}
    return Forgettable(cohorts, StudyFiles(folder).folders(study), predictions)


def older_than(folder: Path, days: int, now: int) -> Forgettable:
    """Find what was kept before some days: cohorts, predictions, and studies that had ended.

    Args:
        folder: the site's folder.
        days: how long something may be kept.
        now: unix seconds.
    """
    before = now - days * DAY_S
    ended = {
        kept.approval.study
        for kept in Approvals(folder).all()
        if kept.state(now) != "in force" and _ended(kept) < before
    }
    cohorts = tuple(one for one in cached(folder) if one.kept_at < before or one.study in ended)
    studies = tuple(path for one in sorted(ended) for path in StudyFiles(folder).folders(one))
    return Forgettable(cohorts, studies, FollowUpStore(folder).counts(before), before)


def forget(folder: Path, found: Forgettable, *, now: int, by: str) -> None:
    """Remove what was found; the audit log says so first.

    Args:
        folder: the site's folder.
        found: what to remove.
        now: unix seconds.
        by: who asks for it.

    Raises:
        LogUnwritable: the audit log cannot be written; nothing was removed.
        FolderUnusable: a file cannot be removed.
    """
    studies = {path.name for path in found.studies} | {one.study for one in found.cohorts}
    studies |= set(found.predictions)
    store = FollowUpStore(folder)
    log = existing_log(SiteIdentity(folder).audit_path)
    for study in sorted(studies):
        part = Forgettable(
            tuple(one for one in found.cohorts if one.study == study),
            tuple(path for path in found.studies if path.name == study),
            {study: found.predictions[study]} if study in found.predictions else {},
            found.before,
        )
        log.record(
            AuditEntry(
                time=now, kind="retention", study=study, reason=f"{part.text()} removed by {by}"
            )
        )
        remove(part.cohorts)
        if part.predictions:
            store.remove(study, part.before)
        for path in part.studies:
            with unusable(path):
                shutil.rmtree(path)


def _ended(kept: KeptApproval) -> int:
    end = kept.approval.expires_at
    return end if kept.revocation is None else min(end, kept.revocation.time)
