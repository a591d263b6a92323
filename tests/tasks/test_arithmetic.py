"""Two-digit addition: every pair once, split for good, scored on the digits."""

from __future__ import annotations

import hashlib

import pytest

from lensrl.recipe import Recipe
from lensrl.tasks import evaluation_items, load_task
from lensrl.tasks.arithmetic import Arithmetic, problems
from lensrl.tasks.protocol import Item


def test_the_splits_share_no_problem_and_hold_every_pair() -> None:
    train, test = set(problems("train")), set(problems("test"))
    assert len(test) == 1000
    assert not train & test
    assert train | test == {(a, b) for a in range(10, 100) for b in range(10, 100)}


def test_the_held_out_problems_are_those_that_the_embedded_bases_never_saw() -> None:
    assert problems("test")[:5] == ((27, 82), (46, 60), (89, 19), (36, 38), (91, 23))
    digest = hashlib.sha256(repr(sorted(problems("test"))).encode()).hexdigest()
    assert digest == "d3819d2dd817cb7dd7190b4a3576220fe0d33216fa2fa90be954f1c5fc45345d"


def test_a_prompt_asks_for_its_own_reference() -> None:
    for item in Arithmetic().items("test"):
        a, b = item.prompt.removesuffix("=").split("+")
        assert (item.id, item.reference) == (f"{a}+{b}", str(int(a) + int(b)))


@pytest.mark.parametrize(
    ("completion", "score"),
    [("85", 1.0), (" 85\n", 1.0), ("84", 0.0), ("085", 0.0), ("85.", 0.0), ("850", 0.0), ("8 5", 0.0), ("", 0.0)],
)
def test_only_the_right_digits_score(completion: str, score: float) -> None:
    item = Item("47+38", "47+38=", "85", "arithmetic")
    assert Arithmetic().score(item, completion) == score
    assert Arithmetic().reward(item, completion) == score


def test_evaluation_takes_the_first_held_out_items() -> None:
    recipe = Recipe.model_validate({"model": "tiny:qwen3", "task": {"name": "arithmetic"}, "evaluation": {"items": 7}})
    task = load_task(recipe)
    assert evaluation_items(task, recipe) == task.items("test")[:7]
