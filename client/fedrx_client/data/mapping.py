"""The mapping file: how a hospital's own table becomes the features of a study.

A mapping is a TOML file that a hospital keeps and edits; `examples/warfarin/iwpc.toml` is one with
comments. It gives each column, unit and code its meaning. It holds no patient data.
"""

import codecs
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from fedrx_client.data.column_sources import (
    DerivedColumn,
    FormulaColumn,
    GenotypesSource,
    LongSource,
    QuerySource,
    RecordsSource,
)
from fedrx_client.data.course_sources import (
    MarkerSource,
    TreatmentSource,
    VisitsSource,
    check_course,
    course_columns,
)
from fedrx_client.data.harmonise.dates import ISO, check_date_format
from fedrx_client.data.sources import (
    ABSENT,
    MISSING,
    AbsentSource,
    BlockSource,
    Censored,
    Codes,
    Column,
    JoinSource,
    Section,
    TargetSource,
    Unknown,
    check_blocks,
    check_codes,
    check_unit,
)
from fedrx_common.documents import DocumentInvalid, read_toml
from fedrx_common.errors import DataError
from fedrx_common.text import escaped, quoted
from fedrx_protocol.study.codes import first_alike
from fedrx_protocol.study.schema import CategoryFeature, FeatureSchema, Name, NumberFeature

_SAMPLE = "id;crp\np1;2,5\n"
# Codecs of text that no table is written in: of host names, and of Python's own source.
_NOT_OF_FILES = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape"})
# Where pydantic puts the kind of a source into the place of an error, behind section and name.
_OF_KINDS = frozenset({"features", "blocks", "columns"})


class TableOptions(Section):
    """How the file is written."""

    any_text: ClassVar[frozenset[str]] = frozenset({"delimiter"})

    patient: Column = Field(description="column that identifies a patient")
    delimiter: str = Field(
        default=",", min_length=1, max_length=1, description="what separates two cells"
    )
    decimal: Literal[".", ","] = Field(
        default=".", description="what separates a number's decimals"
    )
    thousands: Literal[".", ",", " ", "'"] | None = Field(
        default=None, description="what groups digits by three; without, nothing may"
    )
    encoding: str = Field(default="utf-8", description="encoding of the file's text")
    sheet: str | None = Field(
        default=None, min_length=1, description="sheet of a workbook; needed where it has several"
    )
    date_format: str = Field(
        default=ISO, min_length=1, max_length=60, description="how formulas read dates: '%d.%m.%Y'"
    )
    missing: Codes = Field(
        default=("", "NA"),
        description="codes for 'not recorded' in every column; an empty cell is always one",
    )
    similar_ids: Literal["same", "different"] | None = Field(
        default=None, description="whether P01, p1 and 'p1.0' are one id; refused if left out"
    )

    @field_validator("encoding")
    @classmethod
    def _of_text(cls, encoding: str) -> str:
        try:
            name = codecs.lookup(encoding).name
        except (LookupError, ValueError):
            raise ValueError(f"encoding '{encoding}' is not known") from None
        try:
            of_text = name not in _NOT_OF_FILES and _SAMPLE.encode(name).decode(name) == _SAMPLE
        except (LookupError, ValueError):  # a codec of bytes, or one that always fails
            of_text = False
        if not of_text:
            raise ValueError(
                f"encoding '{encoding}' is not one of text files; name the file's, e.g. 'utf-8'"
            )
        return encoding

    @field_validator("delimiter")
    @classmethod
    def _separates(cls, delimiter: str) -> str:
        if delimiter in '"\r\n\0':
            raise ValueError("a quote or a line end cannot separate values")
        return delimiter

    @field_validator("date_format")
    @classmethod
    def _of_dates(cls, date_format: str) -> str:
        check_date_format(date_format)
        return date_format

    @model_validator(mode="after")
    def _separators_differ(self) -> Self:
        if self.delimiter == self.decimal:
            raise ValueError("delimiter and decimal must differ")
        if self.thousands in (self.delimiter, self.decimal):
            raise ValueError("thousands must differ from delimiter and decimal")
        return self


class RowFilter(Section):
    """A condition that a row must meet to be kept: one of some values, or any value at all."""

    reason: str = Field(min_length=1, description="why a row that fails it is dropped")
    column: Column = Field(description="column that is looked at")
    keep: Codes = Field(default=(), description="codes of the rows that are kept")
    present: bool = Field(default=False, description="true: keep rows with any value in the column")
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded' in this column, beside table.missing"
    )

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if bool(self.keep) == self.present:
            raise ValueError("give either keep = [...] or present = true")
        return self


