"""Codes in one normal form, so that two spellings of one code are one code on both sides.

A code is a short text that stands for a value: a study's category, or a cell of a hospital's table.
Patients' and sites' ids are not codes: what makes two of them alike is for a hospital to say.
"""

import re
import unicodedata

_WHOLE = re.compile(r"([+-]?[0-9]+)\.0{1,2}")
_WHOLE_COMMA = re.compile(r"([+-]?[0-9]+)[.,]0{1,2}")
# A star allele may hold copies and tandems (*1x2, *36+*10); a gene's name may be before it.
_STARS = re.compile(
    r"(?P<gene>[A-Za-z][A-Za-z0-9-]*)?\s*(?P<first>\*[^\s/*][^\s/]*)\s*/"
    r"\s*(?P<again>[A-Za-z][A-Za-z0-9-]*)?\s*(?P<second>\*[^\s/*][^\s/]*)"
)
_BASES = re.compile(r"(?P<first>[ACGT]+)\s*/\s*(?P<second>[ACGT]+)")


def code_key(text: str, feature: str = "", *, decimal: str = ".") -> str:
    """Bring a code into its normal form; two texts with one form are the same code.

    "1.0" is "1". A diplotype's phase is unknown, so "*2/*1" is "*1/*2" and "G/A" is "A/G"; spaces
    around the slash do not count. "CYP2C9*1/*2" is "*1/*2" in a feature that is named after the
    gene; elsewhere the gene counts. All other text stays as it is, in Unicode's composed form.

    Args:
        text: the code, without spaces around it.
        feature: name of the study's feature, e.g. 'cyp2c9' or 'cyp2c9_diplotype'.
        decimal: decimal separator of its file.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "/" in text:
        return _diplotype(text, feature)
    if text.endswith("0"):
        whole = (_WHOLE_COMMA if decimal == "," else _WHOLE).fullmatch(text)
        return whole[1] if whole else text
    return text


def first_alike(codes: tuple[str, ...], feature: str = "") -> tuple[str, str] | None:
    """The first two codes that are one, if there are such."""
    seen: dict[str, str] = {}
    for code in codes:
        other = seen.setdefault(code_key(code, feature), code)
        if other != code:
            return other, code
    return None


def _diplotype(text: str, feature: str) -> str:
    """A diplotype with its alleles in order; other text as it is."""
    found = _STARS.fullmatch(text) or _BASES.fullmatch(text)
    if found is None:
        return text
    parts = found.groupdict()
    gene, again = (parts.get("gene") or "").upper(), (parts.get("again") or "").upper()
    if again not in ("", gene):
        return text
    alleles = "/".join(sorted((parts["first"], parts["second"])))
    return alleles if gene.lower() in ("", *feature.split("_")) else f"{gene}{alleles}"
