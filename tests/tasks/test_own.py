"""A task of one's own: loaded, checked, run as a whole study; and what is said when something in the file is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import lensrl
from lensrl.errors import LensrlError, RecipeError
from lensrl.recipe import OwnTask, Recipe, load_recipe
from lensrl.tasks import AgentTask, Task
from lensrl.tasks.batch import BatchTask
from lensrl.tasks.own import load_own

RUNS = Path(__file__).parents[2] / "runs"
GOOD = """from lensrl.tasks import Item

class Mine:
    def items(self, split):
        return [Item(f"{split}-{n}", f"{n}=", str(n), "mine") for n in range(3)]

    def reward(self, item, completion):
        return REWARD

    def score(self, item, completion):
        return float(completion == item.reference)
"""
AGENT = GOOD.partition("    def reward")[0] + "    max_turns = 3\n\n    def reset(self, item):\n        return None\n"


def own(folder: Path, text: str, sha256: str = "") -> Task | AgentTask:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return load_own(OwnTask(name=f"{path}:Mine", sha256=sha256))


@pytest.mark.slow
def test_the_shipped_task_is_a_study_that_gains(tmp_path: Path) -> None:
    recipe = load_recipe(RUNS / "own-task.toml").model_copy(update={"layers": [6]})
    study = lensrl.run_study(recipe, tmp_path / "study")
    scores = study.scores().set_index("run")["score"]
    assert list(scores.index) == ["base", "full-rl", "layer-6"]
    assert scores["full-rl"] > scores["base"] + 0.1  # 0.60 and 0.80 when it was written
    assert isinstance(study.recipe.task, OwnTask)
    assert study.recipe.task.path == RUNS / "own_task.py"


def test_the_shipped_task_is_short_and_right() -> None:
    assert len((RUNS / "own_task.py").read_text(encoding="utf-8").splitlines()) <= 30
    settings = load_recipe(RUNS / "own-task.toml").task
    assert isinstance(settings, OwnTask)
    task = load_own(settings)
    assert isinstance(task, BatchTask)
    test, train = task.items("test"), task.items("train")
    assert len(test) == 1000
    assert {item.id for item in test} | {item.id for item in train} == {
        f"{a}+{b}" for a in range(10, 100) for b in range(10, 100)
    }
    item = next(item for item in train if item.id == "47+38")
    assert [task.score(item, text) for text in ("75", "85", "", "755")] == [1.0, 0.0, 0.0, 0.0]
    assert task.rewards([item] * 4, ["75", "85", "", "755"]) == pytest.approx([1, 1 / 2, 0, 2 / 3])


def test_a_task_in_turns_is_known_by_its_reset(tmp_path: Path) -> None:
    task = own(tmp_path, AGENT)
    assert isinstance(task, AgentTask)
    assert task.max_turns == 3


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("max_turns = 3", "max_turns = 0", r"mine\.py:Mine: max_turns is 0; a whole number from 1"),
        ("max_turns = 3", "max_turns = '3'", r"mine\.py:Mine: max_turns is '3'; a whole number from 1"),
        ("str(n)", "('a', 'b')", r"items\('train'\)\[0\]: a reference in 2 pieces; the model is first and last"),
        ("str(n)", "()", r"items\('train'\)\[0\]: a reference in 0 pieces"),
    ],
)
def test_what_is_no_task_in_turns_is_told_in_one_line(tmp_path: Path, old: str, new: str, cause: str) -> None:
    with pytest.raises(RecipeError, match=cause):
        own(tmp_path, AGENT.replace(old, new))


def test_an_error_while_a_game_is_played_is_told_with_its_line(tmp_path: Path) -> None:
    task = own(tmp_path, AGENT.replace("return None", "return {}[item.id]"))
    assert isinstance(task, AgentTask)
    with pytest.raises(LensrlError, match=r"mine\.py, line 10: KeyError: 'test-0'"):
        task.reset(task.items("test")[0])
    game = "return self\n\n    def step(self, action):\n        return None\n"
    task = own(tmp_path, AGENT.replace("return None\n", game))
    assert isinstance(task, AgentTask)
    with pytest.raises(LensrlError, match=r"mine\.py: step\('go'\) gives None; a lensrl\.tasks\.Turn is needed"):
        task.reset(task.items("test")[0]).step("go")


def test_a_batch_of_another_length_is_refused(tmp_path: Path) -> None:
    batch = "    def rewards(self, items, completions):\n        return [1.0]\n\n"
    batch += batch.replace("rewards", "scores").replace("return [1.0]", "return []")
    task = own(tmp_path, GOOD.replace("    def reward", batch + "    def reward", 1))
    assert isinstance(task, BatchTask)
    item = task.items("test")[0]
    with pytest.raises(LensrlError, match=r"mine\.py: 1 rewards for 2 completions; one each is needed"):
        task.rewards([item] * 2, ["0", "1"])


def test_a_file_imports_what_lies_beside_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for folder, value in (("a", "0.25"), ("b", "0.75")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lensrl_test_helper.py").write_text(f"REWARD = {value}\n", encoding="utf-8")
    before = list(sys.path)
    tasks = [own(tmp_path / folder, f"from lensrl_test_helper import REWARD\n{GOOD}") for folder in ("a", "b")]
    item = tasks[0].items("test")[0]
    assert [task.reward(item, "") for task in tasks if isinstance(task, Task)] == [0.25, 0.75]
    assert sys.path == before
    assert "lensrl_test_helper" not in sys.modules


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('model = "tiny:qwen3"\n[task]\nname = "mine.py:Mine"\n', encoding="utf-8")
    (tmp_path / "mine.py").write_text(GOOD, encoding="utf-8")
    settings = load_recipe(recipe).task
    assert isinstance(settings, OwnTask)
    load_own(settings)
    (tmp_path / "mine.py").write_text(f"{GOOD}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"mine\.py has changed .*sha256 {settings.sha256[:12]} then, .*restore it"):
        load_own(settings)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("class Mine", "class Mein", r"mine\.py has no class 'Mine'; did you mean 'Mein'\?"),
        ("def reward", "def rewards", r"mine\.py:Mine has no reward\(item, completion\); a task has items, reward"),
        ("def items", "def item", r"mine\.py:Mine has no items\(split\)"),
        ("range(3)", "range(0)", r"items\('train'\) is empty; a list of lensrl\.tasks\.Item is needed"),
        ("return [Item", "return lambda: [Item", r"items\('train'\) is function; a list"),
        ('Item(f"{split}-{n}", f"{n}=", str(n), "mine")', "n", r"items\('train'\)\[0\] is a int; make it a lensrl"),
        ("str(n)", "n", r"items\('train'\)\[0\]: id, prompt, reference and benchmark must be texts"),
        ('f"{n}="', '""', r"items\('train'\)\[0\]: id, prompt, reference and benchmark must be texts, none of them em"),
        ("str(n)", "('0',)", r"items\('train'\)\[0\]: a reference in 1 pieces; a text is needed"),
        ("{split}-{n}", "{split}", r"items\('train'\): two items have the id 'train'"),
        ("{n}=", "{__import__('random').random()}=", r"items\('train'\) differs between two calls"),
    ],
)
def test_what_is_no_task_is_told_in_one_line(tmp_path: Path, old: str, new: str, cause: str) -> None:
    with pytest.raises(RecipeError, match=cause) as caught:
        own(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("class Mine:", "class Mine", r"mine\.py, line 3: SyntaxError: expected ':'"),
        ("from lensrl.tasks", "import nowhere_at_all #", r"mine\.py, line 1: ModuleNotFoundError: No module"),
        ("class Mine:", "1 / 0\nclass Mine:", r"mine\.py, line 3: ZeroDivisionError: division by zero"),
        ("range(3)", "range(MANY)", r"mine\.py, line 5: NameError: name 'MANY' is not defined"),
        ("class Mine:", "class Mine:\n    def __init__(self, x): ...", r"mine\.py: TypeError: .*missing 1 required"),
    ],
)
def test_an_error_in_the_file_is_told_with_its_line(tmp_path: Path, old: str, new: str, cause: str) -> None:
    with pytest.raises(LensrlError, match=cause) as caught:
        own(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"task file .*absent\.py cannot be read: No such file"):
        load_own(OwnTask(name=f"{tmp_path / 'absent.py'}:Mine"))


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "None", "'1'"])
def test_a_reward_that_is_no_finite_number_names_the_item(tmp_path: Path, value: str) -> None:
    task = own(tmp_path, GOOD.replace("REWARD", value))
    assert isinstance(task, Task)
    with pytest.raises(LensrlError, match=r"mine\.py: the reward of item 'train-1' for 'so' is .*; a finite number"):
        task.reward(task.items("train")[1], "so")


def test_a_reward_may_be_a_bool_and_an_error_in_it_has_its_line(tmp_path: Path) -> None:
    task = own(tmp_path, GOOD.replace("REWARD", "completion[0] == 'a'"))
    assert isinstance(task, Task)
    item = task.items("train")[0]
    assert task.reward(item, "ab") == 1.0
    with pytest.raises(LensrlError, match=r"mine\.py, line 8: IndexError: string index out of range"):
        task.reward(item, "")


def test_a_bad_reward_stops_a_study_with_that_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD.replace("REWARD", "float('nan')"), encoding="utf-8")
    task = OwnTask(name=f"{tmp_path / 'mine.py'}:Mine")
    rl = {"steps": 1, "prompts_per_step": 2, "completions_per_prompt": 2, "max_completion_tokens": 3}
    recipe = Recipe.model_validate({"model": "tiny:qwen3", "task": task, "layers": [0], "rl": rl})
    with pytest.raises(LensrlError, match=r"the reward of item 'train-\d' for .* is nan"):
        lensrl.run_study(recipe, tmp_path / "study")


def test_the_readme_shows_the_whole_file_within_30_lines() -> None:
    file = (RUNS / "own_task.py").read_text(encoding="utf-8")
    assert f"```python\n{file}```" in (RUNS.parent / "README.md").read_text(encoding="utf-8")
    assert len(file.splitlines()) <= 30
