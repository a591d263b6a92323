"""Parts of the held-out items: whole batches, each item once, and only where a run can be scored before it is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensrl.recipe import Checkpoint, Recipe
from lensrl.recipe.runs import RunSpec
from lensrl.store.write import Scores
from lensrl.train.job import Job
from lensrl.train.parts import Part, in_parts
from tests.conftest import SMALL

BATCHES = Recipe.model_validate(SMALL.model_dump() | {"evaluation": {"items": 60, "batch": 16}})  # four batches
BASE_JOB = Job(BATCHES, RunSpec("base", (), 0), Path("study"), "0" * 64, {})
LAYER = replace(BASE_JOB, spec=RunSpec("layer-3", (3,), 0))
GIVEN = replace(BASE_JOB, spec=replace(LAYER.spec, checkpoint=Checkpoint(model="trained")))


@pytest.mark.parametrize("count", [0, 5, 16, 60, 129])
@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_every_item_is_in_one_part_and_every_batch_is_whole(count: int, of: int) -> None:
    parts = [Part(number, of).items(count, 16) for number in range(of)]
    assert [place for part in parts for place in part] == [*range(count)]
    assert all(part.start % 16 == 0 for part in parts if part)


def test_runs_that_are_trained_are_scored_where_they_are_made() -> None:
    assert [len(one.parts) for one in in_parts([BASE_JOB, LAYER], 3)] == [3, 0]
    assert [len(one.parts) for one in in_parts([BASE_JOB, LAYER], 9)] == [4, 0], "as many as there are batches"
    assert [len(one.parts) for one in in_parts([BASE_JOB, GIVEN, LAYER], 5)] == [2, 2, 0]
    assert [len(one.parts) for one in in_parts([BASE_JOB, LAYER], 1)] == [0, 0]
    asked = {"task": {"name": "texts"}, "layers": [], "sets": {}, "checkpoints": {"full-rl": "trained"}}
    texts = Recipe.model_validate(BATCHES.model_dump() | asked)
    assert [len(one.parts) for one in in_parts([replace(BASE_JOB, recipe=texts)], 9)] == [0], "nothing is sampled"


def test_the_scores_of_all_parts_stand_in_the_order_of_the_items() -> None:
    def scores(*names: str) -> Scores:
        numbers = np.arange(len(names), dtype=np.float32)[:, None]
        return Scores([*names], ["b"] * len(names), numbers, numbers.astype(np.int32), numbers > 0, numbers[:, 0])

    (one,) = in_parts([BASE_JOB], 2)
    first, second = one.parts
    assert one.add(second, [scores("c"), None]) is None
    whole = one.add(first, [scores("a", "b"), scores("x")])
    assert whole is not None
    assert [task.item for task in whole.scores or ()] == [["a", "b", "c"], ["x"]]
    assert whole == BASE_JOB
