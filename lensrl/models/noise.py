"""The randomness of sampling: one uniform number for each row and step, and the token that it chooses.

A row is a completion, or an episode in turns. Its numbers come from its key alone, which holds the seed and the number
of the row. So a completion does not depend on the other rows of its batch, nor on the size of the batch. The numbers
are the same on a CPU and on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

Row = tuple[int, ...]  # the key of a row's numbers: seed, TRAINING or SCORING, and numbers that tell the rows apart
TRAINING, SCORING = 0, 1


class Noise:
    """The uniform numbers of several rows. Each row has a stream of its own (NumPy's Philox), read step by step."""

    def __init__(self, rows: Sequence[Row]) -> None:
        # A seed may be negative. `SeedSequence` takes numbers from 0 up, and mixes them into one key.
        keys = [[part % 2**64 for part in row] for row in rows]
        self._streams = [np.random.Generator(np.random.Philox(np.random.SeedSequence(key))) for key in keys]

    def uniform(self, steps: int) -> torch.Tensor:
        """Return the next numbers of every row, (row, step), in [0, 1) and in float64."""
        return torch.from_numpy(np.stack([stream.random(steps) for stream in self._streams]))

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        self._streams = [self._streams[row] for row in rows]


class Chooser(LogitsProcessor):
    """Chooses the next token of every row by the inverse of the distribution function.

        token = min {k : p_0 + ... + p_k > u},    p = softmax(logits / temperature), cut by top-k and top-p

    All other tokens get the logit -inf, so greedy decoding takes the token. `logprobs` holds log p of the chosen tokens
    at the temperature, before the cuts, one tensor (row,) per step.
    """

    def __init__(self, settings: GenerationConfig, uniform: torch.Tensor) -> None:
        self._temperature = TemperatureLogitsWarper(float(settings.temperature))  # pyright: ignore[reportArgumentType]
        self._cuts = LogitsProcessorList()
        if settings.top_k:
            self._cuts.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p is not None and settings.top_p < 1:
            self._cuts.append(TopPLogitsWarper(settings.top_p))
        self._uniform = uniform
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scaled = self._temperature(input_ids, scores)  # pyright: ignore[reportArgumentType]
        kept = self._cuts(input_ids, scaled)  # pyright: ignore[reportArgumentType]
        # The sum in float64: in fp32 it would lose tokens whose probability is below its rounding.
        below = kept.softmax(-1).cumsum(-1, dtype=torch.float64)
        drawn = self._uniform[:, len(self.logprobs), None] * below[:, -1:]
        # Logits that are not numbers must reach the recorder as a gradient, so any token will do there.
        token = torch.searchsorted(below, drawn, right=True).clamp(max=scores.shape[-1] - 1)
        self.logprobs.append((scaled.gather(-1, token) - scaled.logsumexp(-1, keepdim=True)).squeeze(-1))
        return torch.full_like(scores, -torch.inf).scatter_(-1, token, 0.0)
