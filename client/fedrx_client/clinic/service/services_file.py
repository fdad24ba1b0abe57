"""`services.toml`: which models a hospital serves, and how its record becomes their features.

[[service]]
id = "warfarin-dose"
hook = "order-select"            # patient-view, order-select or order-sign
model = "warfarin.safetensors"   # beside this file
mapping = "warfarin_fhir.toml"   # beside this file
drugs = ["warfarin"]             # of an order: cards for these only; left out: for all
guideline = "warfarin"           # a published guideline beside the model's answer; left out: none
disagreement = 0.25              # by how much of its dose the model may differ unremarked
follow_up = true                 # keep predictions under a pseudonym for `fedrx site follow-up`

[page]                           # a page for one patient on the same server; left out: none
source = "patients.csv"          # where it searches; left out: only a card's link leads to it
mapping = "patients.toml"        # how the source becomes features; left out: that of the service
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrx_client.clinic.follow_up import require_followed
from fedrx_client.clinic.guideline.guidance import DISAGREEMENT, guideline_for
from fedrx_client.clinic.patients import Search
from fedrx_client.clinic.reasons import reasons
from fedrx_client.clinic.service.hooks import HookName
from fedrx_client.clinic.service.record import orders_of, prefetch_of, reader
from fedrx_client.clinic.service.serving import Guideline, ServedModel, WatchedModel
from fedrx_client.data.harmonise.codes.value_sets import value_sets
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.records import Code
from fedrx_client.data.readers.source import Source
from fedrx_common.documents import DocumentInvalid, read_toml
from fedrx_common.errors import DataError, MisuseError
from fedrx_common.text import quoted
from fedrx_models.files import load_model
from fedrx_protocol.study.schema import FeatureSchema

SERVICES = "services.toml"


class ServiceEntry(BaseModel):
    """One service of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    hook: HookName
    model: str = Field(min_length=1)
    mapping: str = Field(min_length=1)
    drugs: tuple[str, ...] = Field(default=(), strict=False)
    guideline: str = ""
    disagreement: float = Field(default=DISAGREEMENT, gt=0, le=10)
    follow_up: bool = False


class PageEntry(BaseModel):
    """The page of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: str = ""
    mapping: str | dict[str, str] = ""


class ServicesFile(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    service: tuple[ServiceEntry, ...] = Field(min_length=1, strict=False)
    page: PageEntry | None = None


@dataclass(frozen=True)
class Bedside:
    """What a file of services says.

    Attributes:
        services: by id.
        searches: by id of the service, how the page finds a patient; empty where it cannot.
        page: whether there is a page.
    """

    services: Mapping[str, ServedModel]
    searches: Mapping[str, Search]
    page: bool


def read_services(path: Path) -> Bedside:
    """Read the file, and every model and mapping that it names.

    Raises:
        MisuseError: naming file and key; of a model or mapping, in its own words.
    """
    file = _file(path)
    served: dict[str, ServedModel] = {}
    for one in file.service:
        if one.id in served:
            raise MisuseError(f"{path}: service '{one.id}' stands twice; give each its own id.")
        served[one.id] = _served(one, path)
    page = file.page
    searches = {} if page is None or not page.source else _searches(file.service, page, path)
    return Bedside(served, searches, page is not None)


def _file(path: Path) -> ServicesFile:
    try:
        return ServicesFile.model_validate(read_toml(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise MisuseError(
            f"{path}: there is no such file of services; write one with [[service]] sections."
        ) from None
    except (OSError, UnicodeDecodeError, DocumentInvalid) as error:
        raise MisuseError(f"{path}: cannot be read: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise MisuseError(f"{path}: {quoted(place)} cannot be used: {first['msg']}.") from None


def _searches(services: Sequence[ServiceEntry], page: PageEntry, path: Path) -> dict[str, Search]:
    """Say for each service how the page finds a patient."""
    try:
        given_as_url = "://" in page.source
        source = Source.parse(page.source if given_as_url else path.parent / page.source)
    except DataError as error:
        raise MisuseError(f"{path}: 'page.source' cannot be used: {error}") from None
    given = page.mapping
    known = {one.id for one in services}
    if isinstance(given, dict) and (strange := sorted(given.keys() - known)):
        raise MisuseError(
            f"{path}: 'page.mapping' names {quoted(strange[0])}, which no service is."
        )
    found = {}
    for one in services:
        name = given if isinstance(given, str) else given.get(one.id, "")
        mapping = TableMapping.load(path.parent / (name or one.mapping))
        found[one.id] = Search(source, mapping, path.parent)
    return found


def _served(one: ServiceEntry, path: Path) -> ServedModel:
    model = load_model(path.parent / one.model)
    if one.follow_up:
        require_followed(model.model.schema)
    mapping = TableMapping.load(path.parent / one.mapping)
    sets = value_sets("drug")
    drugs: set[Code] = set()
    for name in one.drugs:
        system, colon, code = name.partition(":")
        if name not in sets and not (colon and system and code):
            raise MisuseError(
                f"{path}: service '{one.id}' names drug {quoted(name)}, which is neither a value "
                "set nor a code such as rxnorm:11289."
            )
        drugs.update(Code(*pair) for pair in sets.get(name, ((system, code),)))
    return ServedModel(
        id=one.id,
        hook=one.hook,
        watched=WatchedModel(model),
        read=reader(mapping, model.model.schema, path.parent),
        prefetch=prefetch_of(mapping),
        reasons=reasons,
        concerns=lambda orders: not drugs or bool(drugs & orders_of(orders)),
        guideline=_guideline(one, path, model.model.schema),
        follow_up=one.follow_up,
    )


def _guideline(one: ServiceEntry, path: Path, schema: FeatureSchema) -> Guideline:
    if not one.guideline:
        return lambda _model, _patient, _found: ((), "")
    try:
        return guideline_for(one.guideline, schema, one.disagreement)
    except MisuseError as error:
        raise MisuseError(f"{path}: service '{one.id}': {error}") from None
