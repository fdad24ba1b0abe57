"""A site's yes to one study, as a value: what exactly was allowed, and until when.

An approval names the exact study, cohort and FedRx release, so that none of them can change
unnoticed by the person who gave it. `store` keeps it, signed.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, get_args

from fedrx_client.records.ledger import PrivacyCap
from fedrx_common.canonical_json import packed
from fedrx_common.errors import MisuseError, days_in_words
from fedrx_common.text import LONGEST_LINE, fault_in, quoted
from fedrx_protocol.study.study import PrivacyMode, Study

DAY_S = 86_400
MAX_DAYS = 5 * 366
DIGEST = re.compile(r"[0-9a-f]{64}")
DEFAULT_COHORT = "patients"
_COHORT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?")


class ApprovalInvalid(MisuseError):
    """An approval cannot be given like this: a value is impossible, or below what is needed."""


class NotApproved(MisuseError):
    """The site has approved no such study, so it answers nothing."""


class ApprovalExpired(MisuseError):
    """The approval's time is over, or has not begun."""


class ApprovalRevoked(MisuseError):
    """The site took its approval back."""


class ApprovalForged(MisuseError):
    """The file of an approval is not what this site signed with the key now in use."""


class ApprovalOutdated(MisuseError):
    """The file of an approval is not the newest that the audit log knows of.

    Prevents a file that was put back from bringing what was taken back into force again.
    """


class CohortChanged(MisuseError):
    """The patients are not those that were approved, or are fewer than was agreed."""


class VersionChanged(MisuseError):
    """Another FedRx release is installed than the one that was approved."""


@dataclass(frozen=True)
class Approval:
    """What a site allows.

    Attributes:
        study: digest of the study, 64 hexadecimal digits.
        name: the study's name.
        model: the model's name.
        mode: the study's privacy mode.
        cap: the most that may be spent on this cohort over all studies; None where the site
            accepts exact sums, for which no cap can hold.
        minimum_patients: with fewer the site does not take part.
        cohort: fingerprint of the cohort; it stays at the site.
        version: FedRx release installed when it was given.
        approved_at: unix seconds.
        expires_at: last unix second.
        by: who gave it.
        cohort_name: what the site calls these patients. Cap and ledger count by this name, so
            that a table with one row more does not begin a new count.
        sites: who was on the roster then; empty in an approval of an earlier release.
        overrides: red findings in the data that the person accepted, each with the reason.
    """

    study: str
    name: str
    model: str
    mode: PrivacyMode
    cap: PrivacyCap | None
    minimum_patients: int
    cohort: str
    version: str
    approved_at: int
    expires_at: int
    by: str
    cohort_name: str = DEFAULT_COHORT
    sites: tuple[str, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not all(map(DIGEST.fullmatch, (self.study, self.cohort))):
            raise ApprovalInvalid("study and cohort are named by 64 hexadecimal digits.")
        if self.mode not in get_args(PrivacyMode):
            raise ApprovalInvalid(f"there is no privacy mode {quoted(self.mode)}.")
        for name in ("name", "model", "version", "by"):
            text = getattr(self, name)
            fault = fault_in(text, least=1, most=LONGEST_LINE)
            if fault is not None:
                raise ApprovalInvalid(f"an approval's '{name}', {quoted(text)}, {fault}.")
        cohort_key(self.cohort_name)
        for finding, reason in self.overrides.items():
            fault = fault_in(finding, least=1) or fault_in(reason, least=1)
            if fault is not None:
                raise ApprovalInvalid(
                    f"the reason to override '{finding}', {quoted(reason)}, {fault}."
                )
        object.__setattr__(self, "overrides", MappingProxyType(dict(self.overrides)))
        if self.minimum_patients < 1:
            raise ApprovalInvalid("the least number of patients must be 1 or more.")
        if not 0 <= self.approved_at < self.expires_at <= self.approved_at + MAX_DAYS * DAY_S:
            raise ApprovalInvalid(f"an approval must last between 1 and {MAX_DAYS} days.")

    @classmethod
    def of(
        cls,
        study: Study,
        *,
        cohort: str,
        cap: PrivacyCap | None,
        minimum_patients: int | None = None,
        now: int,
        days: int,
        by: str,
        cohort_name: str = DEFAULT_COHORT,
        sites: tuple[str, ...] = (),
        overrides: Mapping[str, str] = MappingProxyType({}),
    ) -> "Approval":
        """Build an approval of this study with the FedRx installed here.

        Args:
            study: the agreed study.
            cohort: fingerprint of the patients.
            cap: the site's own; see `require_cap`.
            minimum_patients: the study's minimum, if left out.
            now: unix seconds.
            days: how long it holds.
            by: who gives it.
            cohort_name: what the site calls these patients.
            sites: who is on the roster now.
            overrides: red findings that the person accepts, each with the reason.

        Raises:
            ApprovalInvalid: a value is impossible, or the cap cannot hold this study.
        """
        require_cap(study, cap)
        return cls(
            study=study.digest,
            name=study.name,
            model=study.model.name,
            mode=study.privacy.mode,
            cap=cap,
            minimum_patients=minimum_patients or study.cohort.minimum_per_site,
            cohort=cohort,
            version=version("fedrx"),
            approved_at=now,
            expires_at=now + days * DAY_S,
            by=by,
            cohort_name=cohort_name,
            sites=sites,
            overrides=overrides,
        )

    @property
    def cohort_key(self) -> str:
        """What the ledger counts by, see `cohort_key`."""
        return cohort_key(self.cohort_name)

    def time_left(self, now: int) -> str:
        """How long it still holds, in words."""
        return days_in_words(self.expires_at - now)

    def require_time(self, now: int) -> None:
        """Refuse outside its time.

        Raises:
            ApprovalExpired: it is over, or has not begun.
        """
        if now > self.expires_at:
            raise ApprovalExpired(
                f"the approval of study '{self.name}' ended on {day(self.expires_at)}: give it "
                "anew with `fedrx site approve`."
            )
        if now < self.approved_at - DAY_S:
            raise ApprovalExpired(
                f"the approval of study '{self.name}' was given on {day(self.approved_at)}, which "
                "is more than a day ahead of this clock: set the clock."
            )

    def require_study(self, digest: str) -> None:
        """Refuse another study.

        Raises:
            NotApproved: it is one.
        """
        if digest != self.study:
            raise NotApproved(nothing_for(digest))

    def require_cohort(self, fingerprint: str, patients: int) -> None:
        """Refuse other patients, or fewer.

        Raises:
            CohortChanged: they are.
        """
        if fingerprint != self.cohort:
            raise CohortChanged(
                f"the patients, or the mapping, changed since study '{self.name}' was approved on "
                f"{day(self.approved_at)}: look at them, then approve again."
            )
        if patients < self.minimum_patients:
            raise CohortChanged(
                f"the approval of study '{self.name}' asks for more patients than this cohort has: "
                "approve again with a smaller --min-patients, or add patients."
            )

    def require_version(self, installed: str) -> None:
        """Refuse another FedRx.

        Raises:
            VersionChanged: names both.
        """
        if installed != self.version:
            raise VersionChanged(
                f"study '{self.name}' was approved with FedRx {self.version}, and {installed} is "
                "installed: install that release, or approve again."
            )

    def to_document(self) -> dict[str, Any]:
        """The approval as JSON values."""
        document = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "overrides"
        }
        document |= {"cap": self.cap and asdict(self.cap), "sites": list(self.sites)}
        # Younger than many approvals, whose signed bytes must stay as they are.
        return document | ({"overrides": dict(self.overrides)} if self.overrides else {})


