"""Columns that a mapping makes: from records, from genotypes, or from other columns.

`[columns.NAME]` makes a column NAME beside those of the source. Features, markers, treatments and
the target then name it like any other column.
"""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from fedrx_client.data.harmonise.dates import check_date_format
from fedrx_client.data.harmonise.formulas import LONGEST, Formula
from fedrx_client.data.sources import MISSING, Censored, Codes, Column, Section, Unknown

Days = float
_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,9})?")


class FormulaColumn(Section):
    """A column computed from others by a closed list of functions; never code.

    Its inputs are columns of the source, or other columns that the mapping makes.
    """

    formula: str = Field(
        min_length=1, max_length=LONGEST, description="e.g. weight / (height/100)^2"
    )
    date_format: str | None = Field(
        default=None, max_length=60, description="of its dates, where it is not table.date_format"
    )
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded' in its inputs, beside table.missing"
    )
    censored: Censored = Field(default="error", description="what values such as '<5' are")
    unknown: Unknown = Field(
        default="error", description="what to do where an input or the result is no number or date"
    )

    @field_validator("formula")
    @classmethod
    def _parses(cls, formula: str) -> str:
        Formula.parse(formula)
        return formula

    @field_validator("date_format")
    @classmethod
    def _of_dates(cls, date_format: str | None) -> str | None:
        if date_format is not None:
            check_date_format(date_format)
        return date_format

    @property
    def parsed(self) -> Formula:
        """The formula, parsed."""
        return Formula.parse(self.formula)


_TIME = "{time}"


class LongSource(Section):
    """Repeated measurements side by side, one column a time, turned into one row a time.

    `columns = { crp = "crp_{time}" }` makes a column `crp` of `crp_0`, `crp_24`, ...; `time` names
    the made column of the times. All other columns stay the same in each row of a patient.
    """

    time: Column = Field(description="name of the column that it makes of the times")
    columns: dict[Column, Column] = Field(
        min_length=1, description="name of a made column -> pattern of the columns, with {time}"
    )
    times: dict[str, str] = Field(
        default={}, description="text at {time} -> time; without, {time} is a number"
    )

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        for name, pattern in self.columns.items():
            if pattern.count(_TIME) != 1:
                raise ValueError(f"the pattern of '{name}' needs {_TIME} once, as in 'crp_{_TIME}'")
            if name == self.time:
                raise ValueError(f"'{name}' cannot be both the times and a measurement")
        for text, time in self.times.items():
            if not _NUMBER.fullmatch(time):
                raise ValueError(f"times.{text} is '{time}', which is no number with a point")
        return self

    def time_in(self, name: str, header: str) -> str | None:
        """Return the time, as a number's text, of a column of a made column; None for others."""
        start, _, end = self.columns[name].partition(_TIME)
        if not header.startswith(start) or len(header) <= len(start) + len(end):
            return None
        if not header.endswith(end):
            return None
        text = header[len(start) : len(header) - len(end)]
        if self.times:
            return self.times.get(text)
        return text if _NUMBER.fullmatch(text) else None


class RecordColumn(Section):
    """A column of the records of FHIR or OMOP: exactly one of its first four keys says of which.

    A code is written `system:code`, for instance `loinc:2160-0`, `rxnorm:11289`, `omop:3016723`, or
    is the name of a value set that FedRx ships, for instance `creatinine`.
    """

    measurement: Codes = Field(default=(), description="codes of measurements")
    drug: Codes = Field(default=(), description="codes of drugs")
    condition: Codes = Field(default=(), description="codes of conditions")
    person: Literal["id", "sex", "age", "birth_year", "died"] | None = Field(
        default=None, description="a fact about the person"
    )
    unit: str | None = Field(default=None, description="unit of the column; records are converted")
    take: Literal["first", "last", "mean", "lowest", "highest", "count", "any", "dose"] | None = (
        Field(
            default=None, description="which record counts; in rows of times, all of that time do"
        )
    )
    within: tuple[Days, Days] | None = Field(
        default=None, description="days after the index (negative: before) that count, both ends in"
    )
    descendants: bool = Field(
        default=True, description="take what is below the named codes too (OMOP, ATC, ICD-10)"
    )
    unknown: Unknown = Field(
        default="error", description="what to do with a value whose unit cannot be converted"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [
            bool(self.measurement),
            bool(self.drug),
            bool(self.condition),
            self.person is not None,
        ]
        if sum(given) != 1:
            raise ValueError("give exactly one of measurement, drug, condition and person")
        return self


class GenotypeColumn(Section):
    """A column of called genotypes; `[genotypes]` names the VCF."""

    gene: str | None = Field(default=None, description="the gene, e.g. 'CYP2C9'")
    give: Literal["diplotype", "phenotype", "activity"] = Field(
        default="diplotype", description="what of the gene the column holds"
    )
    position: str | None = Field(default=None, description="an rs number instead of a gene")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.gene is None) == (self.position is None):
            raise ValueError("give either gene or position")
        return self


class GenotypesSource(Section):
    """A VCF whose samples are the patients, beside the table (or the source itself)."""

    file: str | None = Field(default=None, min_length=1, description="none: --data is the VCF")
    build: Literal["GRCh38", "GRCh37"] | None = Field(
        default=None, description="reference genome of the VCF"
    )
    samples: str | None = Field(default=None, description="CSV: sample,patient, where they differ")


class RecordsSource(Section):
    """How records become rows."""

    rows: Literal["patients", "times"] = Field(
        default="patients", description="a row for each patient, or for each time"
    )
    index: str | None = Field(
        default=None,
        description="the record that days are counted from: 'drug rxnorm:11289' is the first of it",
    )
    time_unit: Literal["h", "d"] = Field(
        default="d", description="unit of made times: hours or days"
    )
    every: float | None = Field(
        default=None,
        gt=0,
        le=36_525,
        description="rows of times: measurements within one step share a row",
    )


class QuerySource(Section):
    """How a database is read: as OMOP's tables, or by one read-only query that gives the table."""

    any_text: ClassVar[frozenset[str]] = frozenset({"query"})  # a query has lines

    query: str | None = Field(
        default=None,
        min_length=1,
        max_length=20_000,
        description="a read-only query that gives the table",
    )
    tables: Column | None = Field(
        default=None, alias="schema", description="where OMOP's tables are, e.g. 'cdm'"
    )
    vocabulary: Column | None = Field(
        default=None, description="the schema of OMOP's vocabulary, where it is another one"
    )
    timeout_s: float = Field(
        default=600.0, gt=0, le=86_400, description="how long reading may take, in seconds"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.query is not None and (self.tables or self.vocabulary) is not None:
            raise ValueError("give either query, or schema and vocabulary of OMOP's tables")
        return self


def _kind(value: object) -> str:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    if "formula" in given:
        return "formula"
    return "genotype" if {"gene", "position"} & given.keys() else "record"


DerivedColumn = Annotated[
    Annotated[FormulaColumn, Tag("formula")]
    | Annotated[RecordColumn, Tag("record")]
    | Annotated[GenotypeColumn, Tag("genotype")],
    Discriminator(_kind),
]

__all__ = [
    "Column",
    "DerivedColumn",
    "FormulaColumn",
    "GenotypeColumn",
    "GenotypesSource",
    "LongSource",
    "QuerySource",
    "RecordColumn",
    "RecordsSource",
]
