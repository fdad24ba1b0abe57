"""Streams the records of a VCF that touch wanted positions: plain, gzip or bgzip text.

A record that is not wanted is checked for its fields and its position, and forgotten. The text is
parsed here, not by htslib, which writes parts of a patient's file to standard error, cannot say
which record it stopped at, and takes a bgzip file that was cut between two blocks as whole. No
genotype is interpreted here, and no record is put right: a file that is wrong is refused.
"""

import gzip
import re
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from fedrx_common.errors import DataError, counted
from fedrx_common.text import fault_in

_LONGEST_LINE = 1 << 26  # bytes: about ten million samples' bare genotypes
_FIXED = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO".split(b"\t")
_GZIP = b"\x1f\x8b"
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_END = re.compile(rb"(?:\A|;)END=(\d{1,10})(?:;|\Z)")
_BASES = re.compile(rb"[ACGTNRYSWKMBDHVacgtnryswkmbdhv]+")
# An allele: bases, a symbol such as <DEL>, *, a breakend, or nothing.
_ALLELE = re.compile(rb"[ACGTNacgtn]+|<[^<>\s]+>|\*|\.|\.?[ACGTNacgtn]*[\[\]][^\s\[\]]+[\[\]].*")
_CONTIG = re.compile(rb"##contig=<(.*)>")
_FIELD = re.compile(rb'(\w+)=("[^"]*"|[^,]*)')
_REFSEQ = re.compile(r"NC_0000(\d\d)\.\d+")

# Length of each chromosome in the two builds (GenBank GCA_000001405.14 and GCA_000001405.15).
_LENGTHS_37 = (
    "249250621 243199373 198022430 191154276 180915260 171115067 159138663 146364022 141213431 "
    "135534747 135006516 133851895 115169878 107349540 102531392 90354753 81195210 78077248 "
    "59128983 63025520 48129895 51304566 155270560 59373566"
)
_LENGTHS_38 = (
    "248956422 242193529 198295559 190214555 181538259 170805979 159345973 145138636 138394717 "
    "133797422 135086622 133275309 114364328 107043718 101991189 90338345 83257441 80373285 "
    "58617616 64444167 46709983 50818468 156040895 57227415"
)
_CHROMOSOMES = (*(str(i) for i in range(1, 23)), "X", "Y")
_LENGTHS = {
    build: dict(zip(_CHROMOSOMES, map(int, lengths.split()), strict=True))
    for build, lengths in {"GRCh37": _LENGTHS_37, "GRCh38": _LENGTHS_38}.items()
}
_NAMES_OF_BUILDS = {
    "GRCh37": re.compile(rb"GRCh37|hg19|\bb37\b|human_g1k_v37|hs37d5", re.IGNORECASE),
    "GRCh38": re.compile(rb"GRCh38|hg38|\bb38\b|hs38", re.IGNORECASE),
    "T2T-CHM13": re.compile(rb"CHM13|\bhs1\b", re.IGNORECASE),
    "NCBI36": re.compile(rb"NCBI36|hg18|\bb36\b", re.IGNORECASE),
}
# Header lines that say which genome the positions are of; others may quote any name.
_OF_BUILD = re.compile(rb"##(?:reference|assembly|contig)=", re.IGNORECASE)


@dataclass(frozen=True)
class VcfHeader:
    """What a VCF's header says.

    Attributes:
        samples: names, in the order of their columns.
        build: the genome that its positions are of; None where it does not say.
        lines: how many lines the header has.
    """

    samples: tuple[str, ...]
    build: str | None
    lines: int


@dataclass(frozen=True)
class VcfRecord:
    """One record that touches a wanted position.

    Attributes:
        line: where it is in the file, from 1.
        chromosome: without "chr".
        position: from 1.
        end: its last base: of the reference allele, or what INFO's END says.
        rsid: its ID column.
        ref: the reference allele, in capitals.
        alts: other alleles, in capitals; none where the column is ".".
        failed: the filters that it failed, as written; "" where it passed or was not filtered.
        keys: what each sample's cell holds, in order.
        cells: one per sample, as written.
    """

    line: int
    chromosome: str
    position: int
    end: int
    rsid: str
    ref: str
    alts: tuple[str, ...]
    failed: str
    keys: tuple[str, ...]
    cells: tuple[bytes, ...]


