"""A FHIR server on loopback: searches with paging, a token, and faults on demand."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

_MANDATORY = {"resourceType", "id", "status", "intent", "modifierExtension", "implicitRules"}


@dataclass
class FhirTown:
    """What a server serves, and what it was asked.

    Attributes:
        resources: all of them.
        page: most entries of a page, whatever `_count` asks for.
        token: the bearer token that it wants, if any.
        faults: by type, what it answers first instead: status, headers, body.
        parameters: search parameters that its CapabilityStatement names.
        asked: each search as it came.
        headers: of each search.
        next_base: what the links to the next page begin with, if not its own address.
    """

    resources: list[dict[str, Any]]
    page: int = 7
    token: str | None = None
    faults: dict[str, list[tuple[int, dict[str, str], bytes]]] = field(default_factory=dict)
    parameters: tuple[str, ...] | None = ("code", "combo-code")
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    next_base: str | None = None
    address: str = ""

    def answer(self, path: str, query: str, given: dict[str, str]) -> tuple[int, Any, bytes]:
        kind = path.rpartition("/")[2]
        self.asked.append(f"{kind}?{query}")
        self.headers.append(given)
        if self.faults.get(kind):
            return self.faults[kind].pop(0)
        if kind == "metadata":
            if self.parameters is None:
                return 404, {}, b"not here"
            return self._json(200, self._capabilities())
        if self.token is not None and given.get("authorization") != f"Bearer {self.token}":
            outcome = {"severity": "error", "code": "login", "diagnostics": "no John Doe here"}
            return self._json(401, {"resourceType": "OperationOutcome", "issue": [outcome]})
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        found = [one for one in self.resources if one["resourceType"] == kind]
        found = [one for one in found if _matches(one, asked)]
        start, most = int(asked.get("_offset", 0)), min(int(asked["_count"]), self.page)
        elements = asked.get("_elements", "").split(",")
        entries = [
            {
                "fullUrl": f"{self.address}/{kind}/{one['id']}",
                "resource": {k: v for k, v in one.items() if _asked(k, elements)},
                "search": {"mode": "match"},
            }
            for one in found[start : start + most]
        ]
        page = {"resourceType": "Bundle", "type": "searchset", "entry": entries}
        if start + most < len(found):
            rest = {**dict(parse_qsl(query)), "_offset": str(start + most)}
            base = self.next_base or self.address
            page["link"] = [{"relation": "next", "url": f"{base}/{kind}?{urlencode(rest)}"}]
        return self._json(200, page)

    def _capabilities(self) -> dict[str, Any]:
        kinds = {one["resourceType"] for one in self.resources} | {"Patient"}
        params = [{"name": one, "type": "token"} for one in self.parameters or ()]
        types = [{"type": one, "searchParam": params} for one in sorted(kinds)]
        rest = [{"mode": "server", "resource": types}]
        return {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "rest": rest}

    @staticmethod
    def _json(status: int, content: object) -> tuple[int, dict[str, str], bytes]:
        kind = {"Content-Type": "application/fhir+json"}
        return status, kind, json.dumps(content).encode()

    @contextmanager
    def open(self) -> Iterator[str]:
        town = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                given = {name.lower(): value for name, value in self.headers.items()}
                status, headers, body = town.answer(parts.path, parts.query, given)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_address[1]}/fhir"
        try:
            yield self.address
        finally:
            server.shutdown()
            server.server_close()


def _asked(name: str, elements: list[str]) -> bool:
    return name in _MANDATORY or any(name == one or name.startswith(one) for one in elements if one)


def _matches(one: dict[str, Any], asked: dict[str, str]) -> bool:
    if "medication" in asked:
        return one.get("medicationReference", {}).get("reference") in asked["medication"].split(",")
    own = one.get("code") or one.get("medicationCodeableConcept") or {}
    parts = [part.get("code", {}) for part in one.get("component", [])]
    where = {"code": [own], "component-code": parts, "combo-code": [own, *parts]}
    for parameter, concepts in where.items():
        if parameter in asked:
            tokens = set(asked[parameter].split(","))
            codings = [c for concept in concepts for c in concept.get("coding", [])]
            return any(f"{c.get('system', '')}|{c['code']}" in tokens for c in codings)
    return True
