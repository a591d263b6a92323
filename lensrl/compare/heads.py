"""The change of single attention heads: of their rows in q, k and v, and of their columns in o.

    || D[rows of head h] ||_F  for q, k, v        || D[:, columns of head h] ||_F  for o

beside the same norm of the base. The numbers of heads are those of the model's configuration; with grouped queries, k
and v have fewer heads than q and o.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from lensrl.errors import LensrlError
from lensrl.recipe.layers import LayerSpec, parse_layers
from lensrl.recipe.runs import FULL
from lensrl.store.origin import check_base
from lensrl.store.study import Study

PROJECTIONS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
HEAD_COLUMNS = ["layer", "matrix", "head", "frobenius", "base_norm", "relative"]


def compare_heads(study: Study, layers: LayerSpec = "all", run: str = FULL, *, seed: int | None = None) -> pd.DataFrame:
    """Measure how training changed each attention head: one row per layer, matrix (q, k, v, o) and head.

    Columns: layer, matrix, head, frobenius (the norm of the change), base_norm, relative (the first over the second).
    Layers without a change have no rows. The base is read from its files. `seed=None`: see `lensrl.store.runs.Runs`.
    Raises LensrlError for a run that diverged, and for a model whose attention has no separate q, k, v and o.
    """
    from lensrl.models.base import fingerprint  # torch, only where weights are needed
    from lensrl.models.pair import open_base

    trained = study.runs.find_scored(run, study.runs.shared_seed(run, scored=True) if seed is None else seed)
    base, skeleton = open_base(study.recipe.model)
    check_base(trained, study.recipe.model, fingerprint(base))
    config = skeleton.model.config
    queries = int(config.num_attention_heads)
    keys = int(config.to_dict().get("num_key_value_heads") or queries)  # absent without grouped queries
    rows = []
    for layer in parse_layers(layers, study.n_layers):
        for inner, (name, change) in trained.deltas.exact(layer).items():
            projection = inner.removesuffix(".weight").rpartition(".")[2]
            if projection in PROJECTIONS and inner.endswith(".weight"):
                matrix = PROJECTIONS[projection]
                heads = keys if matrix in "kv" else queries
                norms = head_norms(change.delta, heads, columns=matrix == "o")
                before = head_norms(base[name], heads, columns=matrix == "o")
                rows += [(layer, matrix, head, norm, size, norm / size)
                         for head, (norm, size) in enumerate(zip(norms, before, strict=True))]  # fmt: skip
    if not rows:
        raise LensrlError(
            f"no heads to show: {run} changed no q_proj, k_proj, v_proj or o_proj of these layers, or the attention of "
            f"{study.model} has none"
        )
    table = pd.DataFrame(rows, columns=HEAD_COLUMNS)
    place = {matrix: i for i, matrix in enumerate(PROJECTIONS.values())}
    return table.sort_values(["layer", "matrix", "head"], key=lambda c: c.map(place) if c.name == "matrix" else c,
                             ignore_index=True)  # fmt: skip


def head_norms(
    weights: Float[np.ndarray, "out in"], heads: int, *, columns: bool = False
) -> Float[np.ndarray, " head"]:
    """Return the Frobenius norm of each head's share of a matrix: equal blocks of rows, or of columns.

    Raises ValueError where the heads do not divide the matrix.
    """
    matrix = np.asarray(weights, np.float64).T if columns else np.asarray(weights, np.float64)
    if len(matrix) % heads:
        raise ValueError(f"{heads} heads do not divide {len(matrix)} {'columns' if columns else 'rows'}")
    return np.linalg.norm(matrix.reshape(heads, -1), axis=1)
