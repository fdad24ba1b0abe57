"""A bedside server on loopback: the warfarin study and one of courses, with a page and a table."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from bedside import MAPPING
from spare_ports import free_ports

from fedrx.study_templates import TASKS, template
from fedrx_client.clinic.page.access import Access
from fedrx_client.clinic.page.routes import LOGIN, BedsidePage, page_router
from fedrx_client.clinic.service.app import make_app
from fedrx_client.clinic.service.services_file import read_services
from fedrx_client.clinic.service.serving import Desk
from fedrx_models.card import ModelCard
from fedrx_models.files import save_model
from fedrx_models.pharmacogenomic.published_model import published_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import Study

EXAMPLES = Path(__file__).parents[2] / "examples"
WARFARIN = Study.parse(template("dose"), source=TASKS["dose"])
LIVER = Study.load(EXAMPLES / "cirrhosis" / "study.toml")
SERVICES = """
[[service]]
id = "dose"
hook = "patient-view"
model = "iwpc.safetensors"
mapping = "record.toml"

[[service]]
id = "liver"
hook = "patient-view"
model = "liver.safetensors"
mapping = "visits.toml"

[page]
source = "patients.csv"
mapping = "patients.toml"
"""
COURSES = SERVICES.split("\n\n")[1] + "\n[page]\nsource = 'visits.csv'\n"
DOSES = SERVICES.replace(SERVICES.split("\n\n")[1], "")
HEADER = (
    "id,age_decade,height_cm,weight_kg,vkorc1,cyp2c9,race,asian_population,gender,enzyme_inducer,"
    "amiodarone,smoker,valve_replacement,thromboembolism"
)
# "p3" is broken: what is wrong with one patient does not keep another from being found.
TABLE = f"""{HEADER}
p1,6,170,80,A/G,*1/*3,White,,male,no,no,no,no,no
p2,8,155,,A/A,*3/*3,Asian,Chinese,female,no,yes,no,no,no
p3,6,17000,80,A/G,*1/*3,White,,male,no,no,no,no,no
<b>,6,170,80,A/G,*1/*3,White,,male,no,no,no,no,no
"""


def table_mapping(study: Study) -> str:
    """Write the mapping of a table that has the study's own names."""
    lines = ['[table]\npatient = "id"\nmissing = [""]\n']
    for one in study.feature_schema.features:
        lines.append(f'[features.{one.name}]\nkind = "{one.kind}"')
        if one.kind == "flag":
            lines.append(f'any_of = ["{one.name}"]\nyes = ["yes"]\nno = ["no"]\n')
        else:
            unit = f'unit = "{one.unit}"\n' if one.kind == "number" else ""
            lines.append(f'column = "{one.name}"\n{unit}')
    return "\n".join(lines)


VISITS = """id,time,age,female,bilirubin,log_bilirubin,albumin,platelets,d_penicillamine
c1,0,58,yes,1.4,1.4,3.6,190,no
c1,0.6,58,yes,1.9,1.9,3.5,181,no
c1,1.1,58,yes,2.2,2.2,3.4,170,yes
c1,2.0,58,yes,3.4,3.4,3.1,150,yes
"""


def visits_mapping() -> str:
    """Write the mapping of a table of visits that has the study's own names."""
    schema, there = LIVER.feature_schema, VISITS.splitlines()[0].split(",")
    lines = [table_mapping(LIVER), '[visits]\ntime = "time"\nunit = "year"\nshort = "drop"']
    for one in schema.markers:
        lacks = "" if one.name in there else "measured = false\n"
        there_is = f'column = "{one.name}"\nunit = "{one.unit}"\n'
        lines.append(f"[markers.{one.name}]\n{lacks or there_is}")
    lines.append(
        '[treatments.d_penicillamine]\ncolumn = "d_penicillamine"\nyes = ["yes"]\nno = ["no"]'
    )
    return "\n".join(lines)


@dataclass
class Server:
    """A server that runs.

    Attributes:
        folder: its files.
        address: of it.
        page: what its page has.
        recorded: lines of the audit log.
    """

    folder: Path
    address: str
    page: BedsidePage
    recorded: list[tuple[str, str, str]] = field(default_factory=list)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60)

    def login(self) -> str:
        return f"{self.address}{LOGIN}?token={self.page.access.new_link()}"


def write_files(folder: Path, **card: Any) -> None:
    model = published_model("pharmacogenetic", WARFARIN.feature_schema)
    own = {"title": "Warfarin dose, IWPC 2009", "made": date(2026, 1, 2), **card}
    save_model(
        folder / "iwpc.safetensors", model, WARFARIN.digest, ModelCard(study=WARFARIN.name, **own)
    )
    liver = build_model(LIVER.model, LIVER.feature_schema, seed=0)
    named = ModelCard(study=LIVER.name, title=LIVER.title, made=date(2026, 1, 2))
    save_model(folder / "liver.safetensors", liver, LIVER.digest, named)
    (folder / "visits.toml").write_text(visits_mapping())
    (folder / "visits.csv").write_text(VISITS)
    (folder / "record.toml").write_text(MAPPING)
    (folder / "patients.toml").write_text(table_mapping(WARFARIN))
    (folder / "patients.csv").write_text(TABLE)


@contextmanager
def serving(folder: Path, services: str, **changes: Any) -> Iterator[Server]:
    """Run a server of the files in a folder."""
    (folder / "services.toml").write_text(services)
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    recorded: list[tuple[str, str, str]] = []

    def audit(kind: str, reason: str, study: str) -> None:
        recorded.append((kind, reason, study))

    bedside = read_services(folder / "services.toml")
    page = BedsidePage(
        bedside.services, bedside.searches, audit, Access(f"fedrx-{port}"), secure=False, **changes
    )
    desk = Desk(bedside.services, audit, page.link_for(address))
    app = make_app(desk, tokens=None, address=address, page=page_router(page))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.05)
        yield Server(folder, address, page, recorded)
    finally:
        server.should_exit = True
        thread.join()
