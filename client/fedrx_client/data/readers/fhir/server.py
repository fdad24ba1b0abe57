"""Reads a FHIR server by paged searches, for the codes of a mapping and the elements that are read.

The token comes from the environment or a file that it names, never from an argument, and goes to
the server's own origin alone. No diagnostics of the server are shown: they may name a patient.
"""

import os
import random
import re
import ssl
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import httpx

from fedrx_client.data.harmonise.codes.value_sets import addresses_of
from fedrx_client.data.readers.fhir.collect import Collection
from fedrx_client.data.readers.fhir.json_text import decoded, skip_space
from fedrx_client.data.readers.records import Code, RecordKind, Records
from fedrx_client.data.readers.selection import Selection
from fedrx_client.data.readers.source import Source
from fedrx_common.address import is_loopback
from fedrx_common.backoff import Backoff
from fedrx_common.errors import DataError, counted

TOKEN = "FEDRX_FHIR_TOKEN"  # noqa: S105 - a name
TOKEN_FILE = "FEDRX_FHIR_TOKEN_FILE"  # noqa: S105 - a name

_BEARER = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")
_DRUGS = ("MedicationRequest", "MedicationAdministration", "MedicationStatement")
# By type, the elements that a server is asked for; it adds those that it must (hl7.org/fhir/R4).
_ELEMENTS: Mapping[str, str] = MappingProxyType(
    {
        "Patient": "id,gender,birthDate,deceased",
        "Observation": "id,status,code,subject,effective,value,dataAbsentReason,component",
        "Condition": "id,code,subject,verificationStatus,onset,abatement,recordedDate",
        "Medication": "id,code",
        "MedicationRequest": "id,status,intent,medication,subject,authoredOn,dosageInstruction,"
        "dispenseRequest,doNotPerform,contained",
        "MedicationAdministration": "id,status,medication,subject,effective,dosage,contained",
        "MedicationStatement": "id,status,medication,subject,effective,dosage,contained",
    }
)
_ESCAPED = re.compile(r"([$,|\\])")
_AGAIN = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class ServerLimits:
    """How a server is asked.

    Attributes:
        page: resources that are asked for at once; a server may give fewer.
        codes: codes in one search, so that its address is not too long.
        attempts: times that a search is sent before the server counts as out of order.
        wait_s: longest wait between two attempts, whatever the server says.
        timeout_s: seconds for each step of a request: to connect, and between two pieces.
        page_s: seconds that a whole page may take.
        page_bytes: size that no page has.
        pages: number of pages that no search has.
    """

    page: int = 500
    codes: int = 40
    attempts: int = 5
    wait_s: float = 60.0
    timeout_s: float = 60.0
    page_s: float = 600.0
    page_bytes: int = 1 << 28
    pages: int = 1_000_000


