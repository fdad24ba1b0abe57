"""Parts of a mapping that name outcomes and omics blocks; the study's kind decides them."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fedrx_client.data.harmonise.codes.value_sets import analytes, molar_mass
from fedrx_client.data.harmonise.units import conversion, convertible_to
from fedrx_common.errors import DataError
from fedrx_common.text import LONGEST_LINE, require_showable
from fedrx_protocol.study.codes import code_key
from fedrx_protocol.study.schema import (
    BinaryTarget,
    Block,
    ContinuousTarget,
    FeatureSchema,
    PanelTarget,
    SurvivalTarget,
)

Column = Annotated[str, Field(min_length=1, max_length=LONGEST_LINE)]
Codes = tuple[str, ...]
Unknown = Literal["error", "missing"]
Censored = Literal["error", "limit", "half", "missing"]
"""What '<5' and '>5' are: a mistake, 5, half of 5 below a limit (and 5 above it), or missing."""
MISSING: Codes = ()
"""Codes for "not recorded" of one column, beside those of the table, which hold everywhere."""

ABSENT = "absent"
"""The tag of `AbsentSource` among the sources of each kind."""


class Section(BaseModel):
    """A part of a mapping; every text in it may be shown, as it is in the hospital's table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Keys whose text is not for reading, such as a tab between two cells.
    any_text: ClassVar[frozenset[str]] = frozenset()
    # Fields that no file gives.
    set_by_us: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: object) -> object:
        """Refuse unknown keys with those that are allowed, which pydantic's own error lacks."""
        written = {field.alias or name: name for name, field in cls.model_fields.items()}
        strange = (
            [str(key) for key in given if key not in written] if isinstance(given, dict) else []
        )
        if strange:
            raise PydanticCustomError(
                "unknown_keys",
                "unknown keys",
                {
                    "keys": strange,
                    "allowed": cls.allowed_keys(),
                },
            )
        return given

    @classmethod
    def allowed_keys(cls) -> list[str]:
        """List the keys that a file may give."""
        fields = cls.model_fields.items()
        return [field.alias or name for name, field in fields if name not in cls.set_by_us]

    @field_validator("*")
    @classmethod
    def _showable(cls, value: object, info: ValidationInfo) -> object:
        if info.field_name not in cls.any_text:
            require_showable(value, as_in_table=True)
        return value


class AbsentSource(Section):
    """A feature or block that the site does not have at all: every patient lacks it."""

    measured: Literal[False] = Field(description="false: the site does not have it")
    kind: str | None = Field(default=None, description="as in the study; may be left out")


class JoinSource(Section):
    """Columns of another file beside the table: for instance whose stay a row is of, and where.

    Each row of the table gets the columns of that file's row with the same value in `by`. Where
    both have a column, the table's counts.
    """

    file: str = Field(min_length=1, description="name of the file, beside the table")
    by: Column = Field(description="column of both files; no value is twice in the other one")


class TargetSource(Section):
    """The outcome's columns; a row without it is dropped, as nothing can be learned from it.

    A number needs `column` and `unit`; yes or no `column`; survival `column` (the time), `unit`
    and `event`; a panel `unit`, and its drugs' columns are named like them or in `columns`.
    """

    column: Column | None = Field(default=None, description="column of the outcome")
    unit: str | None = Field(
        default=None, min_length=1, description="unit of the column; converted to the study's"
    )
    event: Column | None = Field(default=None, description="column that says whether it happened")
    yes: Codes = Field(default=("1",), description="codes of yes")
    no: Codes = Field(default=("0",), description="codes of no")
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded', beside table.missing"
    )
    columns: dict[str, Column] = Field(default={}, description="drug -> column, where they differ")
    file: str | None = Field(default=None, description="a panel's own file, beside the table")
    patient: Column | None = Field(default=None, description="that file's patient column")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        check_codes(self.yes, self.no)
        if (self.file is None) != (self.patient is None):
            raise ValueError("file and patient belong together: give both or neither")
        return self

    @property
    def main_columns(self) -> tuple[str, ...]:
        """Columns of the main table that it always reads."""
        return tuple(column for column in (self.column, self.event) if column is not None)

    def panel_columns(self, target: PanelTarget) -> tuple[str, ...]:
        """Return each drug's column, in the panel's order."""
        return tuple(self.columns.get(drug.name, drug.name) for drug in target.drugs)

    def check_against(self, schema: FeatureSchema, source: str) -> None:
        """Raise `DataError` unless it names what the study's kind of outcome needs."""
        target = schema.target
        needed = {
            "continuous": ("column", "unit"),
            "binary": ("column",),
            "survival": ("column", "unit", "event"),
            "panel": ("unit",),
            "forecast": (),  # follows from the visits
        }[target.kind]
        for key in needed:
            if getattr(self, key) is None:
                raise DataError(
                    f"{source}: key 'target.{key}' is missing; a {target.kind} outcome needs it."
                )
        if isinstance(target, ContinuousTarget | SurvivalTarget | PanelTarget):
            check_unit(source, "target", self.unit or "", target.unit)
        drugs = {d.name for d in target.drugs} if isinstance(target, PanelTarget) else set()
        for name in self.columns:
            if name not in drugs:
                raise DataError(f"{source}: 'target.columns' names '{name}', which is not a drug.")
        if self.file is not None and isinstance(target, ContinuousTarget | BinaryTarget):
            raise DataError(f"{source}: 'target.file' is for the outcomes of a panel only.")


