"""Data sets of reasoning-gym: disjoint splits, its own verdicts, and one line for what it does not have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym

import lensrl
from lensrl.errors import RecipeError
from lensrl.recipe import GymTask, load_recipe
from lensrl.tasks import Task
from lensrl.tasks.gym import Gym

SMOKE = Path(__file__).parents[2] / "runs" / "smoke-gym.toml"
SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
DATASETS = {
    "chain_sum": {"min_digits": 2, "max_digits": 2},
    "leg_counting": {"max_animals": 4},
    "simple_equations": {},
    "basic_arithmetic": {},
    "letter_counting": {},
    "number_sorting": {},
    "knights_knaves": {},
    "simple_integration": {},
    "countdown": {},
    "spiral_matrix": {},
}


def gym(dataset: str, train: int = 30, test: int = 12, **settings: Any) -> Gym:
    return Gym(GymTask(name="gym", dataset=dataset, train_items=train, test_items=test, **settings))


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_data_set_makes_the_same_disjoint_items_each_time_and_accepts_its_own_answers(dataset: str) -> None:
    task, again = (gym(dataset, options=DATASETS[dataset]) for _ in range(2))
    assert isinstance(task, Task)
    test, train = task.items("test"), task.items("train")
    assert (test, train) == (again.items("test"), again.items("train"))
    assert len(test) == 12
    assert not {item.prompt for item in test} & {item.prompt for item in train}
    assert len({item.id for item in [*test, *train]}) == len(test) + len(train)
    assert len({item.prompt for item in train}) == len(train)
    for item in test[:4]:
        for right in (item.written[0], f" {item.written[0]}\n", f"I think <answer>{item.written[0]}</answer>."):
            assert task.score(item, right) == task.reward(item, right) == 1.0
        for wrong in ("", "I do not know", "<answer>", "9" * 5000):
            assert 0 <= task.score(item, wrong) < 0.2


def test_items_are_those_of_reasoning_gym() -> None:
    theirs = reasoning_gym.create_dataset("chain_sum", seed=7, size=5, **SUMS)
    mine = gym("chain_sum", train=3, test=2, seed=7, options=SUMS, prompt="Q: {question}\nA: ")
    items = [*mine.items("test"), *mine.items("train")]
    assert [item.prompt for item in items] == [f"Q: {theirs[i]['question']}\nA: " for i in range(5)]
    assert [item.reference for item in items] == [theirs[i]["answer"] for i in range(5)]
    assert {item.benchmark for item in items} == {"chain_sum"}


def test_the_verdict_is_the_verifiers_also_in_part() -> None:
    theirs = reasoning_gym.create_dataset("chain_sum", seed=0, size=5)
    task = gym("chain_sum")
    item = task.items("test")[0]
    for answer in (
        item.written[0],
        f"={item.written[0]}",
        f"{item.written[0]}.00",
        "12",
        f"so {item.written[0]} or so",
    ):
        assert task.score(item, answer) == pytest.approx(theirs.score_answer(answer, theirs[0]))
    assert 0 < task.score(item, f"so {item.written[0]}") < 1


def test_the_last_answer_in_tags_counts() -> None:
    task = gym("chain_sum")
    item = task.items("test")[0]
    assert task.score(item, f"<answer>x</answer> no, <answer> {item.written[0]} </answer>") == 1.0
    assert task.score(item, f"<answer>{item.written[0]}</answer> no, <answer>x</answer>") == 0.0


def test_a_reference_has_the_tags_that_its_prompt_asks_for() -> None:
    task = gym("chain_sum", prompt="{question} Answer in <answer> tags.\n")
    item = task.items("test")[0]
    assert item.written[0].startswith("<answer>")
    assert task.score(item, item.written[0]) == 1.0


def test_a_question_that_is_held_out_is_not_trained_on() -> None:
    task = gym("chain_sum", train=400, test=60, options=SUMS)
    train = {item.prompt for item in task.items("train")}
    assert 0 < len(train) < 200  # there are 200 sums and differences of two digits
    assert not train & {item.prompt for item in task.items("test")}
    with pytest.raises(RecipeError, match=r"chain_sum has too few questions .* lower task.test_items"):
        gym("chain_sum", train=1, test=600, options=SUMS).items("train")


def test_what_a_verifier_evaluates_is_bounded() -> None:
    task = gym("spiral_matrix")
    item = task.items("test")[0]
    assert task.score(item, "[9**9**9**9]") == 0.0
    assert task.score(item, "[1/0]") == 0.0
    assert task.score(item, item.written[0]) == 1.0


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"dataset": "chainsum"}, r"reasoning-gym has no 'chainsum'; did you mean 'chain_sum'\?"),
        ({"dataset": "chain_sum", "options": {"min_term": 2}}, r"no option 'min_term'; did you mean 'min_terms'\?"),
        ({"dataset": "chain_sum", "options": {"seed": 2}}, r"chain_sum has no option 'seed'"),
        ({"dataset": "chain_sum", "options": {"min_terms": 9}}, r"chain_sum: max_terms must be >= min_terms"),
        ({"dataset": "graph_color"}, r"graph_color has no reference answers"),
        ({"dataset": "list_functions"}, r"list_functions makes other problems each time"),
    ],
)
def test_what_reasoning_gym_does_not_have_is_told_in_one_line(settings: dict[str, Any], cause: str) -> None:
    with pytest.raises(RecipeError, match=cause) as caught:
        gym(**settings).items("test")
    assert "\n" not in str(caught.value)


def test_without_reasoning_gym_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(RecipeError, match=r'pip install "lensrl\[gym\]"'):
        gym("chain_sum")


def test_items_do_not_depend_on_the_process() -> None:
    """Hash randomisation must not change a study's items."""
    program = (
        "import json; from lensrl.recipe import GymTask; from lensrl.tasks.gym import Gym\n"
        "task = Gym(GymTask(name='gym', dataset='leg_counting', train_items=3, test_items=3))\n"
        "print(json.dumps([item.prompt for item in task.items('test')]))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == [item.prompt for item in gym("leg_counting", train=3, test=3).items("test")]


@pytest.mark.slow
def test_the_shipped_recipe_is_a_study(tmp_path: Path) -> None:
    recipe = load_recipe(SMOKE)
    small = {
        "layers": [6],
        "rl": recipe.rl.model_copy(update={"steps": 2}),
        "evaluation": recipe.evaluation.model_copy(update={"items": 8}),
    }
    study = lensrl.run_study(recipe.model_copy(update=small), tmp_path / "study")
    scores = study.scores()
    assert list(scores["run"]) == ["base", "full-rl", "layer-6"]
    assert set(scores["status"]) == {"completed"}
    assert scores["score"].between(0, 1).all()
