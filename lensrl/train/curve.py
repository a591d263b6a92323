"""The training curve of a run: one value per step, and where the gradient went."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from lensrl.recipe.layers import OUTSIDE

OF_TURNS = ("turns", "anchor_group_size", "shared_anchor_share")


@dataclass
class TrainingCurve:
    """One list entry per optimiser step.

    `reward_mean` and `reward_std` are over the step's completions, `completion_length` is in tokens,
    `truncated_share` counts completions that met the length limit, `zero_spread_share` groups whose rewards are all
    equal (they teach nothing), `step_time` is in seconds, `peak_memory` in bytes (of the GPU where there is one, else
    of the process). `grad_norm` is the norm before clipping; `layer_grad_norm` the same for each layer and
    `outside_grad_norm` for embed, final_norm and lm_head.

    Of a task in turns: `truncated_share` counts the episodes that ran out of turns, and `turns` is their mean number.
    Under GiGPO: `anchor_group_size` is the mean number of turns that were taken in one state, and
    `shared_anchor_share` the share of turns in a state that another turn of the group was taken in, too. These three
    are empty, and not stored, where they mean nothing.
    """

    n_layers: int
    reward_mean: list[float] = field(default_factory=list)
    reward_std: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    completion_length: list[float] = field(default_factory=list)
    truncated_share: list[float] = field(default_factory=list)
    zero_spread_share: list[float] = field(default_factory=list)
    step_time: list[float] = field(default_factory=list)
    peak_memory: list[float] = field(default_factory=list)
    layer_grad_norm: list[list[float]] = field(default_factory=list)
    outside_grad_norm: list[list[float]] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    anchor_group_size: list[float] = field(default_factory=list)
    shared_anchor_share: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.reward_mean)

    def arrays(self) -> dict[str, Float64[np.ndarray, "step *rest"]]:
        widths = {"layer_grad_norm": self.n_layers, "outside_grad_norm": len(OUTSIDE)}
        return {
            name: np.array(values, np.float64).reshape(-1, widths[name])
            if name in widths
            else np.array(values, np.float64)
            for name, values in vars(self).items()
            if name != "n_layers" and (values or name not in OF_TURNS)
        }
