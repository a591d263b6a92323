"""The score of a model: the mean over benchmarks of the mean over each benchmark's items.

This module needs NumPy alone. A listing of a study reads scores, and it must not wait for SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64


def item_weights(benchmark: Sequence[str]) -> Float64[np.ndarray, " item"]:
    """Return the weight of every item in the score: 1 / (number of benchmarks x number of items of its benchmark).

    `benchmark` names the benchmark of each item. The weights sum to 1.
    """
    names, index, counts = np.unique(np.asarray(benchmark), return_inverse=True, return_counts=True)
    return 1.0 / (len(names) * counts[index])


def mean_score(scores: Float[np.ndarray, " item"], benchmark: Sequence[str]) -> float:
    """Return the mean over benchmarks of the mean score over each benchmark's items."""
    return float(scores @ item_weights(benchmark))
