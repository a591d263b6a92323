"""8-bit Adam of bitsandbytes, where it is installed: `make test-ranges` installs it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from lensrl.models.base import Base
from lensrl.recipe import Recipe, Rl
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.trainer import Trainer
from lensrl.train.training import train
from tests.conftest import SMALL

pytest.importorskip("bitsandbytes")


def with_rl(**settings: Any) -> Recipe:
    return SMALL.model_copy(update={"rl": Rl.model_validate(SMALL.rl.model_dump() | settings)})


def test_moments_in_8_bits_move_the_weights_about_as_those_in_32_do(base: Base) -> None:
    changes = []
    for optim in ("adamw_torch", "adamw_8bit"):
        weights = train(base, Arithmetic(), with_rl(steps=4, optim=optim), layers=[3], seed=0).weights
        moved = {name: weight - base.weights[name] for name, weight in weights.items()}
        assert {base.blocks.part(name) for name, change in moved.items() if change.any()} == {3}
        changes.append(torch.cat([change.flatten() for change in moved.values()]))
    exact, rounded = changes
    assert not torch.equal(exact, rounded), "8 bits are in use"
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.9


def test_nothing_of_a_run_stays_in_memory(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes keeps a list of embeddings, for all optimizers of the process."""
    embeddings: list[Any] = []
    original = Trainer._compute_loss

    def spy(self: Trainer, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        embeddings.append(weakref.ref(model.get_input_embeddings()))
        return original(self, model, inputs)

    monkeypatch.setattr(Trainer, "_compute_loss", spy)
    train(base, Arithmetic(), with_rl(steps=1, optim="adamw_8bit"), layers=[3], seed=0)
    gc.collect()
    assert [embedding() for embedding in embeddings] == [None]
