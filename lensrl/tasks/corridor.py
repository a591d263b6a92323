"""A text corridor with a key and a door, for the embedded models: an agent's task in turns.

    @3 k1 d5>left         the model stands in room 3, the key lies in room 1, the door is in room 5
    @2 k1 d5>left
    @1 k1 d5>take
    @1 k* d5>right        `k*`: the key is held
    ...
    @5 k* d5>open

The embedded models were pre-trained on such documents, in which a turn follows a shortest path only some of the time.
All 125 starts in five rooms; 64 of them, drawn once with a fixed seed, are held out from RL.
"""

from __future__ import annotations

import itertools
import random
from functools import cache
from typing import NamedTuple

from lensrl.recipe import CorridorTask
from lensrl.tasks.protocol import Item, Split, Turn

ROOMS = 5
MOVES = ("left", "right", "take", "open")
HELD_OUT = 64
_SPLIT_SEED = 20260702


class State(NamedTuple):
    """Rooms are counted from 1; `key` is None once it is held."""

    at: int
    key: int | None
    door: int

    @property
    def observation(self) -> str:
        return f"@{self.at} k{'*' if self.key is None else self.key} d{self.door}>"

    @property
    def best_move(self) -> str:
        """The first move of a shortest path: to the key, then to the door."""
        goal = self.door if self.key is None else self.key
        if self.at == goal:
            return "open" if self.key is None else "take"
        return "left" if goal < self.at else "right"

    def after(self, move: str) -> State | None:
        """The state that a move leads to, or None where the move cannot be made; opening the door leads nowhere new."""
        if move == "take":
            return self._replace(key=None) if self.key == self.at else None
        if move == "open":
            return self if self.key is None and self.at == self.door else None
        room = self.at + {"left": -1, "right": 1}.get(move, ROOMS + 1)
        return self._replace(at=room) if 1 <= room <= ROOMS else None


@cache
def starts(split: Split) -> tuple[State, ...]:
    """The starts of a split, in a fixed order."""
    rooms = range(1, ROOMS + 1)
    states = [State(*rooms_of) for rooms_of in itertools.product(rooms, rooms, rooms)]
    random.Random(_SPLIT_SEED).shuffle(states)
    return tuple(states[:HELD_OUT] if split == "test" else states[HELD_OUT:])


def shortest(state: State) -> tuple[str, ...]:
    """The moves and observations of a shortest path, as an item's reference."""
    turns: list[str] = []
    while (move := state.best_move) != "open":
        state = state.after(move) or state
        turns += [f"{move}\n", state.observation]
    return (*turns, "open")


class Game:
    """One walk through the corridor: 1 for the open door, minus a penalty for every move that cannot be made."""

    def __init__(self, start: State, penalty: float) -> None:
        self._state = start
        self._penalty = penalty
        self._open = False

    @property
    def anchor(self) -> State:
        return self._state

    @property
    def score(self) -> float:
        return float(self._open)

    def step(self, action: str) -> Turn:
        after = self._state.after(action)
        if after is None:
            return Turn(self._state.observation, -self._penalty, done=False)
        self._state, self._open = after, action == "open"
        return Turn("" if self._open else after.observation, float(self._open), self._open)


class Corridor:
    """Fetch the key, open the door."""

    def __init__(self, settings: CorridorTask) -> None:
        self.max_turns = settings.max_turns
        self._penalty = settings.invalid_penalty
        self._starts = {_id(state): state for split in ("train", "test") for state in starts(split)}

    def items(self, split: Split) -> list[Item]:
        return [Item(_id(state), state.observation, shortest(state), "corridor") for state in starts(split)]

    def reset(self, item: Item) -> Game:
        return Game(self._starts[item.id], self._penalty)


def _id(state: State) -> str:
    return f"at-{state.at}-key-{state.key}-door-{state.door}"
