"""The tables of the cell lines (GDSC) as a study's schema and cohort, for `gdsc.py`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import (
    Block,
    CategoryFeature,
    FeatureSchema,
    GeneGraph,
    PanelTarget,
)
from fedrx_protocol.study.targets import Drug

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "gdsc"

Floats = np.ndarray


@dataclass(frozen=True)
class Lines:
    """The 568 lines.

    Attributes:
        cohort: lines as patients, with all four blocks.
        tissues: `(lines,)`, the site of each.
        response: ln IC50, `(lines, drugs)`, NaN where not measured.
    """

    cohort: Cohort
    tissues: Floats
    response: Floats

    def with_blocks(self, names: Sequence[str]) -> Cohort:
        """The same lines for a study of some of the blocks."""
        schema = self.cohort.schema
        kept = tuple(block for block in schema.blocks if block.name in names)
        fewer = FeatureSchema(
            features=schema.features, blocks=kept, graph=schema.graph, target=schema.target
        )
        some = {name: self.cohort.blocks[name] for name in names}
        c = self.cohort
        return Cohort(c.site, fewer, c.patients, c.values, c.target, some)


def read() -> Lines:
    """Read the tables; exits where they are missing."""
    if not DATA.is_dir():
        sys.exit(f"REAL DATA MISSING: {DATA} is not here, so nothing was measured.")

    def table(name: str) -> pd.DataFrame:
        return pd.read_csv(DATA / name, index_col=0)

    response, expression = table("IC50_v17.csv.gz"), table("expression_706.csv.gz")
    features = table("genomic_features_v17.csv.gz")
    lines = expression.index.intersection(response.index)
    mutated = features.loc[lines].filter(regex=r"^[A-Za-z0-9.-]+_mut$")
    tables = {
        "expression": expression.loc[lines].clip(-5, 5),
        "copy_number": table("copy_number_706.csv.gz").reindex(lines).clip(0, 6),
        "mutation": mutated.rename(columns=lambda name: name.removesuffix("_mut")),
        "methylation": table("methylation_808.csv.gz").reindex(lines),
    }
    tissues = features.loc[lines, "TISSUE_FACTOR"].to_numpy(dtype=object)
    names = tuple(sorted(set(tissues)))
    schema = FeatureSchema(
        features=(CategoryFeature(name="tissue", kind="category", values=names),),
        blocks=tuple(_block(name, values) for name, values in tables.items()),
        graph=_graph(set(expression.columns)),
        target=_panel(response.drop(index=lines)),
    )
    cohort = Cohort(
        site="gdsc",
        schema=schema,
        patients=tuple(str(line) for line in lines),
        values={"tissue": np.array([names.index(t) for t in tissues], dtype=np.int16)},
        target=response.loc[lines].to_numpy(),
        blocks={name: values.to_numpy(dtype=np.float64) for name, values in tables.items()},
    )
    return Lines(cohort, tissues, response.loc[lines].to_numpy())


_REFERENCE = {  # kind, unit, minimum, maximum, mean, scale
    "expression": ("standardised log2(TPM+1)", -5.0, 5.0, 0.0, 1.0),
    "copy_number": ("relative to diploid", 0.0, 6.0, 1.0, 0.3),
    "mutation": ("mutated", 0.0, 1.0, 0.03, 0.3),
    "methylation": ("fraction", 0.0, 1.0, 0.3, 0.3),
}


def _block(name: str, values: pd.DataFrame) -> Block:
    unit, low, high, mean, scale = _REFERENCE[name]
    return Block(
        name=name,
        kind=name,
        unit=unit,
        minimum=low,
        maximum=high,
        mean=mean,
        scale=scale,
        genes=tuple(values.columns),
    )


def _graph(known: set[str]) -> GeneGraph:
    pairs = pd.read_csv(DATA / "string_edges_706.csv")
    edges = [(a, b) for a, b in pairs.itertuples(index=False) if {a, b} <= known]
    return GeneGraph(edges=tuple(edges), source="STRING v11, score at least 0.95")


def _panel(reference: pd.DataFrame) -> PanelTarget:
    """The drugs, with means and deviations over lines that are not in the study."""
    told = pd.read_csv(DATA / "drugs.csv").set_index("drug_id").fillna("")
    means, scales = reference.mean(), reference.std()
    return PanelTarget(
        kind="panel",
        name="ln_ic50",
        unit="ln uM",
        minimum=-20.0,
        maximum=20.0,
        drugs=tuple(
            _drug(int(column.split("_")[1]), told, float(means[column]), float(scales[column]))
            for column in reference.columns
        ),
    )


def _drug(number: int, told: pd.DataFrame, mean: float, scale: float) -> Drug:
    if number not in told.index:  # one id of the table is not in the list of drugs
        return Drug(name=f"drug {number}", mean=mean, scale=scale)
    row = told.loc[number]
    return Drug(
        name=f"{row['name']} ({number})",
        compound=row["name"],
        mean=mean,
        scale=scale,
        targets=tuple(t.strip() for t in row["targets"].split(",") if t.strip()),
        pathway=row["target_pathway"],
        structure=row["smiles"] if row["structure_source"] == "name" else "",
    )