def bearer_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token of the environment, or of the file that it names; `None` without either.

    Raises:
        DataError: both are set, the file cannot be read, or its content is no token.
    """
    text, file = environment.get(TOKEN), environment.get(TOKEN_FILE)
    if text and file:
        raise DataError(f"{TOKEN} and {TOKEN_FILE} are both set; unset one of them.")
    if file:
        try:
            text = Path(file).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            raise DataError(f"{TOKEN_FILE}: {file} cannot be read as a token's file.") from None
    if not text:
        return None
    if not _BEARER.fullmatch(text.strip()):
        raise DataError(f"{TOKEN_FILE if file else TOKEN}: its content is not a bearer token.")
    return text.strip()


def read_server(
    source: Source,
    selection: Selection,
    *,
    only: str | None = None,
    token: str | None = None,
    limits: ServerLimits | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Records:
    """Read all patients of a server, and the records that a mapping's columns are made of.

    Args:
        source: the server's base address.
        selection: the codes that are wanted.
        only: the id of the one patient that is wanted; None for all.
        token: a bearer token, if the server wants one.
        limits: how it is asked.
        sleep: waits so many seconds.

    Raises:
        DataError: the address cannot be used, the server does not answer, refuses, or gives what is
            not FHIR R4.
    """
    try:
        url = httpx.URL(source.location)
    except httpx.InvalidURL:
        raise DataError(f"{source.name}: is not an address.") from None
    if url.query or url.fragment or not url.host:
        raise DataError(f"{source.name}: give the base address of the server, without a search.")
    if url.userinfo and token:
        raise DataError(f"{source.name}: has a user, but there is a token too; use one of them.")
    if url.scheme != "https" and (token or url.password) and not is_loopback(url.host):
        raise DataError(
            f"{source.name}: is not encrypted, so that no token is sent to it; give its https "
            "address."
        )
    limits = limits or ServerLimits()
    headers = {"Accept": "application/fhir+json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    # A user in the address goes where links without one lead, too.
    auth = (url.username, url.password) if url.userinfo else None
    base = str(url.copy_with(username=None, password=None)).rstrip("/") + "/"
    with httpx.Client(headers=headers, auth=auth, timeout=limits.timeout_s) as client:
        search = _Search(source.name, base, client, limits, sleep, token is not None, only)
        return search.run(selection)


@dataclass
class _Search:
    """One reading of one server."""

    name: str
    base: str
    client: httpx.Client
    limits: ServerLimits
    sleep: Callable[[float], None]
    has_token: bool
    only: str | None

    def run(self, selection: Selection) -> Records:
        """Search for persons, then for each kind of record that is wanted."""
        collection = Collection(self.name, selection.wants)
        known = self.types()
        self.read(collection, "Patient", {})
        kinds: dict[RecordKind, tuple[str, ...]] = {
            "measurement": ("Observation",),
            "condition": ("Condition",),
            "drug": ("Medication", *_DRUGS),
        }
        for kind, types in kinds.items():
            codes = _by_code(selection, kind, self.limits.codes)
            for one in types:
                if one not in known:
                    continue
                found = []
                for some in codes:
                    for parameter in _parameters(one, known[one]) if some else ("",):
                        found += self.read(collection, one, {parameter: some} if some else {})
                if one == "Medication":
                    self.read_by_reference(collection, found, known)
        return collection.records()

    def read_by_reference(
        self, collection: Collection, medications: list[str], known: Container[str]
    ) -> None:
        """Search for what names its drug by reference, and has no code to be found by."""
        for some in _in_parts(medications, self.limits.codes):
            for kind in _DRUGS:
                if kind in known:
                    self.read(collection, kind, {"medication": ",".join(some)})

    def types(self) -> dict[str, frozenset[str]]:
        """Return what the server can be searched for, by which parameters, as it says itself."""
        url = urljoin(self.base, "metadata")
        status, found = self.answer(url)
        every = dict.fromkeys(_ELEMENTS, frozenset[str]())
        if status != 200:
            return every  # not every server lets its clients read it
        version = str(found.get("fhirVersion", "4."))
        if not version.startswith("4."):
            raise DataError(f"{self.name}: speaks another version of FHIR; give its R4 address.")
        rest: Any = found.get("rest")
        first = rest[0] if isinstance(rest, list) and rest else None
        types: Any = first.get("resource") if isinstance(first, dict) else None
        listed = {}
        for one in types if isinstance(types, list) else ():
            kind = one.get("type") if isinstance(one, dict) else None
            if isinstance(kind, str) and kind in every:
                given = one.get("searchParam")
                params = given if isinstance(given, list) else []
                names = [p.get("name") for p in params if isinstance(p, dict)]
                listed[kind] = frozenset(n for n in names if isinstance(n, str))
        return listed or every

    def read(self, collection: Collection, kind: str, search: Mapping[str, str]) -> list[str]:
        """Read every page of a search.

        Returns:
            References to what was found, for types that others refer to.
        """
        asked = {
            **self.whose(kind),
            **search,
            "_elements": _ELEMENTS[kind],
            "_count": str(self.limits.page),
        }
        url = f"{urljoin(self.base, kind)}?{urlencode(asked)}"
        references = []
        for number, page in enumerate(self.pages(url, kind), 1):
            entries = page.get("entry", [])
            if not isinstance(entries, list):
                raise self.refused(kind, "its entries are not a list")
            for n, entry in enumerate(entries, 1):
                place = f"{kind} page {number}, entry {n}"
                collection.add_entry(place, entry)
                content = entry.get("resource")
                if kind == "Medication" and isinstance(content, dict) and "id" in content:
                    references.append(f"Medication/{content['id']}")
        return references

    def whose(self, kind: str) -> dict[str, str]:
        """Name the one patient that a search is about; a drug's own entry belongs to no one."""
        if self.only is None or kind == "Medication":
            return {}
        return {"_id" if kind == "Patient" else "patient": _ESCAPED.sub(r"\\\1", self.only)}

    def pages(self, url: str, kind: str) -> Iterator[dict[str, Any]]:
        """Follow the links to the next page, as long as they stay with the server."""
        seen: set[str] = set()
        following: str | None = url
        while following is not None:
            if following in seen or len(seen) >= self.limits.pages:
                raise self.refused(kind, "its pages have no end: a link leads back")
            seen.add(following)
            status, page = self.answer(following)
            if status != 200:
                raise self.refused(kind, self.reason(status, page))
            if page.get("resourceType") != "Bundle":
                raise self.refused(kind, "it gives no bundle")
            yield page
            links: Any = page.get("link", [])
            found = [
                one.get("url")
                for one in (links if isinstance(links, list) else ())
                if isinstance(one, dict) and one.get("relation") == "next"
            ]
            following = None
            if found:
                following = _joined(url, found[0])
                if following is None or _origin(following) != _origin(url):
                    raise self.refused(
                        kind,
                        "its link to the next page leads to another address; have the server "
                        "name its own base address in its links",
                    )

    def answer(self, url: str) -> tuple[int, dict[str, Any]]:
        """Send a request until it is answered; a server in trouble is asked again, ever later."""
        backoff = Backoff(0.5, self.limits.wait_s, jitter=random.random)
        kind = urlsplit(url).path.rpartition("/")[2]
        for attempt in range(1, self.limits.attempts + 1):
            wait = backoff.after(attempt)
            try:
                status, headers, text = self.once(url, kind)
            except (httpx.TimeoutException, httpx.NetworkError, httpx.ProtocolError) as error:
                trouble = _trouble(error)
                if attempt == self.limits.attempts or _untrusted(error):
                    raise self.refused(kind, trouble) from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise self.refused(kind, _trouble(error)) from None
            else:
                if status not in _AGAIN or attempt == self.limits.attempts:
                    return status, self.content(text, kind, status)
                wait = min(_retry_after(headers, wait), self.limits.wait_s)
            self.sleep(wait)
        raise self.refused(kind, "it was never asked")

    def once(self, url: str, kind: str) -> tuple[int, httpx.Headers, str]:
        """Send one request, and read no more of the answer than a page may have."""
        until, pieces, size = time.monotonic() + self.limits.page_s, [], 0
        with self.client.stream("GET", url) as response:
            for piece in response.iter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > self.limits.page_bytes or time.monotonic() > until:
                    raise self.refused(kind, "a page is too large, or takes too long")
            return response.status_code, response.headers, _text(b"".join(pieces))

    def content(self, text: str, kind: str, status: int) -> dict[str, Any]:
        """Decode an answer; that of a refusal need not be JSON."""
        try:
            content, end = decoded(text, skip_space(text, 0), self.name, f"answer to {kind}")
            whole = isinstance(content, dict) and skip_space(text, end) == len(text)
        except DataError:
            if status == 200:
                raise
            return {}
        if status == 200 and not whole:
            raise self.refused(kind, "its answer is not one JSON object")
        return content if isinstance(content, dict) else {}

    def reason(self, status: int, page: Mapping[str, Any]) -> str:
        """Say why a search failed, by the status and the code of the server's own finding."""
        if status in (401, 403):
            cure = "check the token" if self.has_token else f"set {TOKEN} or {TOKEN_FILE}"
            return f"it refuses access ({status}); {cure}, and what it may read"
        issues: Any = page.get("issue")
        first = issues[0] if isinstance(issues, list) and issues else {}
        code = first.get("code") if isinstance(first, dict) else None
        named = f", {code}" if isinstance(code, str) and re.fullmatch(r"[a-z-]{1,24}", code) else ""
        if 300 <= status < 400:
            return f"it leads to another address ({status}); give that one"
        if status in _AGAIN:
            times = counted(self.limits.attempts, "attempt")
            return f"it is out of order ({status}{named}) after {times}; try again later"
        return f"it refuses the search ({status}{named}); check the address"

    def refused(self, kind: str, why: str) -> DataError:
        """Make the error that names the server and the type; never a value."""
        return DataError(f"{self.name}, search of {kind}: {why}.")


