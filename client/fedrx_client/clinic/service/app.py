"""The CDS Hooks server: discovery, questions, feedback; JSON in, JSON out."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fedrx_client.clinic.service.hooks import FeedbackRequest, HookRequest
from fedrx_client.clinic.service.serving import Desk, PrefetchIncomplete
from fedrx_client.clinic.service.tokens import TokenCheck, TokenRefused
from fedrx_common.errors import FedRxError, MisuseError
from fedrx_models.card import ModelUnusable

logger = logging.getLogger(__name__)

LONGEST_BODY = 4_000_000
_ROOT = "/cds-services"


def make_app(desk: Desk, *, tokens: TokenCheck | None, address: str) -> FastAPI:
    """Make the server.

    Args:
        desk: the services and the audit log.
        tokens: who may ask; None lets anyone ask who reaches the port, for loopback only.
        address: where clients reach the server, `https://host:port`; tokens are for it.
    """
    app = FastAPI(title="FedRx at the bedside", docs_url=None, redoc_url=None)

    def client_of(request: Request) -> str:
        if tokens is None:
            return "a client on this machine"
        return tokens.require(request.headers.get("authorization"), address + request.url.path)

    @app.middleware("http")
    async def bounded(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not (length.isdigit() and int(length) <= LONGEST_BODY):
            return _problem(413, f"send a body of at most {LONGEST_BODY:,} bytes, with its length.")
        response = await call_next(request)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

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

    _say_errors(app)
    return app


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
    return JSONResponse({"error": sentence}, status_code=code, headers=headers)
