"""What a run reports: stages, sites that answered, sites it waits for. Names, no numbers.

A run never depends on its watch; the one that is not looked at has this class, which does nothing.
"""

from collections.abc import Collection, Mapping


class RunObserver:
    """Is called as things happen; a subclass overrides the methods that it needs."""

    def on_request(self, kind: str, sites: Collection[str]) -> None:
        """A request of this Flower message type goes out to these sites."""

    def on_reply(self, site: str, reason: str) -> None:
        """A site answered; `reason` names its refusal, 'lost' says that it did not, '' is well."""

    def attempting(
        self, round_number: int, attempt: int, sites: Collection[str], missing: Mapping[str, str]
    ) -> None:
        """An attempt at a round begins with these sites, without the missing ones."""

    def on_version_mismatch(self, site: str, version: str) -> None:
        """A site runs another release of FedRx."""

    def waiting(self, sentence: str, missing: Mapping[str, str]) -> None:
        """The run pauses; `missing` says why each site that is not there is not."""
