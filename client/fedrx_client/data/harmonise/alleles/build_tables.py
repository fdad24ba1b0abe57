"""Makes `tables/` from the public definitions: `python -m …alleles.build_tables FOLDER`.

FOLDER holds `alleles/*_translation.json` and `phenotype/*.json` as ClinPGx ships them with PharmCAT
(CPIC content, CC0 1.0; see `tables/LICENSE.md`). Only what the caller needs is kept: positions,
alleles, functions, and the phenotype of each pair of functions. All pairs of the source are
compared with what the compact form gives; one difference stops the script.
"""

import json
import re
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Any

Json = Any

_TABLES = Path(__file__).with_name("tables")
# Every indel of the source is written in one of these forms; X is its rightmost place.
_DELETED = re.compile(r"g\.(\d+)(?:_(\d+))?del[ACGT]*")
_DOUBLED = re.compile(r"g\.(\d+)(?:_(\d+))?dup")
_INSERTED = re.compile(r"g\.(\d+)_\d+ins[ACGT]+")
_REPEATED = re.compile(r"g\.(\d+)([ACGT]+)\[\d+\]")
_COUNT = re.compile(r"[ACGT]+\((\d+)\)")


def _periodic(bases: str, length: int) -> str:
    return "".join(islice(cycle(bases), length))


def _run(variant: Json) -> str:
    """Return the reference bases from an indel's position to the end of its repeat.

    An indel in a repeat can be written at each of its units; with these bases all of them are
    brought to the leftmost, which the table names.
    """
    start: int = variant["position"]
    ref: str = variant["ref"]
    alts, names = variant["alts"], variant["cpicToVcfAlleleMap"]
    hgvs = variant["chromosomeHgvsName"].split(";")[0]
    unit = ref[1:] or min(alts, key=len)[1:]
    if (found := _DELETED.fullmatch(hgvs)) or (found := _DOUBLED.fullmatch(hgvs)):
        last = int(found[2] or found[1])
    elif found := _INSERTED.fullmatch(hgvs):
        last = int(found[1])
    elif found := _REPEATED.fullmatch(hgvs):
        written = next(name for name, bases in names.items() if bases == ref)
        count = _COUNT.fullmatch(written)
        last = int(found[1]) + len(found[2]) * (int(count[1]) if count else 1) - 1
        run = ref[0] + _periodic(unit, last - start)
        if not run[int(found[1]) - start :].startswith(found[2]):
            raise ValueError(f"{hgvs}: the repeat is not where its unit says")
    else:
        raise ValueError(f"{hgvs}: an indel of an unknown form")
    return ref[0] + _periodic(unit, last - start)


def _position(variant: Json) -> Json:
    ref, alts = variant["ref"], variant["alts"]
    short = {"pos": variant["position"], "rsid": variant["rsid"] or "", "ref": ref, "alts": alts}
    short["hgvs"] = variant["chromosomeHgvsName"]
    if len(ref) > 1 or any(len(alt) > 1 for alt in alts):
        short["run"] = _run(variant)
    return short


def _check_bases(gene: str, positions: list[Json]) -> None:
    """Raise `ValueError` if two positions disagree about a base of the reference."""
    bases: dict[int, str] = {}
    for one in positions:
        for offset, base in enumerate(one.get("run", one["ref"])):
            if bases.setdefault(one["pos"] + offset, base) != base:
                raise ValueError(f"{gene}: two reference bases at {one['pos'] + offset}")


def _phenotypes(gene: str, source: Json) -> Json:
    """Return functions, activities, and the phenotype of each pair of functions."""
    functions = {one["name"]: one["functionValue"] for one in source["namedAlleles"]}
    activity = {
        one["name"]: float(one["activityValue"])
        for one in source["namedAlleles"]
        if one["activityValue"] not in (None, "n/a")
    }
    pairs: dict[tuple[str, str], str] = {}
    for one in source["diplotypes"]:
        names = [name for name, count in one["diplotypekey"].items() for _ in range(count)]
        first, second = sorted(functions[name] for name in names)
        if pairs.setdefault((first, second), one["phenotype"]) != one["phenotype"]:
            raise ValueError(f"{gene}: {first} with {second} has two phenotypes")
        known = [activity[name] for name in names if name in activity]
        score = f"{sum(known):.1f}" if len(known) == 2 else "n/a"
        if (one["activityScore"] or "n/a") != score:
            raise ValueError(f"{gene} {one['diplotype']}: activity {score} is not its score")
    return {
        "functions": functions,
        "activity": activity,
        "phenotypes": [[first, second, name] for (first, second), name in sorted(pairs.items())],
    }


def compact(definition: Json, phenotype: Json | None) -> Json:
    """Bring the definition of one gene, and its phenotypes where there are, into our form."""
    gene = definition["gene"]
    positions = [_position(variant) for variant in definition["variants"]]
    _check_bases(gene, positions)
    alleles = {
        # Sub-alleles are called by the name of the allele that they are of.
        one["name"]: {str(i): base for i, base in enumerate(one["alleles"]) if base is not None}
        for one in definition["namedAlleles"]
    }
    reference = next(one["name"] for one in definition["namedAlleles"] if one["reference"])
    return {
        "gene": gene,
        "chromosome": definition["chromosome"],
        "accession": definition["refSeqChromosomeId"],
        "build": definition["genomeBuild"],
        "version": definition["version"],
        "reference": reference,
        "positions": positions,
        "alleles": alleles,
        "sub_alleles": definition["suballelesMap"],
        **(_phenotypes(gene, phenotype) if phenotype else {}),
    }


def main(folder: Path) -> None:
    """Write one table for each gene that the folder defines."""
    for path in sorted((folder / "alleles").glob("*_translation.json")):
        definition = json.loads(path.read_text("utf-8"))
        other = folder / "phenotype" / f"{definition['gene']}.json"
        phenotype = json.loads(other.read_text("utf-8")) if other.is_file() else None
        table = compact(definition, phenotype)
        lines = [f" {json.dumps(key)}: {_lines(value)}" for key, value in table.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        (_TABLES / f"{table['gene']}.json").write_text(text, "utf-8")


def _lines(value: Json) -> str:
    """Write a list or an object one entry a line, so that a new version shows what changed."""
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"  {json.dumps(one)}" for one in value) + "\n ]"
    if isinstance(value, dict) and value:
        entries = (f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items())
        return "{\n" + ",\n".join(entries) + "\n }"
    return json.dumps(value)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