def require_cap(study: Study, cap: PrivacyCap | None) -> None:
    """Compare a cap with what a study would spend.

    Raises:
        ApprovalInvalid: the cap is below the study's promise, or the study has none to cap.
    """
    if study.opens_exact_sums:
        if cap is not None:
            raise ApprovalInvalid(
                f"study '{study.name}' opens sums without noise, and no cap can hold for those: "
                "give --no-cap if the site accepts that, or ask for privacy.mode 'distributed' "
                "with metrics.mode 'private'."
            )
        return
    if cap is None:
        raise ApprovalInvalid(
            f"study '{study.name}' promises epsilon {study.privacy.epsilon:g}: give the site's own "
            "cap with --max-epsilon."
        )
    if cap.epsilon < study.privacy.epsilon or cap.delta < study.privacy.delta:
        raise ApprovalInvalid(
            f"study '{study.name}' may spend epsilon {study.privacy.epsilon:g} at delta "
            f"{study.privacy.delta:g}, and the cap is epsilon {cap.epsilon:g} at delta "
            f"{cap.delta:g}: it would stop half-way. Raise the cap, or ask for a study that "
            "spends less."
        )


def cohort_key(name: str) -> str:
    """Derive the name under which a ledger counts releases on these patients.

    Raises:
        ApprovalInvalid: not 1 to 64 letters, digits, blanks, '.', '_' and '-'.
    """
    if not _COHORT_NAME.fullmatch(name):
        raise ApprovalInvalid(
            f"{quoted(name)} cannot name a cohort: use 1 to 64 letters, digits, blanks, '.', '_' "
            "and '-'."
        )
    return hashlib.sha256(packed("fedrx/1 cohort name", name)).hexdigest()


def day(time: int) -> str:
    """Unix seconds as a date in UTC."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}"


def nothing_for(study: str) -> str:
    """Return the sentence for a study without an approval."""
    return (
        f"study {study[:12]} is not approved at this site: read it, then `fedrx site approve` it; "
        "the site answers nothing until then."
    )
