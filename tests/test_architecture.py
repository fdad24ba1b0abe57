"""Who imports whom: the arrows of the design, read from the source, at function level too."""

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from types import MappingProxyType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

ROOMS: Mapping[str, str] = MappingProxyType(
    {
        "fedrx_common": "common",
        "fedrx_protocol": "protocol",
        "fedrx_models": "shared_models",
        "fedrx_client": "client",
        "fedrx_server": "server",
        "fedrx_simulation": "simulation",
        "fedrx": ".",
    }
)

# What each package may import of ours, besides itself.
ARROWS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "fedrx_common": frozenset(),
        "fedrx_protocol": frozenset({"fedrx_common"}),
        "fedrx_models": frozenset({"fedrx_common", "fedrx_protocol"}),
        "fedrx_client": frozenset({"fedrx_common", "fedrx_protocol", "fedrx_models"}),
        "fedrx_server": frozenset({"fedrx_common", "fedrx_protocol", "fedrx_models"}),
        "fedrx_simulation": frozenset(
            {"fedrx_common", "fedrx_protocol", "fedrx_models", "fedrx_client", "fedrx_server"}
        ),
        "fedrx": frozenset(ROOMS) - {"fedrx"},
    }
)

# Inside a room: what each folder or file at its top may import of the others.
FOLDERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "fedrx_protocol": {
            "plan": "secagg study privacy fixed_point",
            "secagg": "messages trust",
            "messages": "trust",
        },
        "fedrx_models": {
            "planning": "transfer evaluation",
            "evaluation": "calibration metrics contract card",
            "transfer": "files registry contract cohort",
            "files": "registry calibration contract cohort card",
            "registry": "pharmacogenomic flux contract",
            "pharmacogenomic": "heads contract cohort layers",
            "flux": "heads contract cohort layers",
            "explain": "pharmacogenomic flux metrics contract cohort",
            "calibration": "contract cohort card",
            "twin": "cohort",
            "onnx_export": "files heads contract cohort",
            "personal": "fitting flux contract cohort",
            "fitting": "flux heads contract cohort",
            "heads": "contract cohort",
            "contract": "cohort",
            "metrics": "cohort",
        },
        "fedrx_client": {
            "app": "participation identity records training",
            "clinic": "data records",
            "checks": "participation approvals identity records data training connection",
            "participation": "approvals identity records data training",
            "approvals": "identity records data",
            "identity": "records",
        },
        "fedrx_server": {
            "app": "rounds",
            "service": "rounds report runs gateway consortium",
            "rounds": "runs",
            "report": "runs",
        },
        "fedrx_simulation": {
            "comparison": "simulate evaluation federation",
            "simulate": "evaluation federation",
            "evaluation": "federation",
        },
        "fedrx": {
            "__init__": "api",
            "cli": "api comparison file_schemas views",
            "comparison": "api sources views",
            "api": "sources study_cost study_templates",
        },
    }
)

# What crosses the wire is understood without Flower and without torch.
OUTSIDE_OF_PROTOCOL = frozenset(
    {"fedrx_common", "numpy", "cryptography", "pydantic", "dp_accounting"}
)
NEVER: Mapping[str, frozenset[str]] = MappingProxyType(
    {"fedrx_models": frozenset({"flwr", "ray", "opacus"}), "fedrx_server": frozenset({"opacus"})}
)


