"""How the judgement "rises, then falls" on a published table depends on the choices behind it: one sentence a choice.

The choices are the benchmark, a single layer, the size of the errors, and the family of curves. The sentences are not
corrected for their number: they describe the claim's finding, and are no findings.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from lensrl.judge.findings import LEVEL, numbers
from lensrl.measures.rise_and_fall import FEWEST_LAYERS, RiseAndFall, rise_and_fall
from lensrl.measures.shapes import ShapeFit

NOISE = (0.06, 0.1, 0.15, 0.2)  # standard deviations of one layer's C_l


def shape_robustness(
    layers: Int[np.ndarray, " layer"],
    contribution: Float64[np.ndarray, " layer"],
    benchmarks: pd.DataFrame,
    fits: dict[str, ShapeFit],
) -> list[str]:
    """Return sentences on the claim of the shape: by benchmark, without each layer, by noise, and by family of curves.

    `benchmarks` holds contributions by benchmark (`read_benchmarks`).
    """
    if len(layers) <= FEWEST_LAYERS:
        return []
    said = []
    names = [name for name in benchmarks.columns if name != "layer"]
    if names:
        by_name = benchmarks.set_index("layer").reindex(layers)
        parts = []
        for name in names:
            values = by_name[name].to_numpy(float)
            known = np.isfinite(values)
            if known.sum() >= FEWEST_LAYERS:
                parts.append(f"{name} {_said(rise_and_fall(layers[known], values[known]))}")
        said.append(f"Rise and fall by benchmark: {'; '.join(parts)}.")

    without = [rise_and_fall(np.delete(layers, i), np.delete(contribution, i)) for i in range(len(layers))]
    rises, falls = [found.rise.value for found in without], [found.fall.value for found in without]
    outcomes = sorted({_outcome(found) for found in without})
    said.append(
        f"Without any one layer: rise {min(rises):.2f} to {max(rises):.2f}, fall {min(falls):.2f} to {max(falls):.2f}; "
        f"{' or '.join(outcomes)}."
    )
    by_noise = [f"with {noise:g}, {_said(rise_and_fall(layers, contribution, scatter=noise))}" for noise in NOISE]
    own = rise_and_fall(layers, contribution)
    said.append(
        f"Were one layer's error known (the estimate: {own.scatter:.2f}), rise and fall: {'; '.join(by_noise)}."
    )
    if fits:
        ranked = sorted(fits.values(), key=lambda fit: fit.error)
        placed = [
            f"{fit.shape} {fit.error:.3f}{'' if np.isnan(fit.where) else f' (at layer {fit.where:.3g})'}"
            for fit in ranked
        ]
        said.append(f"Error of families of curves on a left-out layer: {', '.join(placed)}.")
    return said


def _said(found: RiseAndFall) -> str:
    valley = f", with a valley at layers {found.valley[0]} to {found.valley[1]}" if found.valley else ""
    return f"{numbers(found.rise)} and {numbers(found.fall)} ({_outcome(found)}{valley})"


def _outcome(found: RiseAndFall) -> str:
    """Return the verdict on this one test, alone."""
    if min(found.p_for, found.p_against) >= LEVEL / 2:
        return "undetermined"
    return "supported" if found.p_for < found.p_against else "contradicted"
