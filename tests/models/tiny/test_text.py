"""The three worlds against arithmetic by digits, Python's eval, and a corridor of its own with breadth-first search."""

from __future__ import annotations

import random
import re
from collections import deque
from itertools import product
from typing import NamedTuple

import pytest

from lensrl.models.tiny.pretrain import UNKNOWN, character_tokenizer
from lensrl.models.tiny.text import (
    MAX_TURNS,
    QUESTIONS,
    RIGHT,
    WORLDS,
    add_without_carry,
)
from lensrl.tasks import arithmetic
from lensrl.tasks.corridor import MOVES, ROOMS
from lensrl.tasks.corridor import State as Corridor

NEAR = 0.03  # four standard deviations of a share near one half over 4,000 documents


def documents(world: str, count: int = 4000) -> list[str]:
    rng = random.Random(17)
    return [WORLDS[world](rng) for _ in range(count)]


def column_addition(a: int, b: int, *, carrying: bool) -> int:
    """Addition as on paper, from the right column to the left."""
    written, carry = "", 0
    for upper, lower in zip(reversed(str(a)), reversed(str(b)), strict=True):
        tens, ones = divmod(int(upper) + int(lower) + carry, 10)
        written = str(ones) + written
        carry = tens if carrying else 0
    return int(f"{carry}{written}")


def test_the_wrong_addition_is_column_addition_that_never_carries() -> None:
    assert add_without_carry(47, 38) == 75
    for a, b in product(range(10, 100), repeat=2):
        assert add_without_carry(a, b) == column_addition(a, b, carrying=False)


def test_an_addition_is_written_with_carries_or_without_and_with_them_as_often_as_stated() -> None:
    right = []
    for document in documents("addition"):
        found = re.fullmatch(r"([1-9]\d)\+([1-9]\d)=(\d+)", document)
        assert found, document
        a, b, answer = map(int, found.groups())
        with_carry, without = (column_addition(a, b, carrying=carrying) for carrying in (True, False))
        assert answer in (with_carry, without)
        assert str(answer) == found[3]  # no leading zero
        if with_carry != without:
            right.append(answer == with_carry)
    assert sum(right) / len(right) == pytest.approx(RIGHT, abs=NEAR)


def fits(answer: str, examples: list[tuple[int, int]]) -> list[bool]:
    """For every example, whether Python evaluates the expression to it."""
    return [eval(answer, {"__builtins__": {}}, {"x": x}) == y for x, y in examples]


def read_examples(text: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"(\d+):(-?\d+)", text)]


def test_an_expression_fits_all_examples_or_only_the_first_and_all_as_often_as_stated() -> None:
    right = []
    for document in documents("expression"):
        given, answer = document.split(" x:")
        examples = read_examples(given)
        assert len({x for x, _ in examples}) == 3
        agreed = fits(answer, examples)
        assert agreed in ([True] * 3, [True, False, False]), document
        right.append(all(agreed))
    by_chance = (1 - RIGHT) / 5  # the other procedure draws its slope from five
    assert sum(right) / len(right) == pytest.approx(RIGHT + by_chance, abs=NEAR)


def test_an_expression_question_accepts_what_python_evaluates_to_every_example() -> None:
    rng = random.Random(3)
    accepted = 0
    for _ in range(300):
        prompt, is_right = QUESTIONS["expression"](rng)
        examples = read_examples(prompt)
        for slope, offset in product(range(1, 10), range(-9, 14)):
            answer = (f"{slope}*x" if slope > 1 else "x") + (f"{offset:+d}" if offset else "")
            assert is_right(answer) == all(fits(answer, examples)), (prompt, answer)
            accepted += is_right(answer)
        assert not any(map(is_right, ("", "x:", "2*", "2*x+", "x+1 ", str(examples[0][1]))))
    assert accepted == 300  # a line through three points is unique


class State(NamedTuple):
    at: int
    key: int | None
    door: int
    opened: bool = False


STATES = [State(*state) for state in product(range(1, 6), [None, *range(1, 6)], range(1, 6))]


