"""The page's addresses: log in, search, look, ask "what if"; HTML in answer to everything.

No address holds a patient's id, and no line of the audit log does.
"""

import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from fedrx_client.clinic.page.access import VISIT_LIFE_S, Access, LoginNeeded, Visit
from fedrx_client.clinic.page.answer import compare, patient_page
from fedrx_client.clinic.page.drawing import WIDTH
from fedrx_client.clinic.page.looks import Look, LookGone, Looks
from fedrx_client.clinic.page.whatif_form import NumberField, changed, fields
from fedrx_client.clinic.patients import Search
from fedrx_client.clinic.predict import DECIDES
from fedrx_client.clinic.service.serving import AuditWriter, ServedModel
from fedrx_common.errors import DataError, FedRxError, MisuseError
from fedrx_common.text import escaped
from fedrx_models.card import ModelUnusable
from fedrx_models.cohort.cohort import Cohort

logger = logging.getLogger(__name__)

ROOT = "/page"
LOGIN = f"{ROOT}/login"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_STATIC: Mapping[str, str] = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_LONGEST_FORM = 100_000
_FORM = "application/x-www-form-urlencoded"
_FIELD = "form"  # of the text that a form must send back


@dataclass(frozen=True)
class BedsidePage:
    """What the page needs.

    Attributes:
        services: by id; each model is offered once.
        searches: by id of the service, how a patient is found; empty where there is no source.
        audit: where every look is recorded.
        access: who may look.
        secure: whether the server speaks TLS, so that the cookie travels no other way.
        looks: what is kept of looks.
    """

    services: Mapping[str, ServedModel]
    searches: Mapping[str, Search]
    audit: AuditWriter
    access: Access
    secure: bool
    looks: Looks = field(default_factory=Looks)

    def link_for(self, address: str) -> Callable[[uuid.UUID, ServedModel, Cohort], str]:
        """Make what keeps the patient of a card, and returns the address for its link.

        Args:
            address: where browsers reach the server.
        """

        def link(name: uuid.UUID, service: ServedModel, patient: Cohort) -> str:
            self.looks.keep(Look(name, service, patient))
            return f"{address}{ROOT}/look/{name}"

        return link

    def choices(self) -> list[tuple[str, str]]:
        """List the models that can be searched for, as id of a service and title, each once."""
        found: dict[tuple[str, int], tuple[str, str]] = {}
        for one in self.services.values():
            if one.id in self.searches:
                key = (one.model.digest, id(self.searches[one.id]))
                found.setdefault(key, (one.id, one.title))
        return list(found.values())