def _by_code(selection: Selection, kind: RecordKind, most: int) -> list[str]:
    """Return a kind's codes as searches take them, some at a time; "" asks for all of the kind.

    All are asked for where a code has others below it, which no search finds on every server.
    """
    chosen = [one for one in selection.all_chosen if one.kind == kind]
    if any(one.below and _has_below(code) for one in chosen for code in one.codes):
        return [""]
    wanted = sorted(
        f"{address}|" + _ESCAPED.sub(r"\\\1", code.code)
        for code in selection.codes(kind)
        if code.system != "omop"
        for address in addresses_of(code.system)
    )
    return [",".join(some) for some in _in_parts(wanted, most)]


def _parameters(kind: str, known: frozenset[str]) -> tuple[str, ...]:
    """Return the parameters that find a code: that of a component has one of its own."""
    if kind != "Observation":
        return ("code",)
    if "combo-code" in known:
        return ("combo-code",)
    return ("code", "component-code") if not known or "component-code" in known else ("code",)


def _in_parts(items: Sequence[str], most: int) -> list[Sequence[str]]:
    return [items[i : i + most] for i in range(0, len(items), most)]


def _has_below(code: Code) -> bool:
    """Say whether others may begin with a code: a drug of ATC has seven characters."""
    return code.system == "icd10" or (code.system == "atc" and len(code.code) < 7)


def _joined(url: str, link: object) -> str | None:
    try:
        return urljoin(url, link) if isinstance(link, str) else None
    except ValueError:  # not an address at all
        return None


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").lower(), port


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", errors="replace")


def _retry_after(headers: httpx.Headers, otherwise: float) -> float:
    """Return the seconds after which the server wants to be asked again."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return otherwise
    moment = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _trouble(error: Exception) -> str:
    """Say why there was no answer, without the text of the error, which may hold an address."""
    if _untrusted(error):
        return (
            "its certificate is not trusted; name the certificate of the hospital's CA in "
            "SSL_CERT_FILE"
        )
    if isinstance(error, httpx.TimeoutException):
        return "it does not answer in time; check the address and the network"
    if isinstance(error, httpx.ConnectError):
        return "it cannot be reached; check the address and the network"
    return "the connection broke; check that the address is that of a FHIR server"
