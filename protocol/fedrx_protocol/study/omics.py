"""Omics blocks, gene by gene, and the graph that links genes; both agreed on before any patient."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedrx_protocol.study.base import (
    Name,
    Paragraph,
    StrictModel,
    Unit,
    first_repeated,
    require_mean_within,
)

GENE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
Gene = Annotated[str, Field(pattern=GENE_PATTERN)]
Edge = Annotated[tuple[Gene, Gene], Field(strict=False)]
Values = Annotated[tuple[float, ...], Field(strict=False)]
BlockKind = Literal["expression", "copy_number", "mutation", "methylation", "protein", "other"]

MOST_GENES = 50_000


class Block(StrictModel):
    """One kind of measurement over an ordered list of genes.

    The model sees (value - mean) / scale. A patient may lack the whole block, or single genes of
    it; both are 0 then, and a flag says whether the block is there.
    """

    name: Name = Field(description="name of the block in mappings")
    kind: BlockKind = Field(description="what is measured")
    unit: Unit = Field(description="unit of the values, e.g. 'log2(TPM+1)'")
    minimum: float = Field(description="no plausible value is smaller")
    maximum: float = Field(description="no plausible value is larger")
    mean: float | Values = Field(
        default=0.0, description="public reference mean: one, or one for each gene"
    )
    scale: float | Values = Field(
        default=1.0, description="public reference standard deviation, likewise"
    )
    genes: tuple[Gene, ...] = Field(
        min_length=1,
        max_length=MOST_GENES,
        strict=False,
        description="the genes, in the order of the model's inputs",
    )
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum:g} must be below maximum {self.maximum:g}")
        twice = first_repeated(self.genes)
        if twice is not None:
            raise ValueError(f"gene '{twice}' stands twice")
        for key, values in (("mean", self.mean), ("scale", self.scale)):
            if isinstance(values, tuple) and len(values) != len(self.genes):
                raise ValueError(
                    f"{key} has {len(values)} values for {len(self.genes)} genes: "
                    "give one, or one for each gene"
                )
        for mean in self.mean if isinstance(self.mean, tuple) else (self.mean,):
            require_mean_within(mean, self.minimum, self.maximum)
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if min(scales) <= 0:
            raise ValueError(f"scale {min(scales):g} must be above 0")
        return self


class GeneGraph(StrictModel):
    """Which genes, or markers, act on each other: undirected edges between those of the study."""

    edges: tuple[Edge, ...] = Field(
        min_length=1, strict=False, description="pairs of names, each an edge without a direction"
    )
    source: Paragraph = Field(default="", description="where the edges come from")

    def check_against(
        self,
        names: Iterable[str],
        kind: str = "gene",
        lack: str = "in none of the study's blocks: remove its edges, or add the gene to a block",
    ) -> None:
        """Hold the edges against the genes that the blocks know, or against the markers.

        Args:
            names: what edges may name.
            kind: what they are, in a word.
            lack: what is wrong with an unknown one, and what to do about it.

        Raises:
            ValueError: naming the first that is unknown.
        """
        known = set(names)
        for edge in self.edges:
            for name in edge:
                if name not in known:
                    raise ValueError(f"the graph names {kind} '{name}', which is {lack}")
