"""How prompts are completed: the same way in training, in scoring and in patching.

    recipe.generation -> SAMPLERS[...] -> generate(prompts, settings, rows) -> what each row wrote

Another way is a class with the same methods, and a row in SAMPLERS. `"pieces"` and `"generate"` use the model itself.
vLLM (`lensrl.models.vllm_sampler`) has weights of its own, and so has a copy (`Copied`): `refresh` brings them up to
date.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lensrl.models.generation import pad_id
from lensrl.models.histories import Growing, Histories, Written
from lensrl.models.lora import named_weights
from lensrl.models.noise import Row
from lensrl.models.vllm_sampler import Vllm

CARRIED = (
    "its keys and values cannot be chosen by row: completions that have ended are computed until the longest one of "
    "their batch ends"
)
PIECE = 16  # tokens after which rows that have ended are left out


@runtime_checkable
class Sampler(Protocol):
    """Completes prompts with one model."""

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: GenerationConfig, rows: Sequence[Row]
    ) -> list[Written]:
        """Complete every prompt. `rows` holds the keys of the rows' random numbers (`lensrl.models.noise`)."""
        ...

    def start(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> Growing:
        """Begin histories that are continued turn by turn."""
        ...

    def refresh(self) -> None:
        """Take over the weights of the model that train, where the sampler has weights of its own."""
        ...


class Pieces:
    """Samples `piece` tokens at a time, and leaves out the rows that have ended.

    `generate` of transformers computes a row that has ended until the longest row ends. Each row has its own random
    numbers, so the size of a piece changes no completion beyond the noise of the kernels.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, piece: int = PIECE) -> None:
        self._model = model
        self._pad = pad_id(tokenizer)
        self._piece = piece

    def start(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> Histories:
        return Histories(self._model, self._pad, prompts, rows)

    def refresh(self) -> None:
        pass

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: GenerationConfig, rows: Sequence[Row]
    ) -> list[Written]:
        histories = self.start(prompts, rows)
        limit = int(settings.max_new_tokens)  # pyright: ignore[reportArgumentType]
        piece = copy.copy(settings)
        found = [Written([], ended=False, logprobs=[]) for _ in prompts]
        going = list(range(len(prompts)))  # the row of `found` that each row of `histories` continues
        for done in range(0, limit, self._piece):
            piece.max_new_tokens = min(self._piece, limit - done)
            written = histories.continued(piece)
            for row, new in zip(going, written, strict=True):
                if not found[row].ended:  # else a row that could not be left out
                    old = found[row]
                    found[row] = Written(old.tokens + new.tokens, new.ended, old.logprobs + new.logprobs)
            left = [place for place, row in enumerate(going) if not found[row].ended]
            if not left:
                break
            if len(left) < len(going) and histories.can_drop:
                histories.keep(left)
                going = [going[place] for place in left]
        return found


class Copied:
    """Samples with a copy of the model (`lensrl.models.precision.copy_in_bf16`), through another sampler.

    `refresh` copies the weights that train, adapters merged. The copy may share frozen ones with the model.
    """

    def __init__(self, model: PreTrainedModel, copied: PreTrainedModel, sampler: Sampler) -> None:
        self._model = model
        self._copies = dict(copied.named_parameters())
        self._sampler = sampler

    def start(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> Growing:
        return self._sampler.start(prompts, rows)

    @torch.no_grad()
    def refresh(self) -> None:
        for name, weight in named_weights(self._model, trained=True):
            self._copies[name].copy_(weight)

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: GenerationConfig, rows: Sequence[Row]
    ) -> list[Written]:
        return self._sampler.generate(prompts, settings, rows)


class Whole:
    """Samples every row to the end of the longest one, with torch's own generator, as versions 0.1 and 0.2 did.

    A row then depends on the rows beside it. Studies of these versions go on, and are patched, in this way.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._pad = pad_id(tokenizer)

    def start(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> Histories:
        return Histories(self._model, self._pad, prompts, None)

    def refresh(self) -> None:
        pass

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: GenerationConfig, rows: Sequence[Row]
    ) -> list[Written]:
        return self.start(prompts, rows).continued(settings)


SAMPLERS: dict[str, Callable[[PreTrainedModel, PreTrainedTokenizerBase], Sampler]] = {
    "pieces": Pieces,  # the names are those of `generation` in a recipe
    "generate": Whole,
    "vllm": Vllm,
}