def imported(source: str, package: str) -> Iterator[str]:
    """Top-level packages that a module of `package` imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            name = node.args[0] if node.args else None
            fixed = isinstance(name, ast.Constant) and isinstance(name.value, str)
            yield str(name.value).partition(".")[0] if fixed else "a module named at run time"


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / ROOMS[package] / package).rglob("*.py"))


def imports_of(package: str) -> dict[str, set[str]]:
    """By file: what it imports that is neither its own package nor the standard library."""
    own = {package, *sys.stdlib_module_names}
    return {
        str(path.relative_to(REPOSITORY)): set(imported(path.read_text(), package)) - own
        for path in modules(package)
    }


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_knows_only_the_rooms_that_the_arrows_show(package):
    known = ARROWS[package]
    wrong = {
        file: sorted(found.intersection(ROOMS) - known)
        for file, found in imports_of(package).items()
        if found.intersection(ROOMS) - known
    }
    assert wrong == {}


def test_protocol_knows_neither_flower_nor_torch():
    wrong = {
        file: sorted(found - OUTSIDE_OF_PROTOCOL)
        for file, found in imports_of("fedrx_protocol").items()
        if found - OUTSIDE_OF_PROTOCOL
    }
    assert wrong == {}


@pytest.mark.parametrize("package", NEVER)
def test_what_a_room_must_never_need(package):
    wrong = {file for file, found in imports_of(package).items() if found & NEVER[package]}
    assert wrong == set()


@pytest.mark.parametrize("package", ROOMS)
def test_no_module_is_named_by_incoming_data_or_unpickled(package):
    for file, found in imports_of(package).items():
        assert "a module named at run time" not in found, file
    for path in modules(package):
        assert "pickle" not in set(imported(path.read_text(), package)), path


def siblings(package: str) -> dict[str, set[str]]:
    """By folder or file at the top of a room: the others there that it imports."""
    top = REPOSITORY / ROOMS[package] / package
    found: dict[str, set[str]] = {}
    for path in modules(package):
        own = path.relative_to(top).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            parts = [name.split(".") for name in names if name.startswith(f"{package}.")]
            others = {name[1] for name in parts} - {own}
            here = {x for x in others if (top / x).is_dir() or (top / f"{x}.py").is_file()}
            found.setdefault(own, set()).update(here)
    return found


@pytest.mark.parametrize("package", FOLDERS)
def test_a_folder_knows_only_the_folders_that_the_arrows_show(package):
    allowed = FOLDERS[package]
    found = siblings(package)
    assert {
        one: extra
        for one, others in found.items()
        if (extra := sorted(others - set(allowed.get(one, "").split())))
    } == {}
    unused = {
        one: left
        for one, others in allowed.items()
        if (left := sorted(set(others.split()) - found.get(one, set())))
    }
    assert unused == {}, "an arrow that nothing uses any more"


@pytest.mark.parametrize("package", FOLDERS)
def test_the_arrows_inside_a_room_have_no_circle(package):
    arrows = {one: set(others.split()) for one, others in FOLDERS[package].items()}
    TopologicalSorter(arrows).prepare()


def test_no_class_name_stands_for_two_things():
    places: dict[str, list[str]] = {}
    for package in ROOMS:
        for path in modules(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(str(path.relative_to(REPOSITORY)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("package", ROOMS)
def test_a_folder_says_what_belongs_there_and_imports_nothing(package):
    for path in modules(package):
        front_door = package == "fedrx" and path.parent.name == "fedrx"
        if path.name != "__init__.py" or front_door:
            continue  # `import fedrx` is the front door: it names what it offers, and loads it late
        tree = ast.parse(path.read_text())
        assert len((ast.get_docstring(tree) or "").split("\n\n")) >= 2, path
        inside = {name for name in imported(path.read_text(), package) if name.startswith("fedrx")}
        assert inside == set(), path


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_was_read(package):
    assert len(modules(package)) >= 3
    assert (REPOSITORY / ROOMS[package] / package / "__init__.py").is_file()


def test_every_package_of_ours_is_a_room():
    found = {path.parent.name for path in REPOSITORY.glob("*/fedrx*/__init__.py")}
    assert found | {"fedrx"} == set(ROOMS)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.nn", "torch"),
        ("import os, flwr.app as app", "flwr"),
        ("from fedrx_server.rounds.loop import StudyRun", "fedrx_server"),
        ("def later():\n    from flwr.app import Message", "flwr"),
        ("class A:\n    def f(self):\n        import torch", "torch"),
        ("if TYPE_CHECKING:\n    import torch", "torch"),
        ("from . import plan", "own"),
        ("from ..fedrx_server import x", "own"),
        ("import importlib\nimportlib.import_module('torch.nn')", "torch"),
        ("__import__('flwr')", "flwr"),
        ("import_module(name)", "a module named at run time"),
    ],
)
def test_the_reader_finds_imports_wherever_they_stand(source, found):
    assert found in set(imported(source, "own"))
