"""The training curve of a run: rewards, loss, gradient norms by layer, time and memory of every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from lensrl.recipe.layers import OUTSIDE
from lensrl.store.completions import TrainingCompletion

OPTIONAL_FIELDS = (
    "turns",
    "anchor_group_size",
    "shared_anchor_share",
    "clipped_share",
    "sampler_mismatch",
    "entropy",
    "kl",
)


@dataclass
class TrainingCurve:
    """A training curve: one list entry per step, which is a rollout and its updates.

    - `reward_mean`, `reward_std`: over the step's completions.
    - `loss`: as TRL logs it, mean over the step's updates.
    - `grad_norm`: before clipping, root mean square over the updates. `layer_grad_norm`: the same for each layer.
      `outside_grad_norm`: the same for embed, final_norm and lm_head.
    - `completion_length`: mean, in tokens.
    - `truncated_share`: share of completions that met the length limit; in a task in turns, share of episodes that ran
      out of turns.
    - `zero_spread_share`: share of groups whose rewards are all equal (such a group teaches nothing).
    - `step_time`: in seconds. `peak_memory`: in bytes, of the GPU where there is one, else of the process.

    Seven more are empty, and not stored, where they do not apply:

    - `turns`: mean turns per episode, in a task in turns.
    - `anchor_group_size`: mean number of turns taken in one state, under GiGPO.
    - `shared_anchor_share`: share of turns whose state another turn of the group shares, under GiGPO.
    - `clipped_share`: share of tokens (under GSPO, of completions) outside the clip, mean over the step's updates, with
      several updates per rollout. TRL's `clip_ratio/region_mean`.
    - `sampler_mismatch`: mean over tokens of |log p of the sampler - log p of the trainer|, in nats.
    - `entropy`: of the next token at the sampled positions, at the sampling temperature, in nats; as TRL logs it, mean
      over the step's updates.
    - `kl`: to the base, per token in nats, by the estimator r - 1 - log r with r = p_base / p at the sampled tokens
      (Schulman, "Approximating KL divergence", 2020). Only where `kl_beta` is not 0: without a KL term, nobody computes
      the base's log-probabilities in training.

    `completions` holds the completions that are kept of each step, as lists that JSON can say; most steps keep none.
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
    clipped_share: list[float] = field(default_factory=list)
    sampler_mismatch: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    completions: list[list[Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.reward_mean)

    def rows(self, count: int) -> dict[str, list[Any]]:
        """Return the first rows of every column, as lists by name."""
        return {name: values[:count] for name, values in vars(self).items() if name != "n_layers"}

    def extend(self, rows: Mapping[str, list[Any]]) -> None:
        """Add rows that `rows` returned."""
        for name, values in rows.items():
            vars(self)[name] += values

    def arrays(self) -> dict[str, Float64[np.ndarray, "step *rest"]]:
        """Return the curve as arrays by name: (step,), or (step, layer) and (step, part) for the norms by part."""
        widths = {"layer_grad_norm": self.n_layers, "outside_grad_norm": len(OUTSIDE)}
        return {
            name: np.array(values, np.float64).reshape(-1, widths[name])
            if name in widths
            else np.array(values, np.float64)
            for name, values in vars(self).items()
            if name not in ("n_layers", "completions") and (values or name not in OPTIONAL_FIELDS)
        }

    def kept(self) -> list[TrainingCompletion]:
        """Return the completions that are kept, step by step."""
        return [TrainingCompletion(*row) for rows in self.completions for row in rows]