class _Pages:
    """The templates and files of the page, read once."""

    def __init__(self) -> None:
        package = resources.files("fedrx_client.clinic.page")
        templates = {
            one.name: one.read_text("utf-8")
            for one in package.joinpath("templates").iterdir()
            if one.name.endswith(".html")
        }
        self.static = {name: package.joinpath("static", name).read_bytes() for name in _STATIC}
        self._environment = Environment(
            loader=DictLoader(templates),
            autoescape=True,
            finalize=_visible,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(decides=DECIDES, width=WIDTH, number=NumberField)

    def show(self, name: str, code: int = 200, **values: object) -> HTMLResponse:
        text = self._environment.get_template(name).render(**values)
        return HTMLResponse(text, code, HEADERS)


def _visible(value: object) -> object:
    """Write out what would not show in a text; the template then escapes it as HTML."""
    return value if isinstance(value, Markup) else escaped(str(value))


def page_router(page: BedsidePage) -> APIRouter:
    """Make the router of the page, for `make_app`."""
    pages = _Pages()
    router = APIRouter(prefix=ROOT, route_class=_route_class(pages))
    _add_login(router, page, pages)
    _add_search(router, page, pages)
    _add_looks(router, page, pages)

    @router.get("/static/{name}", response_class=Response)
    def static(name: str) -> Response:
        """Send the style, the script or the icon; nothing of a patient is in them."""
        if name not in pages.static:
            raise LookGone("there is no such file.")
        return Response(pages.static[name], media_type=_STATIC[name], headers=dict(HEADERS))

    return router


def _add_login(router: APIRouter, page: BedsidePage, pages: _Pages) -> None:
    access = page.access
    visiting = Depends(_visit_of(access))

    @router.get("/login", response_class=HTMLResponse)
    def login(token: Annotated[str, Query(max_length=200)] = "") -> Response:
        """Exchange a link for a cookie, and go where the address no longer holds it."""
        value = access.enter(token)
        page.audit("request", "a browser was let in to the page by a login link", "")
        answer = RedirectResponse(ROOT, 303, HEADERS)
        answer.set_cookie(
            access.cookie,
            value,
            max_age=VISIT_LIFE_S,
            path="/",
            secure=page.secure,
            httponly=True,
            samesite="strict",
        )
        return answer

    @router.post("/logout", response_class=HTMLResponse, openapi_extra=_body())
    def logout(request: Request, visit: Annotated[Visit, visiting], form: _Form) -> Response:
        """End this browser's visit."""
        visit.require_form(form.pop(_FIELD, ""))
        access.leave(request.cookies.get(access.cookie))
        answer = pages.show("message.html", title="Logged out", sentence="This browser is out.")
        answer.delete_cookie(
            access.cookie, path="/", secure=page.secure, httponly=True, samesite="strict"
        )
        return answer

    @router.post("/link", response_class=HTMLResponse, openapi_extra=_body())
    def link(request: Request, visit: Annotated[Visit, visiting], form: _Form) -> Response:
        """Make a login link for one more browser."""
        visit.require_form(form.pop(_FIELD, ""))
        page.audit("request", "a login link for one more browser was made on the page", "")
        address = f"{str(request.base_url).rstrip('/')}{LOGIN}?token={access.new_link()}"
        return pages.show("link.html", visit=visit, address=address)


def _entered(access: Access, request: Request, *, again: bool) -> Visit | None:
    """Find the visit; None asks for a second try.

    A request that another site begins, as by a card's link in the record, comes without the cookie;
    one that a page of ours begins has it.
    """
    try:
        return access.visit(request.cookies.get(access.cookie))
    except LoginNeeded:
        if again:
            raise
        return None


def _add_search(router: APIRouter, page: BedsidePage, pages: _Pages) -> None:
    visiting = Depends(_visit_of(page.access))

    @router.get("", response_class=HTMLResponse)
    def start(request: Request, *, again: bool = False) -> Response:
        """Show the search."""
        visit = _entered(page.access, request, again=again)
        if visit is None:
            return pages.show("hop.html", address=f"{ROOT}?again=true")
        return pages.show("start.html", visit=visit, choices=page.choices(), problem="", chosen="")

    @router.post("/search", response_class=HTMLResponse, openapi_extra=_body("service", "patient"))
    def search(visit: Annotated[Visit, visiting], form: _Form) -> Response:
        """Find a patient, and go to an address that does not say whom."""
        visit.require_form(form.pop(_FIELD, ""))
        chosen, patient = form.get("service", ""), form.get("patient", "").strip()
        if chosen not in page.searches:
            raise MisuseError("choose one of the models that can be searched for.")
        service = page.services[chosen]
        model = service.model
        try:
            found = page.searches[chosen].find(patient, model.model.schema, site="bedside")
        except DataError as error:
            page.audit("card", f"page of model {model.name}: a search without a prediction", "")
            return pages.show(
                "start.html",
                422,
                visit=visit,
                choices=page.choices(),
                problem=str(error),
                chosen=chosen,
            )
        look = Look(uuid.uuid4(), service, found)
        page.looks.keep(look)
        return RedirectResponse(f"{ROOT}/look/{look.name}", 303, HEADERS)


def _add_looks(router: APIRouter, page: BedsidePage, pages: _Pages) -> None:
    visiting = Depends(_visit_of(page.access))

    @router.get("/look/{name}", response_class=HTMLResponse)
    def look(request: Request, name: uuid.UUID, *, again: bool = False) -> Response:
        """Show one patient."""
        visit = _entered(page.access, request, again=again)
        if visit is None:
            return pages.show("hop.html", address=f"{ROOT}/look/{name}?again=true")
        found = page.looks.find(name)
        _record(page, found, "was opened on the page")
        return pages.show(
            "patient.html",
            visit=visit,
            look=found,
            shown=patient_page(found),
            fields=fields(found.patient),
            printed=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            comparison=None,
            problem="",
        )

    @router.post("/look/{name}", response_class=HTMLResponse, openapi_extra=_body("feature.age"))
    def what_if(
        request: Request, name: uuid.UUID, visit: Annotated[Visit, visiting], form: _Form
    ) -> Response:
        """Answer a what-if: the whole page, or for the script the answer alone."""
        visit.require_form(form.pop(_FIELD, ""))
        found = page.looks.find(name)
        _record(page, found, "was asked a what-if on the page")
        comparison, problem = None, ""
        try:
            other, asked = changed(found.patient, form)
            comparison = compare(found, other, asked) if asked else None
        except DataError as error:
            problem = str(error)
        part: dict[str, Any] = {"comparison": comparison, "problem": problem}
        if request.headers.get("x-part") == "answer":
            return pages.show("whatif.html", **part)
        return pages.show(
            "patient.html",
            visit=visit,
            look=found,
            shown=patient_page(found),
            fields=fields(found.patient, form),
            printed=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **part,
        )


def _record(page: BedsidePage, look: Look, what: str) -> None:
    model = look.service.model
    page.audit("card", f"card {look.name} of model {model.name} {what}", model.study_digest)


def _visit_of(access: Access) -> Callable[[Request], Visit]:
    """Make what finds the visit of a request, or refuses it."""

    def visit(request: Request) -> Visit:
        if request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            raise LoginNeeded("another site made this request; nothing was done.")
        return access.visit(request.cookies.get(access.cookie))

    return visit


async def _form(request: Request) -> dict[str, str]:
    """Read the fields of a form; a body that is none is refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise MisuseError("send the fields of the page's form.")
    body = await request.body()
    if len(body) > _LONGEST_FORM:
        raise MisuseError("the form is too long.")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=3000
        )
    except ValueError:
        raise MisuseError("the form cannot be read; load the page again.") from None
    return dict(pairs)


_Form = Annotated[dict[str, str], Depends(_form)]


def _body(*names: str) -> dict[str, Any]:
    """Describe a form in the OpenAPI document."""
    fields_of = {name: {"type": "string"} for name in (_FIELD, *names)}
    schema = {"type": "object", "properties": fields_of}
    return {"requestBody": {"content": {_FORM: {"schema": schema}}}}


def _route_class(pages: _Pages) -> type[APIRoute]:
    """Make the class of the page's routes, which answer an error with a page of one sentence."""

    class PageRoute(APIRoute):
        """A route of the page."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """Wrap the handler."""
            handler = super().get_route_handler()

            async def told(request: Request) -> Response:
                try:
                    return await handler(request)
                except RequestValidationError:
                    code, sentence = 404, "there is no such page."
                except FedRxError as error:
                    code, sentence = _code(error), str(error)
                    if code >= 500:
                        logger.error("%s", error)  # noqa: TRY400 - the sentence is enough
                return pages.show("message.html", code, title=_TITLES[code], sentence=sentence)

            return told

    return PageRoute


_TITLES = {
    400: "That cannot be done",
    401: "Not logged in",
    404: "Nothing here",
    410: "Not to be used",
    422: "No prediction",
    500: "Something went wrong",
}


def _code(error: FedRxError) -> int:
    codes: tuple[tuple[type[FedRxError], int], ...] = (
        (LoginNeeded, 401),
        (LookGone, 404),
        (ModelUnusable, 410),
        (DataError, 422),
        (MisuseError, 400),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), 500)
