"""Public links between the drugs of a panel, as matrices of similarity.

Nothing here is learned, and nothing comes from a patient: the study file holds all of it.
"""

import numpy as np
from numpy.typing import NDArray

from fedrx_protocol.study.schema import PanelTarget

Similarity = NDArray[np.float32]

_LETTERS = 3  # of a SMILES string, which form one fragment
# Two drugs with an unknown pathway are not alike.
_UNKNOWN = frozenset({"", "other", "unclassified", "unknown"})


def relations(target: PanelTarget) -> dict[str, Similarity]:
    """Compute similarities in 0..1 by name, each `(K, K)`, symmetric.

    'any' is 1 for every pair; 'target' and 'structure' are Jaccard indices of targets and of
    fragments of the structure; 'pathway' is 1 for equal pathways; 'kin' grows with all three.
    """
    drugs = target.drugs
    targets = _jaccard([{t.lower() for t in drug.targets} for drug in drugs])
    smiles = [drug.structure for drug in drugs]
    structure = _jaccard(
        [{s[i : i + _LETTERS] for i in range(len(s) - _LETTERS + 1)} for s in smiles]
    )
    pathways = [drug.pathway.strip().lower() for drug in drugs]
    same = np.array([[a == b and a not in _UNKNOWN for b in pathways] for a in pathways])
    pathway = same.astype(np.float32)
    kin = np.exp(2 * (targets > 0) + 2.5 * pathway + 2 * structure)
    return {
        "any": np.ones_like(targets),
        "target": targets,
        "pathway": pathway,
        "structure": np.where(structure > 0.3, structure, 0).astype(np.float32),
        "kin": (kin / np.exp(6.5)).astype(np.float32),
    }


def different(target: PanelTarget) -> Similarity:
    """Compute `(K, K)`: 1 where two entries are different drugs, else 0."""
    identities = np.array([drug.identity.lower() for drug in target.drugs])
    unlike: Similarity = (identities[:, None] != identities[None, :]).astype(np.float32)
    return unlike


def descriptors(target: PanelTarget) -> Similarity:
    """Compute a row of length 1 for each drug, `(K, D)`: its targets and its pathway, by name."""
    rows = []
    for drug in target.drugs:
        row = {f"target {name.lower()}" for name in drug.targets}
        pathway = drug.pathway.strip().lower()
        rows.append(row if pathway in _UNKNOWN else row | {f"pathway {pathway}"})
    words = sorted({word for row in rows for word in row})
    table = np.array([[word in row for word in words] for row in rows], dtype=np.float32)
    table = table.reshape(len(rows), len(words))
    lengths = np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1)
    described: Similarity = (table / lengths).astype(np.float32)
    return described


def _jaccard(sets: list[set[str]]) -> Similarity:
    shared = [[len(a & b) / max(1, len(a | b)) for b in sets] for a in sets]
    alike: Similarity = np.array(shared, dtype=np.float32).reshape(len(sets), len(sets))
    return alike