class BlockSource(Section):
    """One block's file, beside the main table: a row for each patient, a column for each gene.

    Columns that the study does not know are not read. A patient without a row lacks the block.
    """

    file: str = Field(min_length=1, description="name of the block's file, beside the table")
    patient: Column = Field(description="column that identifies a patient, as in the main table")
    unit: str = Field(min_length=1, description="unit of the values; converted to the study's")
    columns: dict[str, Column] = Field(default={}, description="gene -> column, where they differ")
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded', beside table.missing"
    )
    censored: Censored = Field(default="error", description="what values such as '<5' are")
    measured: Literal[True] = Field(
        default=True, description="false, and nothing else, where the site does not have it"
    )

    def gene_columns(self, block: Block) -> tuple[str, ...]:
        """Return each gene's column, in the block's order."""
        return tuple(self.columns.get(gene, gene) for gene in block.genes)

    def check_against(self, block: Block, source: str) -> None:
        """Raise `DataError` unless it fits the study's block."""
        check_unit(source, f"blocks.{block.name}", self.unit, block.unit)
        genes = set(block.genes)
        for gene in self.columns:
            if gene not in genes:
                raise DataError(
                    f"{source}: 'blocks.{block.name}.columns' names gene '{gene}', which is not "
                    "in the study's block."
                )


def check_blocks(
    sources: Mapping[str, BlockSource | AbsentSource], schema: FeatureSchema, source: str
) -> None:
    """Raise `DataError` unless every block of the study, and no other, has a file."""
    blocks = {block.name: block for block in schema.blocks}
    for name in sources:
        if name not in blocks:
            known = ", ".join(blocks) or "none"
            raise DataError(
                f"{source}: 'blocks.{name}' is not in the study; its blocks are: {known}."
            )
    for name, block in blocks.items():
        if name not in sources:
            raise DataError(
                f"{source}: 'blocks.{name}' is missing; a site without it says measured = false."
            )
        found = sources[name]
        if isinstance(found, BlockSource):
            found.check_against(block, source)


def check_codes(yes: Codes, no: Codes) -> None:
    """Raise `ValueError` if a code means both yes and no."""
    keys = {code_key(code) for code in no}
    both = sorted(code for code in yes if code_key(code) in keys)
    if both:
        raise ValueError(f"'{both[0]}' cannot mean both yes and no")


def check_unit(source: str, key: str, unit: str, to: str, analyte: str | None = None) -> None:
    """Raise `DataError` unless `unit`, of an analyte, can be turned into the study's."""
    if analyte is not None and molar_mass(analyte) is None:
        near = ", ".join(get_close_matches(analyte, analytes(), 3) or analytes())
        raise DataError(
            f"{source}: '{key}.analyte' is '{analyte}', whose molar mass is not known; known: "
            f"{near}."
        )
    if conversion(unit, to, analyte) is None:
        # Any analyte tells whether moles and grams are all that keeps the two apart.
        molar = analyte is None and conversion(unit, to, "glucose") is not None
        cure = f"name what is measured in '{key}.analyte'; or else " if molar else ""
        raise DataError(
            f"{source}: '{key}.unit' is '{unit}', which cannot be converted to the "
            f"study's '{to}'; {cure}allowed: {', '.join(convertible_to(to))}."
        )
