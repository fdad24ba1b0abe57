"""The CDS Hooks server: discovery, questions, feedback; JSON in, JSON out."""

import logging
import traceback
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedrx_client.clinic.service.hooks import FeedbackRequest, HookRequest
from fedrx_client.clinic.service.serving import Desk, PrefetchIncomplete
from fedrx_client.clinic.service.tokens import TokenCheck, TokenRefused
from fedrx_common.errors import FedRxError, MisuseError
from fedrx_common.text import escaped
from fedrx_models.card import ModelUnusable

logger = logging.getLogger(__name__)

LONGEST_BODY = 4_000_000
_ROOT = "/cds-services"
_HERE = frozenset({"127.0.0.1", "localhost", "::1"})


def make_app(
    desk: Desk, *, tokens: TokenCheck | None, address: str, page: APIRouter | None = None
) -> FastAPI:
    """Make the server.

    Args:
        desk: the services and the audit log.
        tokens: who may ask; None lets anyone ask who reaches the port, for loopback only.
        address: where clients reach the server, `https://host:port`; tokens are for it.
        page: the page of one patient, if there is one.
    """
    app = FastAPI(title="FedRx at the bedside", docs_url=None, redoc_url=None)
    app.add_middleware(_Bounds, hosts=_HERE | {urlsplit(address).hostname or ""})

    def client_of(request: Request) -> str:
        if tokens is None:
            return "a client on this machine"
        return tokens.require(request.headers.get("authorization"), address + request.url.path)

    @app.get(_ROOT)
    def discovery() -> dict[str, Any]:
        """List the services; nothing of a patient is in it, and no token is needed."""
        return {"services": [one.describe() for one in desk.services.values()]}

    @app.post(_ROOT + "/{name}")
    def ask(name: str, question: HookRequest, request: Request) -> dict[str, Any]:
        """Answer a question with cards."""
        client = client_of(request)
        return {"cards": desk.answer(desk.service(name), question, client)}

    @app.post(_ROOT + "/{name}/feedback")
    def feedback(name: str, told: FeedbackRequest, request: Request) -> dict[str, Any]:
        """Record what became of cards."""
        client = client_of(request)
        desk.feedback(desk.service(name), told, client)
        return {}

    @app.get("/health")
    def health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    if page is not None:
        app.include_router(page)
    _say_errors(app)
    return app


class _Bounds:
    """What holds for every request: its size, the name it was sent to, and that nothing is kept.

    Args:
        app: the server.
        hosts: names that this server has. A site elsewhere that makes a browser ask this machine
            under a name of its own is refused.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def marked(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, marked)
            return
        try:
            await self._app(scope, receive, marked)
        except Exception as error:  # noqa: BLE001 - an error's own text could quote a patient
            last = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s at %s:%s", type(error).__name__, last.filename, last.lineno)  # noqa: TRY400
            if not begun:
                answer = _problem(500, "the server made a mistake; its log says where.")
                await answer(scope, receive, marked)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        try:
            name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            name = ""
        if name not in self._hosts:
            return _problem(421, "this server has another name; see its --address.")
        length = headers.get("content-length", "")
        fits = length.isascii() and length.isdigit() and int(length[:12]) <= LONGEST_BODY
        if scope["method"] == "POST" and not fits:
            return _problem(413, f"send a body of at most {LONGEST_BODY:,} bytes, with its length.")
        return None


def _say_errors(app: FastAPI) -> None:
    """Turn errors into one sentence each; none of them quotes a patient."""

    @app.exception_handler(FedRxError)
    def ours(_request: Request, error: FedRxError) -> Response:
        codes: tuple[tuple[type[FedRxError], int], ...] = (
            (TokenRefused, 401),
            (PrefetchIncomplete, 412),
            (ModelUnusable, 410),
            (MisuseError, 404),
        )
        code = next((code for kind, code in codes if isinstance(error, kind)), 500)
        if code >= 500:
            logger.error("%s", error)
        return _problem(code, str(error))

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:5]) or "the body"
        return _problem(400, f"'{place[:100]}' cannot be used: {first['msg'][:200]}.")

    @app.exception_handler(HTTPException)
    def other(_request: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, f"{error.detail}.", error.headers)


def _problem(code: int, sentence: str, headers: Any = None) -> JSONResponse:  # noqa: ANN401
    return JSONResponse({"error": escaped(sentence)}, status_code=code, headers=headers)
