"""TextWorld games that are really made and played."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lensrl.errors import RecipeError
from lensrl.recipe import Recipe, TextWorldTask
from lensrl.tasks import AgentTask, load_task

pytest.importorskip("textworld", reason="the extra 'agentic' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::jericho.jericho.UnsupportedGameWarning")

SMALL = {"name": "textworld", "train_games": 1, "test_games": 2, "rooms": 1, "objects": 2, "quest_length": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def task(cache: Path, monkeypatch: pytest.MonkeyPatch) -> AgentTask:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    task = load_task(Recipe.model_validate({"model": "tiny:qwen3", "task": SMALL}))
    assert isinstance(task, AgentTask)
    return task


def test_the_reference_of_every_game_ends_its_quest(task: AgentTask) -> None:
    items = task.items("test")
    assert [item.id for item in items] == ["test-500000", "test-500001"]
    for item in items:
        game = task.reset(item)
        assert item.prompt.endswith(f"\n\n{game.anchor}")
        assert item.prompt.endswith("\n>")
        *before, last = item.written[::2]
        for command, seen in zip(before, item.written[1::2], strict=True):
            answer = game.step(command.strip())
            assert (answer.text, answer.reward, answer.done) == (seen, 0.0, False)
        answer = game.step(last)
        assert (answer.text, answer.reward, answer.done, game.score) == ("", 1.0, True, 1.0)


def test_a_command_that_cannot_be_typed_costs_and_changes_nothing(task: AgentTask) -> None:
    game = task.reset(task.items("test")[0])
    before = game.anchor
    answer = game.step("dance with the moon")
    assert (answer.text, answer.reward, answer.done) == (f"That cannot be done.\n\n{before}", -0.1, False)
    assert (game.anchor, game.score) == (before, 0.0)


def test_the_state_is_where_one_is_and_not_how_one_got_there(task: AgentTask) -> None:
    item = task.items("test")[0]
    one, two = task.reset(item), task.reset(item)
    assert one.anchor == two.anchor
    assert one.step("look").text != two.step("inventory").text
    assert one.anchor == two.anchor
    commands = re.search("Commands: (.*)", str(one.anchor))
    assert commands
    answer = one.step(next(c for c in commands[1].split("; ") if c.startswith(("take", "drop"))))
    assert not answer.done
    assert one.anchor != two.anchor


def test_games_are_kept_and_made_once(task: AgentTask, cache: Path) -> None:
    task.items("train")
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.z8")}
    again = load_task(Recipe.model_validate({"model": "tiny:qwen3", "task": SMALL}))
    assert [item.prompt for item in again.items("train")] == [item.prompt for item in task.items("train")]
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.z8")} == files
    assert not list(cache.rglob("making-*"))


def test_a_quest_that_cannot_be_made_is_refused_in_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lensrl.tasks import textworld

    def fail(options: object) -> None:
        raise RuntimeError("no quest\nof that length")

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(textworld, "make_game", fail)
    settings = TextWorldTask(name="textworld", rooms=1, objects=1, quest_length=40)
    with pytest.raises(RecipeError) as caught:
        textworld.game_file(settings, 0)
    assert str(caught.value) == (
        "task textworld: no game of 1 rooms, 1 objects and a quest of 40 can be made (no quest)"
    )
