"""The digest of the declared pipeline: everything that decides how a source becomes a cohort.

A study may pin it (`cohort.pipeline`), for a consortium whose sites share one mapping, e.g. of OMOP
or FHIR. Training and prediction call the same function, so that a model never sees patients that
were prepared in another way.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from fedrx_client.data.mapping import TableMapping
from fedrx_common.canonical_json import to_json
from fedrx_common.errors import MisuseError
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import Study

FORMAT = 1
"""Rises whenever code changes what the same mapping makes of the same source."""

_TABLES = "fedrx_client.data.harmonise"
# Where the mapping names a file, by section: names differ from site to site and decide nothing.
_FILES = {
    "join": ("file",),
    "target": ("file",),
    "visits": ("features",),
    "genotypes": ("file", "samples"),
}


class PipelineChanged(MisuseError):
    """A cohort would be made in another way than the study agreed on.

    Prevents a model from learning of, or speaking about, values that mean something else.
    """


def pipeline_digest(mapping: TableMapping, schema: FeatureSchema) -> str:
    """Compute the SHA-256 (hex) over all that decides how a source becomes a cohort.

    That is the mapping without its own name and without names of files, the study's features and
    target, the tables that FedRx ships (units, codes, alleles), and `FORMAT`. Comments, the order
    of keys and defaults that are written out play no part.

    Args:
        mapping: the site's mapping.
        schema: the study's features and target.
    """
    document = {
        "format": FORMAT,
        "mapping": _without_files(mapping),
        "schema": schema.model_dump(mode="json"),
        "tables": dict(_tables()),
    }
    return hashlib.sha256(b"fedrx/1 pipeline\x00" + to_json(document)).hexdigest()


def require_pipeline(study: Study, mapping: TableMapping) -> None:
    """Refuse a mapping that is not the one that a study pins, if it pins one.

    Raises:
        PipelineChanged: names both digests.
    """
    pinned, schema = study.cohort.pipeline, study.feature_schema
    if pinned is None:
        return
    found = pipeline_digest(mapping, schema)
    if found != pinned:
        raise PipelineChanged(
            f"{mapping.source}: makes a cohort by pipeline {found[:12]}, but study '{study.name}' "
            f"agreed on {pinned[:12]} (cohort.pipeline): use the consortium's mapping and FedRx "
            "release, or ask the consortium to change the study."
        )


def _without_files(mapping: TableMapping) -> dict[str, Any]:
    # Defaults are left out, so that a key that a later release adds changes no digest.
    document = mapping.model_dump(mode="json", exclude={"source"}, exclude_defaults=True)
    for section, keys in _FILES.items():
        if isinstance(document.get(section), dict):
            document[section] = {
                key: "a file" if key in keys and value else value
                for key, value in document[section].items()
            }
    for block in document.get("blocks", {}).values():
        if "file" in block:
            block["file"] = "a file"
    return document


@lru_cache(maxsize=1)
def _tables() -> tuple[tuple[str, str], ...]:
    """Name the SHA-256 of every table that is shipped; code is covered by `FORMAT`."""
    return tuple(
        (name, hashlib.sha256(file.read_bytes()).hexdigest())
        for name, file in sorted(_files(resources.files(_TABLES), ""))
    )


def _files(folder: Traversable, before: str) -> Iterator[tuple[str, Traversable]]:
    for one in folder.iterdir():
        name = f"{before}{one.name}"
        if one.is_dir():
            if one.name != "__pycache__":
                yield from _files(one, f"{name}/")
        elif not name.endswith((".py", ".pyc")):
            yield name, one
