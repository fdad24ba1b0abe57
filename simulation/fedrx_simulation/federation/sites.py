"""Simulated sites: the real client on synthetic or local patients, one folder for each.

Everything that would be secret or random at a hospital is derived here from the simulation's
seed, so that a study can be repeated, or resumed after a kill, to the last bit. Nothing in this
module may be used by a live site.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrx_client.participation.site import Site, SiteParts, check_cohort_size
from fedrx_client.records.database import SiteStore
from fedrx_client.records.sqlite_guard import SqliteGuard
from fedrx_client.training.randomness import SeededRandomness
from fedrx_common.errors import DataError, MisuseError, counted
from fedrx_models.cohort.cohort import Cohort, require_variety
from fedrx_models.cohort.visits_check import require_markers
from fedrx_models.contract import PatientModel
from fedrx_models.planning import make_plan
from fedrx_models.transfer import study_model
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.secagg.parameters import session_id
from fedrx_protocol.secagg.site import SiteParty
from fedrx_protocol.study.study import Study
from fedrx_protocol.trust.roster import Roster, SignedRoster, SiteEntry, sign_roster

_FOREVER = 2**40


@dataclass(frozen=True)
class SimulatedConsortium:
    """A simulated consortium: who takes part, with keys that follow from the seed.

    Args:
        study: The study.
        sites: Site ids.
        run_id: Name of the run.
        seed: The simulation's seed.
        fold: Which part of each site's patients is held out, from 0.
    """

    study: Study
    sites: tuple[str, ...]
    run_id: str
    seed: int
    fold: int = 0

    @cached_property
    def signed_roster(self) -> SignedRoster:
        """The roster, signed by the simulated consortium."""
        entries = tuple(
            SiteEntry(site, site, self.identity(site).public_key().public_bytes_raw(), 0, _FOREVER)
            for site in self.sites
        )
        return sign_roster(Roster(entries, serial=1), self._key("consortium", ""))

    @property
    def roster(self) -> Roster:
        """The roster itself."""
        return self.signed_roster.roster

    @cached_property
    def plan(self) -> StudyPlan:
        """The study made concrete for these sites."""
        return make_plan(self.study, len(self.sites))

    def identity(self, site: str) -> Ed25519PrivateKey:
        """A site's identity key."""
        return self._key("identity", site)

    def model(self) -> PatientModel:
        """The study's model, with random start weights; `start_model` knows another study's."""
        return study_model(self.study, seed=self.seed)

    def split_salt(self, site: str) -> bytes:
        """The key that decides which of a site's patients are held out."""
        return self._secret("split", site)

    def split(self, cohort: Cohort) -> tuple[Cohort, Cohort]:
        """A site's training and held-out patients, as the site itself splits them."""
        salt = self.split_salt(cohort.site)
        return cohort.split(self.study.cohort.held_out, salt, self.fold)

    def check(self, cohorts: Mapping[str, Cohort]) -> None:
        """Check the study against its sites before anything is made.

        Raises:
            FedRxError: The study cannot be run with these sites; says what to change.
        """
        for cohort in cohorts.values():
            check_cohort_size(self.study, cohort)
        self.plan.check()
        self.check_split(cohorts)
        if self.study.markers:
            require_markers(self.study.feature_schema, (c.visits for c in cohorts.values()))

    def check_split(self, cohorts: Mapping[str, Cohort]) -> None:
        """Check the outcomes of the patients trained on and of those held out, of all sites.

        Raises:
            DataError: One of the two has no patients, or patients who are all alike.
        """
        share = self.study.cohort.held_out
        aside = {s: c.aside(share, self.split_salt(s), self.fold) for s, c in cohorts.items()}
        for name, held_out in (("left to train on", False), ("held out", True)):
            outcomes = np.concatenate(
                [cohort.target[aside[site] == held_out] for site, cohort in cohorts.items()]
            )
            if not len(outcomes):
                raise DataError(
                    f"no patient is {name} at any site: give more patients, or another "
                    "cohort.held_out."
                )
            require_variety(self.study.target, outcomes, f"of the patients {name}")

    def open_site(self, cohort: Cohort, folder: Path) -> Site:
        """Open one site in its folder; its ledger survives a killed process, not a power cut."""
        folder.mkdir(parents=True, exist_ok=True)
        store = SiteStore(folder / "site.db", durability="process")
        one_list = self.study.opens_one_list(live=False)
        party = SiteParty(
            site=cohort.site,
            identity=self.identity(cohort.site),
            roster=self.roster,
            parameters=self.plan.parameters,
            session=session_id(self.run_id, self.study.digest, self.roster.digest),
            guard=SqliteGuard(store),
            single_context_per_model=self.study.opens_exact_sums,
            one_list_of=bytes.fromhex(self.study.digest) if one_list else None,
        )
        return Site(
            SiteParts(
                plan=self.plan,
                run=self.run_id,
                cohort=cohort,
                model=self.model(),
                store=store,
                party=party,
                randomness=SeededRandomness(self.seed),
                split_salt=self.split_salt(cohort.site),
                fold=self.fold,
            )
        )

    def _key(self, purpose: str, site: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._secret(purpose, site))

    def _secret(self, purpose: str, site: str) -> bytes:
        info = f"fedrx/1 simulation {purpose}\x00{site}".encode()
        derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
        return derive.derive(str(self.seed).encode())


def by_site(cohorts: Mapping[str, Cohort] | Sequence[Cohort]) -> dict[str, Cohort]:
    """Order cohorts by site id.

    Raises:
        MisuseError: Two cohorts carry the same id, or there is none.
    """
    listed = list(cohorts.values()) if isinstance(cohorts, Mapping) else list(cohorts)
    found: dict[str, Cohort] = {}
    for cohort in listed:
        if cohort.site in found:
            raise MisuseError(
                f"two cohorts belong to site '{cohort.site}': give each site an id of its own."
            )
        found[cohort.site] = cohort
    if not found:
        raise MisuseError("no cohort was given: name at least as many sites as the threshold.")
    return dict(sorted(found.items()))


_FAR = 1.25  # times, or a share, from which a table is another size than was agreed


def taking_part(
    study: Study, cohorts: Mapping[str, Cohort]
) -> tuple[dict[str, Cohort], tuple[str, ...]]:
    """Find the sites that are large enough for a study, and what a person should know.

    Args:
        study: The study.
        cohorts: Patients by site.

    Raises:
        DataError: No site is large enough.
    """
    least = study.cohort.minimum_per_site
    kept = {site: cohort for site, cohort in cohorts.items() if len(cohort) >= least}
    asked = f"the study asks for at least {least} a site (cohort.minimum_per_site)"
    if not kept:
        largest = counted(max(map(len, cohorts.values())), "patient")
        raise DataError(f"the largest site has {largest}, and {asked}: no site can take part.")
    notes = [
        f"Site '{site}' is left out: it has {counted(len(cohort), 'patient')}, and {asked}."
        for site, cohort in cohorts.items()
        if site not in kept
    ]
    total, agreed = sum(map(len, kept.values())), study.cohort.patients
    if not agreed / _FAR <= total <= agreed * _FAR:
        notes.append(
            f"The sites have {counted(total, 'patient')}, but cohort.patients says {agreed:,}, by "
            "which every mean is divided: set it to the size that the consortium will have."
        )
    return kept, tuple(notes)
