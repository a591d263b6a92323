"""Expressions judged by running them: every problem once, split for good."""

from __future__ import annotations

import hashlib
from itertools import combinations

import pytest

from lensrl.recipe import Recipe
from lensrl.tasks import Item, evaluation_items, load_task
from lensrl.tasks.batch import BatchTask
from lensrl.tasks.expression import Expression, problems

ITEM = Item("1:5 4:11 7:17", "1:5 4:11 7:17 x:", "2*x+3", "expression")


def test_the_splits_share_no_problem_and_hold_every_one_in_one_order() -> None:
    train, test = (
        [(slope, offset, frozenset(inputs)) for slope, offset, inputs in problems(split)] for split in ("train", "test")
    )
    every = {
        (slope, offset, frozenset(inputs))
        for slope in (1, 2, 3, 4, 5)
        for offset in range(-5, 10)
        for inputs in combinations(range(10), 3)
    }
    assert (len(train), len(test)) == (8000, 1000)
    assert {*train, *test} == every
    assert len(every) == 9000


def test_the_held_out_problems_never_change() -> None:
    digest = hashlib.sha256(repr(problems("test")).encode()).hexdigest()
    assert digest == "6bc32888c6fa68d22daca717cc1bf9cb9059f99fa3d281cd25c790e5f690a64d"


def test_a_prompt_shows_three_points_of_its_own_reference() -> None:
    for split in ("train", "test"):
        items = Expression().items(split)
        assert len({item.id for item in items}) == len(items) == len(problems(split))
        for item in items:
            shown = [tuple(map(int, pair.split(":"))) for pair in item.prompt.removesuffix(" x:").split()]
            assert len(shown) == 3
            assert isinstance(item.reference, str)
            assert all(eval(item.reference, {}, {"x": x}) == y for x, y in shown)
            assert item.reference == item.reference.strip()
            assert not item.reference.startswith("1*")
            assert not item.reference.endswith("+0")


def test_every_reference_is_right_when_it_is_run() -> None:
    task = Expression()
    items = [*task.items("test"), *task.items("train")]
    assert task.scores(items, [str(item.reference) for item in items]) == [1.0] * 9000


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("2*x+3", 1.0),
        ("3+x*2", 1.0),
        (" 2 * x + 3\n", 1.0),
        ("x+x+3", 1.0),
        ("2*(x+1)+1", 1.0),
        ("sum([x, x, 3])", 1.0),
        ("(lambda y: 2*y+3)(x)", 1.0),
        ("2*x+3 # the line", 1.0),
        ("x+4", 0.0),  # the first example alone
        ("3*x-1", 0.0),  # the second alone
        ("{1: 5, 4: 11, 7: 17}[x]", 0.0),  # the three alone
        ("2*x+3 if x in (1, 4, 7) else 0", 0.0),
        ("2*x+3 if x < 100 else 0", 0.0),
        ("2*x+3.0", 0.0),
        ("str(2*x+3)", 0.0),
        ("type('Y', (int,), {'__eq__': lambda *_: True})()", 0.0),  # equal to everything
        ("2x+3", 0.0),
        ("2*x+", 0.0),
        ("", 0.0),
        ("x:2*x+3", 0.0),
        ("y = 2*x+3", 0.0),
        ("2*x+3\n2*x+3", 0.0),
        ("2*x+3'", 0.0),
        ("'); values = [5, 11, 17] #", 0.0),
        ("exit(0)", 0.0),
        ("__import__('os')._exit(0)", 0.0),
        ("[1 for _ in iter(int, 1)]", 0.0),
        ("9**9**9", 0.0),
    ],
)
def test_an_answer_is_right_when_python_computes_the_function_with_it(completion: str, score: float) -> None:
    assert Expression().score(ITEM, completion) == score
    assert Expression().reward(ITEM, completion) == score


def test_many_are_judged_as_one_is() -> None:
    task = load_task(Recipe.model_validate({"model": "tiny:qwen3", "task": "expression"}))
    assert isinstance(task, BatchTask)
    assert task.scores([ITEM] * 4, ["2*x+3", "x+4", "2*x+3", ""]) == [1.0, 0.0, 1.0, 0.0]


def test_evaluation_takes_the_first_held_out_items() -> None:
    recipe = Recipe.model_validate({"model": "tiny:qwen3", "task": "expression", "evaluation": {"items": 7}})
    task = load_task(recipe)
    assert evaluation_items(task, recipe) == task.items("test")[:7]
