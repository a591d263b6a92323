"""Recording of a training curve while TRL trains. The recorder ends a run that diverges or collapses."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Collection, Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Float64

from lensrl.models.blocks import Blocks
from lensrl.models.shards import is_sharded, local
from lensrl.recipe.layers import OUTSIDE
from lensrl.tasks import Item
from lensrl.train import ranks
from lensrl.train.curve import TrainingCurve

COLLAPSE_WINDOW = 10  # steps at the start, and the latest steps, whose mean rewards are compared
COLLAPSE_SHARE = 0.5  # of the reward at the start
COLLAPSE_ERRORS = 3  # standard errors of the drop


class Diverged(Exception):
    """A reward or gradient is not finite."""


class Collapsed(Exception):
    """The reward fell far below the reward at the start."""


class Recorder:
    """Fills a TrainingCurve: after sampling, before the gradient is clipped, and at the end of each update.

    A step has one rollout and `updates` updates, and one row in the curve. On several ranks, each rank records what all
    of them sampled, so that all end a run at the same step. Time and memory are its own.
    """

    def __init__(
        self, blocks: Blocks, *, group_size: int, updates: int = 1, kept_steps: Collection[int] = (), kept: int = 0
    ) -> None:
        """`kept` completions of each of the steps `kept_steps` are kept."""
        self.curve = TrainingCurve(blocks.n_layers)
        self._blocks = blocks
        self._group_size = group_size
        self._updates = updates
        self._kept_steps, self._kept = kept_steps, kept
        self._squares: list[dict[int | str, float]] = []  # of the gradients of the step's updates so far, by part
        self._losses: list[float] = []  # of the step's updates so far
        self._clipped: list[float] = []
        self._logged: dict[str, list[float]] = {}
        self._step_started = time.perf_counter()
        self._mismatch = torch.zeros(2, dtype=torch.float64)  # of the step so far: sum, and number of tokens

    def step_begins(self) -> None:
        """Start the clock of a step, and the measurement of its peak memory."""
        self._step_started = time.perf_counter()
        self._mismatch.zero_()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def record_completions(self, rewards: Sequence[float], lengths: Sequence[int], truncated: Sequence[bool]) -> None:
        """Record the completions or episodes of a step; rows stand group by group.

        Raises Diverged for a reward that is not finite.
        """
        rewards, lengths, truncated = ranks.gathered(rewards), ranks.gathered(lengths), ranks.gathered(truncated)
        if not np.isfinite(rewards).all():  # TRL would give this completion the advantage 0 and go on
            raise Diverged(f"a reward is not finite at step {len(self.curve) + 1}")
        groups = np.array(rewards, np.float64).reshape(-1, self._group_size)
        curve = self.curve
        curve.reward_mean.append(float(groups.mean()))
        curve.reward_std.append(float(groups.std()))
        curve.zero_spread_share.append(float((np.ptp(groups, axis=1) == 0).mean()))
        curve.completion_length.append(float(np.mean(lengths)))
        curve.truncated_share.append(float(np.mean(truncated)))

    def record_texts(
        self,
        items: Sequence[Item],
        texts: Sequence[str],
        rewards: Sequence[float],
        lengths: Sequence[int],
        truncated: Sequence[bool],
    ) -> None:
        """Keep some completions of a step, of prompts as different as can be. To be called after `record_completions`.

        Rows stand group by group, so rows that are evenly spaced are of different groups.
        """
        step = len(self.curve)
        if step not in self._kept_steps:
            self.curve.completions.append([])
            return
        rows = ranks.gathered([
            [step, item.id, item.prompt, text, float(reward), length, cut]
            for item, text, reward, length, cut in zip(items, texts, rewards, lengths, truncated, strict=True)
        ])  # fmt: skip
        count = min(self._kept, len(rows))
        self.curve.completions.append([rows[i * len(rows) // count] for i in range(count)])

    def record_turns(self, counts: Sequence[int]) -> None:
        """Record the number of turns of each episode of a step."""
        self.curve.turns.append(float(np.mean(ranks.gathered(counts))))

    def record_anchors(self, group: Sequence[int], anchor: Sequence[Hashable]) -> None:
        """Record how often turns share a state: the group and the state of each turn of a step."""
        turns = ranks.gathered([(ranks.rank(), *turn) for turn in zip(group, anchor, strict=True)])
        sizes = Counter(turns)
        self.curve.anchor_group_size.append(len(turns) / len(sizes))
        self.curve.shared_anchor_share.append(sum(n for n in sizes.values() if n > 1) / len(turns))

    def record_mismatch(self, difference: torch.Tensor, mask: torch.Tensor) -> None:
        """Add the differences |log p of the sampler - log p of the trainer|, (row, token), of a micro-batch."""
        self._mismatch += torch.stack([(difference * mask).sum(), mask.sum().to(difference)]).double().cpu()

    def record_gradients(self, model: torch.nn.Module) -> None:
        """Record the gradient norms before clipping, of every layer and of the parts outside the layers.

        The row of a step with several updates holds the root of the mean square over them.

        Raises Diverged for a norm that is not finite, before the optimiser uses the gradient.
        """
        squares: dict[int | str, torch.Tensor] = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                part = self._blocks.part(name)
                square = local(parameter.grad).square().sum()
                squares[part] = squares.get(part, torch.zeros_like(square)) + square
        # One row a step: a later update of the same step replaces the row.
        curve = self.curve
        if self._squares:
            for column in (curve.layer_grad_norm, curve.outside_grad_norm, curve.grad_norm):
                column.pop()
        of_ranks = [{part: float(square) for part, square in squares.items()}]
        if is_sharded(model):  # else every rank has the whole gradient
            of_ranks = ranks.gathered(of_ranks)
        self._squares.append({part: sum(squares[part] for squares in of_ranks) for part in squares})
        norms = {part: _mean([update[part] for update in self._squares]) ** 0.5 for part in squares}
        curve.layer_grad_norm.append([norms.get(layer, 0.0) for layer in range(self._blocks.n_layers)])
        curve.outside_grad_norm.append([norms.get(part, 0.0) for part in OUTSIDE])
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        curve.grad_norm.append(total)
        if not np.isfinite(total):
            raise Diverged(f"the gradient is not finite at step {len(self.curve.grad_norm)}")

    def update_ends(
        self, loss: float, *, clipped_share: float = 0.0, entropy: float | None = None, kl: float | None = None
    ) -> bool:
        """Record the end of an update, and of the step after its last update. Returns whether the step has ended.

        Every number is a mean over the step's updates in the curve; None has no column.

        Raises Collapsed when the recent reward is far below the reward at the start.
        """
        self._losses.append(loss)
        self._clipped.append(clipped_share)
        for name, value in (("entropy", entropy), ("kl", kl)):
            if value is not None:
                self._logged.setdefault(name, []).append(value)
        if len(self._losses) < self._updates:
            return False
        curve = self.curve
        curve.loss.append(_mean(self._losses))
        if self._updates > 1:  # with one update, the policy is the sampled policy, and nothing is clipped
            curve.clipped_share.append(_mean(self._clipped))
        for name, values in self._logged.items():
            getattr(curve, name).append(_mean(values))
        total, tokens = np.sum(ranks.gathered([self._mismatch.tolist()]), axis=0).tolist()
        if tokens:
            curve.sampler_mismatch.append(total / tokens)
        self._squares, self._losses, self._clipped, self._logged = [], [], [], {}
        curve.step_time.append(time.perf_counter() - self._step_started)
        curve.peak_memory.append(
            float(torch.cuda.max_memory_allocated())
            if torch.cuda.is_available()
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
        )
        if len(curve) >= 2 * COLLAPSE_WINDOW:
            rewards = np.array(curve.reward_mean)
            self._check_reward(first=rewards[:COLLAPSE_WINDOW], last=rewards[-COLLAPSE_WINDOW:])
        return True

    def _check_reward(self, *, first: Float64[np.ndarray, " step"], last: Float64[np.ndarray, " step"]) -> None:
        """Raise Collapsed when the mean of `last` is under half the mean of `first`, by more than 3 standard errors.

        `first` and `last` are the mean rewards of the first and of the last 10 steps. A start with a mean of 0 or below
        (penalties) cannot collapse: it has nothing to lose. The standard errors keep a few lucky completions at the
        start from counting as a loss.
        """
        at_start, now = first.mean(), last.mean()
        standard_error = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / COLLAPSE_WINDOW)
        drop = at_start - now
        if at_start > 0 and now < COLLAPSE_SHARE * at_start and drop > COLLAPSE_ERRORS * standard_error:
            step = len(self.curve)
            raise Collapsed(
                f"the mean reward of steps {step - COLLAPSE_WINDOW + 1} to {step} is {now:.3f}, "
                f"under half of the {at_start:.3f} of the first {COLLAPSE_WINDOW}"
            )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
