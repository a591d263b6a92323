"""A program that ranks run: train in several ways, and keep the weights and the curve that come out.

All but the first case train on given completions; the first one plays episodes. One more ends at its first step, and
one moves a frozen weight. With `shards`, the ranks share the weights out. What a way comes to is kept in a folder of
its name.

torchrun --nproc-per-node 2 -m tests.train.on_ranks FOLDER two shards
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lensrl.models.base import Base, load_base
from lensrl.models.histories import Written
from lensrl.models.noise import Row
from lensrl.models.sampler import SAMPLERS, Pieces
from lensrl.models.shards import gathered, local, local_part, shard
from lensrl.recipe import CorridorTask, Recipe, Rl
from lensrl.recipe.settings import Resources
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from lensrl.train import ranks, training
from lensrl.train.trainer import Trainer
from lensrl.train.training import Training, train
from tests.conftest import SMALL

CASES: dict[str, tuple[dict[str, Any], list[int] | None]] = {  # settings of rl, and the trained layers
    "full": ({}, None),
    "one layer": ({}, [3]),
    "dr_grpo": ({"algorithm": "dr_grpo"}, None),
    "micro-batches": ({"micro_batch": 8}, None),
    "kl": ({"kl_beta": 0.1}, [3]),
    "dapo": ({"algorithm": "dapo"}, [3]),
    "rloo": ({"algorithm": "rloo"}, [3]),
    "checkpointing": ({"gradient_checkpointing": True, "micro_batch": 16}, [3]),
    "frozen in bf16": ({"frozen_dtype": "bfloat16"}, [3]),
}
SHARDS = (
    "full",
    "one layer",
    "micro-batches",
    "kl",
    "checkpointing",
    "frozen in bf16",
)  # the others differ in the loss alone
STEPS = 10


class Given(Pieces):
    """Completes a prompt with tokens that follow from the row alone, whatever the model: digits, and an end."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(model, tokenizer)
        self._digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
        self._end = int(tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]

    def generate(self, prompts: Sequence[Sequence[int]], settings: Any, rows: Sequence[Row]) -> list[Written]:
        found = []
        for row in rows:
            random = np.random.default_rng(row)
            digits = [int(random.choice(self._digits)) for _ in range(random.integers(1, 4))]
            found.append(Written([*digits, self._end], ended=True, logprobs=[-1.0] * (len(digits) + 1)))
        return found


class OfText(Arithmetic):
    """Rewards a completion by its text alone: given completions are hardly ever right."""

    def reward(self, item: Any, completion: str) -> float:
        return float(sum(map(ord, completion)) % 3 == 0)


class Broken(OfText):
    """Gives a reward that is not finite, on the last rank alone."""

    def reward(self, item: Any, completion: str) -> float:
        return float("nan") if ranks.rank() == ranks.world() - 1 else super().reward(item, completion)


class Moving(Trainer):
    """Moves a frozen weight, on the last rank alone."""

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        if ranks.rank() == ranks.world() - 1:
            frozen = self.model.get_parameter("model.layers.0.mlp.up_proj.weight")  # pyright: ignore[reportOptionalMemberAccess]
            local(frozen.data).view(-1)[-1] += 1e-3
        return super()._compute_loss(model, inputs)


def with_rl(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"rl": Rl.model_validate(recipe.rl.model_dump() | settings)})


def main(folder: Path, *, shards: bool) -> None:
    """Train every case, and write the weights and the curve of this rank."""
    folder.mkdir(exist_ok=True)
    resources = {"engine": Resources(shard=shards)}
    base = load_base("tiny:qwen3")
    small = SMALL.model_copy(update=resources)
    recipe = with_rl(small, algorithm="gigpo", steps=2, max_completion_tokens=4, kl_beta=0)
    keep(train(base, Corridor(CorridorTask(name="corridor")), recipe, layers=[3], seed=0), folder, "episodes")
    SAMPLERS["pieces"] = Given
    if shards:
        check_shards(base)
    stopped = train(base, Broken(), with_rl(small, steps=2), layers=None, seed=0)
    (folder / f"stopped.rank-{ranks.rank()}").write_text(f"{stopped.status}: {stopped.reason}", encoding="utf-8")
    training.Trainer = Moving
    try:
        train(base, OfText(), with_rl(small, steps=1), layers=[3], seed=0)
    except RuntimeError as error:
        (folder / f"moved.rank-{ranks.rank()}").write_text(str(error), encoding="utf-8")
    training.Trainer = Trainer
    for name in SHARDS if shards else CASES:
        settings, layers = CASES[name]
        keep(train(base, OfText(), with_rl(small, steps=STEPS, **settings), layers=layers, seed=0), folder, name)


def check_shards(base: Base) -> None:
    """Check that a rank holds its part of the weights, and that it needs no other rank while they are gathered."""
    model = base.fresh()
    shard(model, base.blocks, "cpu")
    held = sum(local(parameter).numel() for parameter in model.parameters())
    total = sum(tensor.numel() for tensor in base.weights.values())
    assert abs(held * ranks.world() / total - 1) < 0.01, "a vocabulary need not be even"
    for name, parameter in model.named_parameters():
        assert torch.equal(local(parameter), local_part(base.weights[name], parameter))
    with torch.no_grad(), gathered(model):
        assert all(torch.equal(parameter, base.weights[name]) for name, parameter in model.named_parameters())
        if ranks.rank() == 0:  # the other rank would wait for ever to hear from this one
            given = torch.arange(12).reshape(2, 6)
            torch.testing.assert_close(model(given).logits, base.model(given).logits)
    assert sum(local(parameter).numel() for parameter in model.parameters()) == held


def keep(done: Training, folder: Path, name: str) -> None:
    save_file(done.weights, folder / f"{name}.rank-{ranks.rank()}.safetensors")
    np.savez(folder / f"{name}.rank-{ranks.rank()}.npz", allow_pickle=False, **done.curve.arrays())


if __name__ == "__main__":
    for way in sys.argv[2:]:
        SAMPLERS["pieces"] = Pieces
        main(Path(sys.argv[1]) / way, shards=way == "shards")