class NumberSource(Section):
    """A number in some unit."""

    kind: Literal["number"] = Field(description="a measured number")
    column: Column = Field(description="column that it is read from")
    unit: str = Field(min_length=1, description="unit of the column; converted to the study's")
    analyte: str | None = Field(
        default=None, description="what is measured, where moles become grams: 'creatinine'"
    )
    parse: Literal["number", "decade_bin"] = Field(
        default="number", description="decade_bin: '60 - 69' is the decade 6"
    )
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded' in this column, beside table.missing"
    )
    measured: Literal[True] = Field(
        default=True, description="false, and nothing else, where the site does not have it"
    )
    censored: Censored = Field(default="error", description="what values such as '<5' are")
    unknown: Unknown = Field(
        default="error", description="what to do with a value that is no number or out of range"
    )

    @model_validator(mode="after")
    def _binned(self) -> Self:
        if self.parse == "decade_bin" and self.unit != "decade":
            raise ValueError("parse = 'decade_bin' gives decades: set unit = 'decade'")
        return self


class Imputation(Section):
    """A rule for a missing category: read it from another column, if the conditions hold."""

    name: str = Field(min_length=1, description="shown in the data-quality account")
    column: Column = Field(description="column that the value is read from")
    values: dict[str, str] = Field(min_length=1, description="code in the column -> value")
    only_if: dict[str, tuple[str, ...]] = Field(
        default={}, description="mapped category -> values for which the rule holds"
    )
    only_if_column: dict[str, tuple[str, ...]] = Field(
        default={}, description="raw column -> codes for which the rule holds"
    )


class CategorySource(Section):
    """One of a few codes; without `values` the column already holds the study's.

    Codes are compared in their normal form: "1.0" is "1", and the alleles of a diplotype have no
    order. `parse` first brings a laboratory's spelling of a genotype to the one that FedRx writes,
    which `values` then maps.
    """

    kind: Literal["category"] = Field(description="one of a few codes")
    column: Column = Field(description="column that it is read from")
    parse: Literal["code", "diplotype", "genotype"] = Field(
        default="code", description="diplotype: of `gene`; genotype: at `position`, on `strand`"
    )
    gene: str | None = Field(default=None, description="e.g. 'CYP2C9'")
    position: str | None = Field(default=None, description="an rs number, e.g. 'rs9923231'")
    strand: Literal["+", "-"] | None = Field(
        default=None, description="of the genome that the laboratory reads; none: where it is plain"
    )
    values: dict[str, str] | None = Field(
        default=None, description="code in the column -> value in the study"
    )
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded' in this column, beside table.missing"
    )
    measured: Literal[True] = Field(
        default=True, description="false, and nothing else, where the site does not have it"
    )
    unknown: Unknown = Field(
        default="error", description="what to do with a code that is not named"
    )
    impute: tuple[Imputation, ...] = Field(
        default=(), description="rules for a missing value, tried in this order"
    )

    @model_validator(mode="after")
    def _says_of_what(self) -> Self:
        needed: set[str] = {"code": set(), "diplotype": {"gene"}, "genotype": {"position"}}[
            self.parse
        ]
        given = {key for key in ("gene", "position", "strand") if getattr(self, key) is not None}
        if needed - given:
            raise ValueError(f"parse = '{self.parse}' needs {needed.pop()}")
        extra = sorted(given - needed - ({"strand"} if self.parse == "genotype" else set()))
        if extra:
            raise ValueError(f"{extra[0]} is not for parse = '{self.parse}'")
        return self

    @model_validator(mode="after")
    def _unequivocal(self) -> Self:
        for values in (self.values or {}, *(rule.values for rule in self.impute)):
            alike = first_alike(tuple(values))
            if alike is not None and values[alike[0]] != values[alike[1]]:
                raise ValueError(f"'{alike[0]}' and '{alike[1]}' are one code with two values")
        return self


class FlagSource(Section):
    """Yes if any of the columns has a code of yes; missing if none has a code."""

    kind: Literal["flag"] = Field(description="yes or no")
    any_of: tuple[Column, ...] = Field(min_length=1, description="columns; one yes is enough")
    yes: Codes = Field(default=("1",), description="codes of yes")
    no: Codes = Field(default=("0",), description="codes of no")
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded' in this column, beside table.missing"
    )
    measured: Literal[True] = Field(
        default=True, description="false, and nothing else, where the site does not have it"
    )
    unknown: Unknown = Field(default="error", description="what to do with any other code")

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        check_codes(self.yes, self.no)
        return self


def _source_kind(value: object) -> str | None:
    """Return which source a feature's table is: that of its kind, or of what the site lacks."""
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return ABSENT if given.get("measured") is False else given.get("kind")


def _block_kind(value: object) -> str:
    """Return the same of a block's table."""
    return _source_kind(value) or "block"


