"""The corridor against a walk through it written anew, and its references against breadth-first search."""

from __future__ import annotations

from collections import deque
from itertools import product

import pytest

from lensrl.recipe import CorridorTask, Recipe
from lensrl.tasks import AgentTask, Item, load_task
from lensrl.tasks.corridor import Corridor, State, starts

TASK = Corridor(CorridorTask(name="corridor"))
ROOMS = range(1, 6)


def walk(at: int, key: int | None, door: int, move: str) -> tuple[int, int | None, bool] | None:
    """Where a move leads, whether it opens the door; None for a move that cannot be made."""
    if move == "left" and at > 1:
        return at - 1, key, False
    if move == "right" and at < 5:
        return at + 1, key, False
    if move == "take" and key == at:
        return at, None, False
    if move == "open" and key is None and at == door:
        return at, key, True
    return None


def fewest(at: int, key: int | None, door: int) -> int:
    queue, seen = deque([((at, key), 0)]), {(at, key)}
    while queue:
        (room, k), moves = queue.popleft()
        for move in ("left", "right", "take", "open"):
            led = walk(room, k, door, move)
            if led is not None and led[2]:
                return moves + 1
            if led is not None and led[:2] not in seen:
                seen.add(led[:2])
                queue.append((led[:2], moves + 1))
    raise AssertionError("the door cannot be opened")


def test_a_recipe_opens_it_and_it_is_an_agents_task() -> None:
    task = load_task(Recipe.model_validate({"model": "tiny:qwen3", "task": "corridor"}))
    assert isinstance(task, AgentTask)
    assert task.max_turns == 12


def test_the_splits_hold_every_start_once() -> None:
    train, test = TASK.items("train"), TASK.items("test")
    assert (len(train), len(test)) == (61, 64)
    assert {item.id for item in train + test} == {f"at-{a}-key-{k}-door-{d}" for a, k, d in product(ROOMS, repeat=3)}
    assert TASK.items("test") == test
    assert all(item.prompt == TASK.reset(item).anchor.observation for item in train + test)


@pytest.mark.parametrize("state", [*starts("train"), *starts("test")], ids=str)
def test_every_move_leads_where_it_should(state: State) -> None:
    for key, move in product([state.key, None], ["left", "right", "take", "open", "", "jump", "left "]):
        here = state._replace(key=key)
        led = walk(here.at, key, here.door, move)
        after = here.after(move)
        assert (after is None) == (led is None), move
        if after is not None and led is not None:
            assert (after.at, after.key) == led[:2]


def test_every_reference_is_a_shortest_episode_that_succeeds() -> None:
    for item in TASK.items("test") + TASK.items("train"):
        game = TASK.reset(item)
        start = game.anchor
        turns = item.written
        assert len(turns) % 2 == 1
        for move, seen in zip(turns[:-1:2], turns[1::2], strict=True):
            assert move.endswith("\n")
            answer = game.step(move.strip())
            assert (answer.text, answer.reward, answer.done) == (seen, 0.0, False)
            assert game.score == 0.0
        last = game.step(turns[-1])
        assert (last.text, last.reward, last.done, game.score) == ("", 1.0, True, 1.0)
        assert (len(turns) + 1) // 2 == fewest(*start) <= TASK.max_turns


@pytest.mark.parametrize("action", ["", "jump", "open", "take", "left left", "LEFT", "right>"])
def test_a_move_that_cannot_be_made_costs_and_changes_nothing(action: str) -> None:
    game = Corridor(CorridorTask(name="corridor", invalid_penalty=0.25)).reset(
        Item("at-1-key-3-door-5", "@1 k3 d5>", "", "corridor")
    )
    answer = game.step(action)
    assert (answer.text, answer.reward, answer.done) == ("@1 k3 d5>", -0.25, False)
    assert game.anchor == State(1, 3, 5)
    assert game.step("right").text == "@2 k3 d5>"
