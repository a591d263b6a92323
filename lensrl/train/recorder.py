"""Recording a training curve while TRL trains, and ending a run that diverges or collapses."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Float64

from lensrl.models.blocks import Blocks
from lensrl.recipe.layers import OUTSIDE
from lensrl.train.curve import TrainingCurve

COLLAPSE_WINDOW = 10  # steps
COLLAPSE_SHARE = 0.5
COLLAPSE_ERRORS = 3  # standard errors
FIRST, LAST = slice(COLLAPSE_WINDOW), slice(-COLLAPSE_WINDOW, None)


class Diverged(Exception):
    """A loss or gradient that is not finite."""


class Collapsed(Exception):
    """A reward that fell far below where it started."""


class Recorder:
    """Fills a TrainingCurve from the three places of a step where its numbers are known."""

    def __init__(self, blocks: Blocks, *, group_size: int) -> None:
        self.curve = TrainingCurve(blocks.n_layers)
        self._blocks = blocks
        self._group_size = group_size
        self._step_started = time.perf_counter()

    def step_begins(self) -> None:
        self._step_started = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def record_completions(self, rewards: Sequence[float], lengths: Sequence[int], truncated: Sequence[bool]) -> None:
        """What a step sampled, group by group. Raises Diverged for a reward that is not finite."""
        if not np.isfinite(rewards).all():  # TRL would give it the advantage 0 and go on
            raise Diverged(f"a reward is not finite at step {len(self.curve) + 1}")
        groups = np.array(rewards, np.float64).reshape(-1, self._group_size)
        curve = self.curve
        curve.reward_mean.append(float(groups.mean()))
        curve.reward_std.append(float(groups.std()))
        curve.zero_spread_share.append(float((np.ptp(groups, axis=1) == 0).mean()))
        curve.completion_length.append(float(np.mean(lengths)))
        curve.truncated_share.append(float(np.mean(truncated)))

    def record_turns(self, counts: Sequence[int]) -> None:
        """How many turns each episode of a step took."""
        self.curve.turns.append(float(np.mean(counts)))

    def record_anchors(self, group: Sequence[int], anchor: Sequence[Hashable]) -> None:
        """The states of a step's turns, and the group that each turn belongs to."""
        sizes = Counter(zip(group, anchor, strict=True))
        self.curve.anchor_group_size.append(len(anchor) / len(sizes))
        self.curve.shared_anchor_share.append(sum(n for n in sizes.values() if n > 1) / len(anchor))

    def record_gradients(self, model: torch.nn.Module) -> None:
        """Norms before clipping, per layer and outside. Raises Diverged before the optimiser could use them."""
        squares: dict[int | str, torch.Tensor] = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                part = self._blocks.part(name)
                squares[part] = (
                    squares.get(part, torch.zeros((), device=parameter.device)) + parameter.grad.square().sum()
                )
        norms = {part: float(square) ** 0.5 for part, square in squares.items()}
        self.curve.layer_grad_norm.append([norms.get(layer, 0.0) for layer in range(self._blocks.n_layers)])
        self.curve.outside_grad_norm.append([norms.get(part, 0.0) for part in OUTSIDE])
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        self.curve.grad_norm.append(total)
        if not np.isfinite(total):
            raise Diverged(f"the gradient is not finite at step {len(self.curve.grad_norm)}")

    def step_ends(self, loss: float) -> None:
        """Raises Collapsed when the recent reward is under half of what it was at the start, beyond its noise."""
        curve = self.curve
        curve.loss.append(loss)
        curve.step_time.append(time.perf_counter() - self._step_started)
        curve.peak_memory.append(
            float(torch.cuda.max_memory_allocated())
            if torch.cuda.is_available()
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
        )
        if len(curve) >= 2 * COLLAPSE_WINDOW:
            self._check_reward(*(np.array(curve.reward_mean[part]) for part in (FIRST, LAST)))

    def _check_reward(self, first: Float64[np.ndarray, " step"], last: Float64[np.ndarray, " step"]) -> None:
        """Where the start earned nothing, penalties perhaps, there is nothing to lose; and a few completions that were
        right by luck are not missed: the fall is more than three of its standard errors.
        """
        before, now = first.mean(), last.mean()
        noise = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / COLLAPSE_WINDOW)
        if before > 0 and now < COLLAPSE_SHARE * before and before - now > COLLAPSE_ERRORS * noise:
            step = len(self.curve)
            raise Collapsed(
                f"the mean reward of steps {step - COLLAPSE_WINDOW + 1} to {step} is {now:.3f}, "
                f"under half of the {before:.3f} of the first {COLLAPSE_WINDOW}"
            )