FeatureSource = Annotated[
    Annotated[NumberSource, Tag("number")]
    | Annotated[CategorySource, Tag("category")]
    | Annotated[FlagSource, Tag("flag")]
    | Annotated[AbsentSource, Tag(ABSENT)],
    Discriminator(_source_kind),
]
BlockTable = Annotated[
    Annotated[BlockSource, Tag("block")] | Annotated[AbsentSource, Tag(ABSENT)],
    Discriminator(_block_kind),
]


class TableMapping(Section):
    """A whole mapping. Build it with `TableMapping.load` or `TableMapping.parse`."""

    set_by_us: ClassVar[frozenset[str]] = frozenset({"source"})

    source: str = Field(default="mapping", description="the file's name, for errors")
    table: TableOptions = Field(description="how the file is written")
    join: JoinSource | None = Field(
        default=None, description="columns of another file beside the table"
    )
    sql: QuerySource | None = Field(default=None, description="how a database is read")
    records: RecordsSource = Field(
        default=RecordsSource(), description="how records of FHIR or OMOP become rows"
    )
    genotypes: GenotypesSource | None = Field(
        default=None, description="the VCF that genotypes are called from"
    )
    long: LongSource | None = Field(default=None, description="repeated measurements side by side")
    columns: dict[Column, DerivedColumn] = Field(
        default={}, description="columns that are made: by a formula, from records, from genotypes"
    )
    filters: tuple[RowFilter, ...] = Field(
        default=(), description="conditions that a row must meet"
    )
    target: TargetSource = Field(default=TargetSource(), description="the outcome's columns")
    features: dict[Name, FeatureSource] = Field(
        default={}, description="where each feature of the study comes from"
    )
    blocks: dict[Name, BlockTable] = Field(
        default={}, description="where each omics block comes from"
    )
    visits: VisitsSource | None = Field(default=None, description="columns that distinguish visits")
    markers: dict[Name, MarkerSource] = Field(
        default={}, description="where each marker comes from"
    )
    treatments: dict[Name, TreatmentSource] = Field(
        default={}, description="where each treatment comes from"
    )

    @model_validator(mode="after")
    def _conditions_known(self) -> Self:
        categories = {n for n, s in self.features.items() if isinstance(s, CategorySource)}
        for name, rule in self.imputations:
            for condition in rule.only_if:
                if condition not in categories:
                    raise ValueError(
                        f"rule '{rule.name}' of '{name}' depends on '{condition}', "
                        "which is no category of this mapping"
                    )
        return self

    @model_validator(mode="after")
    def _formulas_end(self) -> Self:
        inputs = {name: set(one.parsed.columns) for name, one in self.formulas.items()}
        try:
            TopologicalSorter(inputs).prepare()
        except CycleError as error:
            circle = " needs ".join(f"'{name}'" for name in reversed(error.args[1]))
            raise ValueError(
                f"columns: {circle}; a formula cannot need its own result, so give the made "
                "column a name of its own"
            ) from None
        return self

    @property
    def formulas(self) -> dict[str, FormulaColumn]:
        """The columns that formulas make, by name."""
        return {n: one for n, one in self.columns.items() if isinstance(one, FormulaColumn)}

    @property
    def imputations(self) -> tuple[tuple[str, Imputation], ...]:
        """All rules, each with the name of its feature."""
        return tuple(
            (name, rule)
            for name, source in self.features.items()
            if isinstance(source, CategorySource)
            for rule in source.impute
        )

    @property
    def named_columns(self) -> tuple[str, ...]:
        """Every column of the main table, once joined, that is always read, as first mentioned."""
        names = [self.table.patient, *(f.column for f in self.filters), *self.target.main_columns]
        names.extend(course_columns(self.visits, self.markers, self.treatments))
        if self.visits is not None and self.visits.features is not None:
            return tuple(dict.fromkeys(names))
        return tuple(dict.fromkeys([*names, *self.feature_columns]))

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Every column that features and their rules are read from."""
        names: list[str] = []
        for source in self.features.values():
            if isinstance(source, FlagSource):
                names.extend(source.any_of)
            elif not isinstance(source, AbsentSource):
                names.append(source.column)
        for _, rule in self.imputations:
            names.extend([rule.column, *rule.only_if_column])
        return tuple(dict.fromkeys(names))

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that it reads beside the main table."""
        panel = [] if self.target.file is None else [self.target.file]
        blocks = [one.file for one in self.blocks.values() if isinstance(one, BlockSource)]
        once = [] if self.visits is None or self.visits.features is None else [self.visits.features]
        join = [] if self.join is None else [self.join.file]
        return tuple(dict.fromkeys([*join, *panel, *blocks, *once]))

    @property
    def absent(self) -> tuple[str, ...]:
        """Features, blocks and markers that the site does not have."""
        parts = {**self.features, **self.blocks, **self.markers}
        return tuple(name for name, source in parts.items() if not source.measured)

    def check_against(self, schema: FeatureSchema) -> None:
        """Raise `DataError` unless the mapping gives the study what it needs, and no more."""
        self.check_inputs(schema)
        self.target.check_against(schema, self.source)

    def check_inputs(self, schema: FeatureSchema) -> None:
        """Raise `DataError` unless it gives what a prediction needs, and no more."""
        for feature in schema.features:
            key, source = f"features.{feature.name}", self.features.get(feature.name)
            if source is None:
                cure = "; a site without it says measured = false" if feature.optional else ""
                raise DataError(f"{self.source}: '{key}' is missing{cure}.")
            if isinstance(source, AbsentSource):
                if not feature.optional:
                    raise DataError(
                        f"{self.source}: '{key}.measured' is false, but the study does not say "
                        "that a hospital may lack it (optional = true): name its column, or ask "
                        "the consortium to change the study."
                    )
                continue
            if source.kind != feature.kind:
                raise DataError(
                    f"{self.source}: '{key}.kind' is '{source.kind}', but in the study it is "
                    f"'{feature.kind}'."
                )
            if isinstance(source, NumberSource) and isinstance(feature, NumberFeature):
                check_unit(self.source, key, source.unit, feature.unit, source.analyte)
            if isinstance(source, CategorySource) and isinstance(feature, CategoryFeature):
                maps = [source.values or {}, *(rule.values for rule in source.impute)]
                pairs = [pair for values in maps for pair in values.items()]
                strange = [(code, value) for code, value in pairs if value not in feature.values]
                if strange:
                    raise DataError(
                        f"{self.source}: '{key}' maps '{strange[0][0]}' to '{strange[0][1]}', "
                        f"which is not in the study; allowed: {', '.join(feature.values)}."
                    )
        # A feature outside the study may only be a category that a rule's condition names.
        known = {feature.name for feature in schema.features}
        conditions = {name for _, rule in self.imputations for name in rule.only_if}
        others = [name for name in self.features if name not in known | conditions]
        if others:
            raise DataError(
                f"{self.source}: 'features.{others[0]}' is not in the study; its features are: "
                f"{', '.join(sorted(known)) or 'none'}."
            )
        check_blocks(self.blocks, schema, self.source)
        check_course(self.visits, self.markers, self.treatments, schema, self.source)

    @classmethod
    def parse(cls, text: str, *, source: str = "mapping.toml") -> "TableMapping":
        """Parse TOML text; `source` names it in errors."""
        try:
            document = read_toml(text)
            if "table" not in document:
                raise DataError(
                    f"{source}: has no section [table], so it is no mapping file; "
                    "`fedrx study patients` writes one that fits a study."
                )
            strange = sorted(cls.set_by_us & document.keys())
            if strange:
                keys = {"keys": strange, "allowed": cls.allowed_keys()}
                (sentence,) = _sentences({"type": "unknown_keys", "loc": (), "ctx": keys})
                raise DataError(f"{source}: {sentence}")
            return cls.model_validate({**document, "source": Path(source).name})
        except DocumentInvalid as error:
            raise DataError(f"{source}: {error}.") from None
        except ValidationError as error:
            sentences = [
                f"{source}: {sentence}"
                for item in error.errors()
                for sentence in _sentences(dict(item))
            ]
            raise DataError(*sentences) from None

    @classmethod
    def load(cls, path: Path | str) -> "TableMapping":
        """Read a mapping file."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such mapping file.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as UTF-8 text: {error}.") from None
        return cls.parse(text, source=str(path))


def _sentences(item: dict[str, Any]) -> list[str]:
    """Write a sentence for each mistake: the key, the value given, what is allowed."""
    place = list(item["loc"])
    if place[:1] and place[0] in _OF_KINDS:
        del place[2:3]
    key = ".".join(escaped(str(part)[:60]) for part in place)
    if item["type"] == "unknown_keys":
        allowed = item["ctx"]["allowed"]
        found = []
        for one in item["ctx"]["keys"]:
            near = get_close_matches(one, allowed, 1)
            meant = f", did you mean '{near[0]}'?" if near else ""
            name = f"{key}.{escaped(one[:60])}" if key else escaped(one[:60])
            found.append(f"unknown key '{name}'{meant}; allowed: {', '.join(allowed)}.")
        return found
    if item["type"] == "missing":
        return [f"key '{key}' is missing."]
    if item["type"] == "value_error":
        return [f"'{key}': {item['ctx']['error']}." if key else f"{item['ctx']['error']}."]
    if item["type"] == "union_tag_not_found":
        return [f"key '{key}.kind' is missing; allowed: number, category, flag."]
    return [f"'{key}' is {quoted(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}."]
