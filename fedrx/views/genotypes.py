"""Called genotypes as a person reads them: one block a patient, one line a gene."""

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from fedrx_client.data.harmonise.alleles.caller import Call
from fedrx_client.data.harmonise.alleles.tables import gene_table

_WIDTH = 100
_INDENT = " " * 11
_MOST_ALTERNATIVES = 4


def calls_page(calls: Mapping[str, Mapping[str, Call]]) -> str:
    """Write every sample's calls: what is called, what it does, and what to know about it."""
    return "\n\n".join("\n".join(_patient(name, genes)) for name, genes in calls.items())


def calls_document(calls: Mapping[str, Mapping[str, Call]]) -> dict[str, Any]:
    """Describe every sample's calls for JSON; what is not known is null."""
    return {
        "samples": {
            name: {
                gene: {
                    "diplotype": call.diplotype,
                    "phenotype": call.phenotype,
                    "activity": call.activity,
                    "alternatives": list(call.alternatives),
                    "missing": [
                        {"position": one.position, "rsid": one.rsid, "alleles": list(one.alleles)}
                        for one in call.missing
                    ],
                    "note": call.note,
                }
                for gene, call in genes.items()
            }
            for name, genes in calls.items()
        }
    }


def _patient(name: str, genes: Mapping[str, Call]) -> Iterator[str]:
    yield name
    absent = [gene for gene, call in genes.items() if _is_absent(gene, call)]
    for gene, call in genes.items():
        if gene in absent:
            continue
        does = call.phenotype or ""
        if call.activity is not None:
            does += f" (activity {call.activity:g})"
        yield f"  {gene:<9}{call.diplotype or 'not called':<14}  {does}".rstrip()
        if call.alternatives:
            shown = ", ".join(call.alternatives[:_MOST_ALTERNATIVES])
            more = len(call.alternatives) - _MOST_ALTERNATIVES
            yield from _lines(f"also fits: {shown}{f' and {more} more' * (more > 0)}")
        for sentence in call.note.split("; ") if call.note else ():
            yield from _lines(sentence)
    if absent:
        yield from wrap(f"no genotype in the file: {', '.join(absent)}", _WIDTH, **_margins("  "))


def _is_absent(gene: str, call: Call) -> bool:
    return len(call.missing) == len(gene_table(gene).loci)


def _lines(sentence: str) -> list[str]:
    return wrap(sentence, _WIDTH, **_margins(_INDENT))


def _margins(text: str) -> dict[str, Any]:
    return {"initial_indent": text, "subsequent_indent": f"{text}  ", "break_long_words": False}