class VcfFile:
    """A VCF that is read once, from its header to its last record.

    Args:
        path: the file.

    Raises:
        DataError: the file is not there, is no VCF, has no samples, or names one twice.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path}: there is no such VCF file.")
        self.name = self.path.name
        self.header = self._read_header()

    def records(
        self, wanted: Mapping[str, Sequence[int]], rsids: Collection[str] = ()
    ) -> Iterator[VcfRecord]:
        """Yield the records that touch a wanted position, or have a wanted rs number.

        Args:
            wanted: by chromosome without "chr", positions in ascending order.
            rsids: rs numbers.

        Raises:
            DataError: naming the line, if the text is damaged or a record is not one.
        """
        columns = len(_FIXED) + 1 + len(self.header.samples)
        names: dict[bytes, str] = {}
        named = {rsid.encode() for rsid in rsids}
        for number, line in self._lines(skip=self.header.lines):
            if not line:
                continue
            fields = line.split(b"\t", 3)
            chromosome = names.get(fields[0])
            if chromosome is None:
                chromosome = names[fields[0]] = _chromosome(fields[0])
            if (tabs := line.count(b"\t")) != columns - 1:
                raise self.error(
                    number,
                    f"has {counted(tabs + 1, 'field')}, but the header has {columns} columns: the "
                    "file is damaged, ends early, or has no tabs between its fields",
                )
            if not fields[1].isdigit() or len(fields[1]) > 10:
                raise self.error(number, "the position (POS) is not a whole number")
            places = wanted.get(chromosome)
            if places is None:
                continue
            position = int(fields[1])
            at = bisect_left(places, position)
            nearest = position if fields[2] in named else places[at] if at < len(places) else None
            if nearest is not None:
                record = self._touching(number, chromosome, position, line, nearest)
                if record is not None:
                    yield record

    def error(self, line: int, what: str) -> DataError:
        """Make an error about a line."""
        return DataError(f"{self.name}, line {line}: {what}.")

    def _touching(
        self, number: int, chromosome: str, position: int, line: bytes, nearest: int
    ) -> VcfRecord | None:
        """Parse a record if it reaches the nearest wanted position."""
        _, _, rsid, ref, alt, _, failed, info, rest = line.split(b"\t", 8)
        end = position + max(len(ref), 1) - 1
        if b"END=" in info and (said := _END.search(info)):
            end = max(end, int(said[1]))
        if end < nearest:
            return None
        if not _BASES.fullmatch(ref):
            raise self.error(number, f"the reference allele (REF) is {ref.decode('latin-1')!r}")
        alts = () if alt in (b".", b"") else tuple(alt.split(b","))
        for one in alts:
            if not _ALLELE.fullmatch(one):
                raise self.error(number, f"an allele (ALT) is {one.decode('latin-1')!r}")
        keys, *cells = rest.split(b"\t")
        return VcfRecord(
            line=number,
            chromosome=chromosome,
            position=position,
            end=end,
            rsid=rsid.decode("latin-1"),
            ref=ref.decode("ascii").upper(),
            alts=tuple(one.decode("latin-1").upper() for one in alts if one != b"."),
            failed="" if failed in (b"PASS", b".", b"") else failed.decode("latin-1"),
            keys=tuple(keys.decode("latin-1").split(":")),
            cells=tuple(cells),
        )

    def _read_header(self) -> VcfHeader:
        said: set[str] = set()
        number = 0
        for number, line in self._lines():
            if number == 1 and not line.startswith(b"##fileformat=VCF"):
                raise DataError(f"{self.name}: {_what_else(line)}")
            if line.startswith(b"##"):
                said |= _builds(line)
                continue
            columns = line.split(b"\t")
            if columns[: len(_FIXED)] != _FIXED:
                raise self.error(
                    number,
                    "the line of column names, from #CHROM to INFO with tabs between, is not there",
                )
            if len(said) > 1:
                raise DataError(
                    f"{self.name}: its header names two genome builds, {' and '.join(sorted(said))}"
                    ": say in the header which of them the positions are of."
                )
            return VcfHeader(self._samples(number, columns[9:]), next(iter(said), None), number)
        raise DataError(
            f"{self.name}: has no line of column names (#CHROM …) in {number} lines: it is empty "
            "or cut."
        )

    def _samples(self, number: int, columns: list[bytes]) -> tuple[str, ...]:
        if not columns:
            raise self.error(
                number, "no sample is named: give a VCF with genotypes (FORMAT and a column each)"
            )
        try:
            names = tuple(name.decode("utf-8") for name in columns)
        except UnicodeDecodeError:
            raise self.error(number, "a sample's name is not UTF-8 text") from None
        seen: set[str] = set()
        for name in names:
            fault = fault_in(name, least=1, most=200, as_in_table=True)
            if fault is not None:
                raise self.error(number, f"a sample's name {name!r} {fault}")
            if name in seen:
                raise self.error(number, f"two samples have the name {name!r}: rename one")
            seen.add(name)
        return names

    def _lines(self, skip: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield each line with its number, without its end; a damaged archive is refused."""
        number = 0
        try:
            with self._opened() as file:
                while line := file.readline(_LONGEST_LINE):
                    number += 1
                    if len(line) == _LONGEST_LINE:
                        raise self.error(number, "is longer than 64 MiB: this is not a VCF")
                    if number > skip:
                        yield number, line.rstrip(b"\r\n")
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise DataError(
                f"{self.name}: the compressed file is cut or damaged after line {number}: copy it "
                "again."
            ) from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}.") from None

    def _opened(self) -> IO[bytes]:
        with self.path.open("rb") as file:
            start = file.read(18)
            if len(start) < 18 or start[:2] != _GZIP:
                return self.path.open("rb")
            if start[3] & 4 and start[12:14] == b"BC":  # bgzip: an empty block marks its end
                file.seek(max(0, file.seek(0, 2) - len(_BGZIP_END)))
                if file.read() != _BGZIP_END:
                    raise DataError(
                        f"{self.name}: the bgzip file has no end mark: it is cut; copy it again."
                    )
        return cast("IO[bytes]", gzip.open(self.path))