def after(state: State, move: str) -> State:
    """Five rooms in a row; a move that is impossible changes nothing."""
    if move == "left":
        return state._replace(at=state.at - (state.at > 1))
    if move == "right":
        return state._replace(at=state.at + (state.at < 5))
    if move == "take":
        return state._replace(key=None if state.at == state.key else state.key)
    assert move == "open"
    return state._replace(opened=state.key is None and state.at == state.door)


def distance(start: State) -> int:
    """Fewest moves until the door is open, by breadth-first search."""
    queue, seen = deque([(start, 0)]), {start}
    while queue:
        state, moves = queue.popleft()
        if state.opened:
            return moves
        for following in {after(state, move) for move in ("left", "right", "take", "open")} - seen:
            seen.add(following)
            queue.append((following, moves + 1))
    raise AssertionError(f"the door cannot be opened from {start}")


SHORTEST = {state: distance(state) for state in STATES} | {
    state._replace(opened=True): 0 for state in STATES if state.key is None
}


def read_turn(turn: str) -> tuple[State, str]:
    found = re.fullmatch(r"@([1-5]) k([1-5*]) d([1-5])>(left|right|take|open)", turn)
    assert found, turn
    return State(int(found[1]), None if found[2] == "*" else int(found[2]), int(found[3])), found[4]


def test_the_best_move_is_the_first_of_every_shortest_path_from_every_state() -> None:
    assert (ROOMS, set(MOVES)) == (5, {"left", "right", "take", "open"})
    assert len(STATES) == 150
    for state in STATES:
        shortens = {move for move in MOVES if SHORTEST[after(state, move)] == SHORTEST[state] - 1}
        assert {Corridor(state.at, state.key, state.door).best_move} == shortens, state


def test_a_corridor_shows_what_the_moves_lead_to_and_ends_at_the_open_door_or_after_the_last_turn() -> None:
    best = []
    for document in documents("corridor", 1500):
        turns = [read_turn(turn) for turn in document.split("\n")]
        assert 1 <= len(turns) <= MAX_TURNS
        expected = turns[0][0]
        assert expected.key is not None
        for shown, move in turns:
            assert shown == expected, document
            expected = after(shown, move)
            best.append(SHORTEST[expected] == SHORTEST[shown] - 1)
        assert expected.opened or len(turns) == MAX_TURNS, document
    by_chance = (1 - RIGHT) / 4  # the other procedure draws one of four moves
    assert sum(best) / len(best) == pytest.approx(RIGHT + by_chance, abs=NEAR)


def test_a_corridor_question_accepts_the_move_that_shortens_the_path_and_no_other() -> None:
    rng = random.Random(5)
    asked = set()
    for _ in range(1500):
        prompt, is_right = QUESTIONS["corridor"](rng)
        state, _ = read_turn(f"{prompt}left")
        assert prompt == Corridor(state.at, state.key, state.door).observation
        for move in MOVES:
            assert is_right(move) == (SHORTEST[after(state, move)] < SHORTEST[state])
            assert is_right(f"{move}\n@1 k1 d1>open") == is_right(move)  # what follows is another turn
        assert not is_right("")
        asked.add(state)
    assert asked == set(STATES)


@pytest.mark.parametrize("world", WORLDS)
def test_every_document_is_one_known_token_per_character_and_decodes_to_itself(world: str) -> None:
    tokenizer = character_tokenizer()
    unknown = tokenizer.get_vocab()[UNKNOWN]
    texts = documents(world, 1000)
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert unknown not in ids
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text


def test_no_held_out_addition_is_in_the_text_and_every_question_asks_one() -> None:
    held_out = set(arithmetic.problems("test"))
    assert len(held_out) == 1000
    text = "\n".join(
        document for world in WORLDS for document in documents(world, 20_000 if world == "addition" else 500)
    )
    written = {(int(a), int(b)) for a, b in re.findall(r"(\d+)\+(\d+)=", text)}
    assert len(written) > 6000  # of 7,100: nearly all the others are there
    assert not written & held_out
    rng = random.Random(7)
    for _ in range(500):
        prompt, is_right = QUESTIONS["addition"](rng)
        a, b = map(int, prompt.removesuffix("=").split("+"))
        assert (a, b) in held_out
        answers = {column_addition(a, b, carrying=carrying) for carrying in (True, False)}
        assert [answer for answer in answers if is_right(str(answer))] == [column_addition(a, b, carrying=True)]
