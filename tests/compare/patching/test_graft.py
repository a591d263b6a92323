"""Weight grafts, on a study that really ran."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lensrl.compare.patching.graft import graft, run_weights
from lensrl.models.base import Base
from lensrl.models.references import references
from lensrl.recipe.layers import OUTSIDE
from lensrl.store.patch import PatchComponent
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.store.write import Header, write_run
from lensrl.tasks import evaluation_items
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.materials import parameter_table
from lensrl.train.training import train
from tests.conftest import SMALL


def logits(base: Base, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    teacher = references(base.prompts, evaluation_items(Arithmetic(), SMALL)[:8])
    with torch.no_grad():
        return base.fresh(weights)(teacher.ids, attention_mask=teacher.mask).logits


def test_all_layers_and_the_rest_are_the_rl_model_exactly(base: Base, small_study: Study) -> None:
    rl = run_weights(small_study["full-rl"], base)
    whole = graft(base, base.weights, rl, [*range(8), *OUTSIDE])
    assert torch.equal(logits(base, whole), logits(base, rl))
    layers_alone = graft(base, base.weights, rl, range(8))
    assert not torch.equal(logits(base, layers_alone), logits(base, rl)), "the embedding moved too"


def test_base_into_base_changes_nothing(base: Base) -> None:
    assert torch.equal(logits(base, graft(base, base.weights, base.weights, [3])), logits(base, {}))


def test_a_layer_that_rl_left_alone_changes_nothing(base: Base, small_study: Study) -> None:
    single = run_weights(small_study["layer-3"], base)
    assert torch.equal(logits(base, graft(base, base.weights, single, [0, 7, "embed"])), logits(base, {}))
    assert torch.equal(logits(base, graft(base, base.weights, single, [3])), logits(base, single))


def test_a_component_moves_only_its_own_module(base: Base, small_study: Study) -> None:
    rl = run_weights(small_study["full-rl"], base)
    modules: dict[PatchComponent, str] = {"attn": "self_attn", "mlp": "mlp"}
    for component, module in modules.items():
        grafted = graft(base, base.weights, rl, [3], component)
        changed = {name for name in grafted if not torch.equal(grafted[name], base.weights[name])}
        assert changed
        assert all(name.startswith(f"model.layers.3.{module}.") for name in changed)


def test_run_weights_are_the_trained_weights_bit_for_bit(base: Base, tmp_path: Path) -> None:
    """A file gives back what training left in memory."""
    training = train(base, Arithmetic(), SMALL, layers=[3], seed=0)
    trained = base.weights | training.weights
    header = Header(
        study="s", run="layer-3", seed=0, layers=[3], status="completed", reason="", base="tiny:qwen3",
        fingerprint=base.fingerprint, n_layers=8, recipe="{}", provenance={},
    )  # fmt: skip
    before = {name: w.numpy() for name, w in base.weights.items()}
    after = {name: w.numpy() for name, w in trained.items()}
    write_run(tmp_path / "x.h5", header, parameter_table(base), before, after=after)
    with Run(tmp_path / "x.h5") as run:
        stored = run_weights(run, base)
    for name, weight in trained.items():
        assert np.array_equal(stored[name].numpy().view(np.uint32), weight.numpy().view(np.uint32)), name
