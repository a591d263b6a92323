"""Training parts of layers, and layers at a rate of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lensrl.models.base import Base, load_base
from lensrl.recipe import Rl
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.checks import check_frozen
from lensrl.train.trainer import Trainer
from lensrl.train.training import train
from tests.conftest import SMALL

RECIPE = SMALL.model_copy(update={"rl": Rl.model_validate(SMALL.rl.model_dump() | {"steps": 2, "weight_decay": 0.1})})


def trained(base: Base, layers: list[int] | None, **values: Any) -> dict[str, torch.Tensor]:
    return base.weights | train(base, Arithmetic(), RECIPE, layers=layers, seed=0, **values).weights


@pytest.mark.parametrize("component", ["attn", "mlp"])
def test_a_part_of_a_layer_alone_is_trained(base: Base, component: Any) -> None:
    after = trained(base, [2, 5], component=component)
    changed = {name for name, weights in after.items() if not torch.equal(weights, base.weights[name])}
    module = {"attn": "self_attn", "mlp": "mlp"}[component]
    expected = {n for n in after if any(n.startswith(f"model.layers.{layer}.{module}.") for layer in (2, 5))}
    assert changed == expected
    assert len(expected) >= 6


NAMES = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "lm_head": "lm_head.weight"}


@pytest.mark.parametrize(
    ("layers", "outside"), [([], ["embed"]), ([], ["final_norm"]), ([], ["lm_head"]), ([2], ["embed", "final_norm"])]
)
def test_a_part_outside_the_layers_is_trained_alone_or_beside_layers(layers: list[int], outside: Any) -> None:
    untied = load_base("tiny:qwen2.5")
    after = trained(untied, layers, outside=outside)
    changed = {name for name, weights in after.items() if not torch.equal(weights, untied.weights[name])}
    inside = {name for name in after if any(name.startswith(f"model.layers.{layer}.") for layer in layers)}
    assert changed == inside | {NAMES[part] for part in outside}


def test_boosting_by_one_is_training_as_it_was_to_the_bit(base: Base) -> None:
    plain, boosted = trained(base, None), trained(base, None, boost=(2, 3), factor=1.0)
    assert all(torch.equal(plain[name], boosted[name]) for name in plain)


def test_the_first_step_of_a_boosted_layer_is_that_much_longer(base: Base) -> None:
    """Adam's first step is the rate times the gradient's sign, whatever else is trained at which rate."""
    one = RECIPE.model_copy(update={"rl": RECIPE.rl.model_copy(update={"steps": 1, "weight_decay": 0.0})})
    task = Arithmetic()
    plain, boosted = [train(base, task, one, layers=[2, 5], seed=0, boost=b, factor=4.0).weights for b in ((), (5,))]
    for name in ("model.layers.2.mlp.up_proj.weight", "model.layers.5.mlp.up_proj.weight"):
        steps = [(model[name] - base.weights[name]).double() for model in (plain, boosted)]
        factor = 4.0 if ".5." in name else 1.0
        assert float(steps[1].norm() / steps[0].norm()) == pytest.approx(factor, rel=1e-3)


def test_groups_are_split_by_rate_and_keep_their_weight_decay(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    create = Trainer.create_optimizer

    def spy(self: Trainer, *arguments: Any) -> torch.optim.Optimizer:
        optimizer = create(self, *arguments)
        seen.extend(group | {} for group in optimizer.param_groups)
        return optimizer

    monkeypatch.setattr(Trainer, "create_optimizer", spy)
    trained(base, None, boost=(7,), factor=2.5)
    rate = RECIPE.rl.learning_rate
    assert {(group["lr"], group["weight_decay"]) for group in seen} == {
        (rate, 0.0), (rate, 0.1), (2.5 * rate, 0.0), (2.5 * rate, 0.1)
    }  # fmt: skip
    counts = [sum(p.numel() for p in group["params"]) for group in seen]
    layer = sum(w.numel() for name, w in base.weights.items() if base.blocks.layer(name) == 7)
    assert sum(counts) == sum(weights.numel() for weights in base.weights.values())
    assert sum(n for n, group in zip(counts, seen, strict=True) if group["lr"] > 2 * rate) == layer
    others = [
        {k: v for k, v in group.items() if k not in ("params", "lr", "weight_decay", "initial_lr")} for group in seen
    ]
    assert all(other == others[0] for other in others)


def test_a_part_of_a_trained_layer_that_should_be_frozen_is_checked(base: Base) -> None:
    model = base.fresh()
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight").view(-1)[0] *= -1
    check_frozen(model, base, [1])
    check_frozen(model, base, [1], "mlp")
    check_frozen(model, base, [1], outside=["embed"])
    with pytest.raises(RuntimeError, match=r"changed although only layers \[\] and embed were trained"):
        check_frozen(model, base, [], outside=["embed"])
    with pytest.raises(
        RuntimeError, match=r"layers\.1\.mlp\.up_proj\.weight changed although only layers \[1\] \(attn\)"
    ):
        check_frozen(model, base, [1], "attn")