def build_named(text: str) -> str:
    """Return the genome build that a text names, "hg38" as "GRCh38"; the text if it names none."""
    written = text.encode(errors="replace")
    return next((build for build, name in _NAMES_OF_BUILDS.items() if name.search(written)), text)


def _chromosome(name: bytes) -> str:
    """Bring "chr10", "10", "CHR10" and "NC_000010.11" to "10"."""
    text = name.decode("latin-1")
    if found := _REFSEQ.fullmatch(text):
        number = int(found[1])
        return _CHROMOSOMES[number - 1] if 1 <= number <= len(_CHROMOSOMES) else text
    return text[3:] if text[:3].lower() == "chr" else text


def _builds(line: bytes) -> set[str]:
    """Say which genome builds a line of the header speaks of."""
    if not _OF_BUILD.match(line):
        return set()
    if (contig := _CONTIG.fullmatch(line)) is None:
        return {build for build, name in _NAMES_OF_BUILDS.items() if name.search(line)}
    fields = {key: value.strip(b'"') for key, value in _FIELD.findall(contig[1])}
    name, length = _chromosome(fields.get(b"ID", b"")), fields.get(b"length", b"").decode("latin-1")
    assembly = fields.get(b"assembly", b"")
    known = {build for build, lengths in _LENGTHS.items() if str(lengths.get(name)) == length}
    return known | {build for build, one in _NAMES_OF_BUILDS.items() if one.search(assembly)}


def _what_else(line: bytes) -> str:
    """Say what a file is that is no VCF."""
    if line.startswith(b"BCF"):
        return "is BCF, the binary form: convert it with `bcftools view -Oz`."
    if line.startswith(b"#CHROM"):
        return "is not a VCF: its first line must be ##fileformat=VCFv4.x."
    return "is not a VCF: its first line is not ##fileformat=VCFv4.x."
