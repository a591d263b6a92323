"""The runs that a recipe asks for: sets in words, and further learning rates."""

from __future__ import annotations

from typing import Any

import pytest

from lensrl.errors import LensrlError
from lensrl.recipe import Chosen, LayerSet, Recipe
from lensrl.recipe.layers import choose_layers
from lensrl.recipe.runs import RunSpec, plan, set_run


def recipe(**values: Any) -> Recipe:
    return Recipe.model_validate({"model": "tiny:none", "task": "arithmetic", "layers": [1]} | values)


def of_set(**values: Any) -> RunSpec:
    return set_run("set", LayerSet.model_validate(values), 8)


def test_a_set_trains_what_its_words_mean() -> None:
    assert of_set(layers="mid-2") == RunSpec("set", (3, 4), 0)
    assert of_set(layers="random-3").layers == tuple(choose_layers("random-3", 8, draw="set") or ())
    assert of_set(layers="0-2", component="attn") == RunSpec("set", (0, 1, 2), 0, "attn")
    assert of_set(layers="full", boost=[6, 7], factor=3) == RunSpec("set", None, 0, boost=(6, 7), factor=3.0)


def test_what_was_chosen_from_a_profile_is_planned_as_it_was_chosen() -> None:
    ranked = {"layers": "top-2", "boost": "top-1", "factor": 2, "profile": "tiny"}
    assert of_set(**ranked, chosen=Chosen(layers=[5, 6], boost=[6])).layers == (5, 6)
    with pytest.raises(LensrlError, match=r"sets\.set: 'top-2' is chosen by contribution"):
        of_set(**ranked)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layers": 3}, "layer 3"),
        ({"layers": "0-2,7", "component": "mlp"}, "MLP of layers 0-2,7"),
        ({"layers": "all", "component": "attn"}, "attention of layers 0-7"),
        ({"layers": "full", "boost": "mid-3", "factor": 2.5}, "all parameters, layers 2-4 at 2.5 x the learning rate"),
    ],
)
def test_what_is_trained_in_words(values: dict[str, Any], words: str) -> None:
    assert of_set(**values).trained == words


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"layers": "mid-9"}, r"sets\.set: 'mid-9' asks for 9 layers: this model has 8"),
        ({"layers": "8"}, r"sets\.set: layer 8 is out of range: this model has 8 layers"),
        ({"layers": []}, "'set' names no layer"),
        ({"layers": "0-3", "boost": [3, 4], "factor": 2}, r"sets\.set: boosts layer 4, but trains layers 0-3 alone"),
    ],
)
def test_a_set_that_the_model_cannot_have_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(LensrlError, match=complaint):
        of_set(**values)


def test_full_rl_and_the_single_layers_come_again_at_every_rate() -> None:
    specs = plan(recipe(seeds=[0, 2], sets={"low": [0]}, learning_rates=[4e-4, 1e-5]), 8)
    assert [(spec.name, spec.seed, spec.learning_rate) for spec in specs[1:9]] == [
        ("full-rl", 0, None), ("layer-1", 0, None), ("low", 0, None),
        ("full-rl@0.0004", 0, 4e-4), ("layer-1@0.0004", 0, 4e-4),
        ("full-rl@1e-05", 0, 1e-5), ("layer-1@1e-05", 0, 1e-5), ("full-rl", 2, None),
    ]  # fmt: skip
    assert [spec.layers for spec in specs[4:6]] == [None, (1,)]
    assert len({(spec.name, spec.seed) for spec in specs}) == len(specs) == 15
