"""What is publicly known to link two drugs of a panel, as matrices of similarity.

Nothing here is learned, and nothing comes from a patient: the study file says it all.
"""

import numpy as np
from numpy.typing import NDArray

from fedrx_protocol.study.schema import PanelTarget

Similarity = NDArray[np.float32]

_LETTERS = 3  # of a SMILES string that make one fragment
# Pathways that only say that nothing is known do not make two drugs alike.
_UNSAID = frozenset({"", "other", "unclassified", "unknown"})


def relations(target: PanelTarget) -> dict[str, Similarity]:
    """Similarities in 0..1 by name, each `(K, K)`, symmetric.

    'any' is 1 for every pair; 'target' and 'structure' are Jaccard indices of targets and of
    fragments of the structure; 'pathway' is 1 for equal pathways; 'kin' grows with all three.
    """
    drugs = target.drugs
    targets = _jaccard([{t.lower() for t in drug.targets} for drug in drugs])
    structure = _jaccard([_fragments(drug.structure) for drug in drugs])
    pathways = [drug.pathway.strip().lower() for drug in drugs]
    same = np.array([[a == b and a not in _UNSAID for b in pathways] for a in pathways])
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
    """1 where two entries are not one and the same drug, `(K, K)`."""
    identities = np.array([drug.identity.lower() for drug in target.drugs])
    unlike: Similarity = (identities[:, None] != identities[None, :]).astype(np.float32)
    return unlike


def descriptors(target: PanelTarget) -> Similarity:
    """One row of length 1 for each drug, `(K, D)`: its targets and its pathway, by name."""
    rows = [_words(drug.targets, drug.pathway) for drug in target.drugs]
    words = sorted({word for row in rows for word in row})
    table = np.array([[word in row for word in words] for row in rows], dtype=np.float32)
    table = table.reshape(len(rows), len(words))
    lengths = np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1)
    described: Similarity = (table / lengths).astype(np.float32)
    return described


def _words(targets: tuple[str, ...], pathway: str) -> set[str]:
    words = {f"target {name.lower()}" for name in targets}
    if pathway.strip().lower() not in _UNSAID:
        words.add(f"pathway {pathway.strip().lower()}")
    return words


def _fragments(structure: str) -> set[str]:
    return {structure[i : i + _LETTERS] for i in range(len(structure) - _LETTERS + 1)}


def _jaccard(sets: list[set[str]]) -> Similarity:
    shared = [[len(a & b) / max(1, len(a | b)) for b in sets] for a in sets]
    alike: Similarity = np.array(shared, dtype=np.float32).reshape(len(sets), len(sets))
    return alike
