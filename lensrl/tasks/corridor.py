"""A text corridor with a key and a door, for the embedded models: a task in turns for an agent.

    @3 k1 d5>left         the model stands in room 3, the key lies in room 1, the door is in room 5
    @2 k1 d5>left
    @1 k1 d5>take
    @1 k* d5>right        `k*`: the model holds the key
    ...
    @5 k* d5>open

The embedded models are pre-trained on such documents, in which only some turns follow a shortest path. There are 125
starts in five rooms. A draw with a fixed seed holds out 64 of them from RL.
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
    """The positions in the corridor. Rooms are counted from 1; `key` is None once the model holds the key."""

    at: int
    key: int | None
    door: int

    @property
    def observation(self) -> str:
        """The text that the model reads before a move: `@3 k1 d5>`."""
        return f"@{self.at} k{'*' if self.key is None else self.key} d{self.door}>"

    @property
    def best_move(self) -> str:
        """The first move of a shortest path: to the key, then to the door."""
        goal = self.door if self.key is None else self.key
        if self.at == goal:
            return "open" if self.key is None else "take"
        return "left" if goal < self.at else "right"

    def after(self, move: str) -> State | None:
        """Return the state after a move, or None if the move is impossible.

        Opening the door does not change the state.
        """
        if move == "take":
            return self._replace(key=None) if self.key == self.at else None
        if move == "open":
            return self if self.key is None and self.at == self.door else None
        room = self.at + {"left": -1, "right": 1}.get(move, ROOMS + 1)
        return self._replace(at=room) if 1 <= room <= ROOMS else None


@cache
def starts(split: Split) -> tuple[State, ...]:
    """Return the starts of a split, in a fixed order."""
    rooms = range(1, ROOMS + 1)
    states = [State(*rooms_of) for rooms_of in itertools.product(rooms, rooms, rooms)]
    random.Random(_SPLIT_SEED).shuffle(states)
    return tuple(states[:HELD_OUT] if split == "test" else states[HELD_OUT:])


def shortest(state: State) -> tuple[str, ...]:
    """Return the moves and observations of a shortest path, as the reference of an item."""
    turns: list[str] = []
    while (move := state.best_move) != "open":
        state = state.after(move) or state
        turns += [f"{move}\n", state.observation]
    return (*turns, "open")


class Game:
    """One walk through the corridor. The reward is 1 for the open door, minus a penalty for every impossible move."""

    def __init__(self, start: State, penalty: float) -> None:
        self._state = start
        self._penalty = penalty
        self._open = False

    @property
    def anchor(self) -> State:
        """The state in which the next move is made."""
        return self._state

    @property
    def score(self) -> float:
        """1 if the door is open, 0 otherwise."""
        return float(self._open)

    def step(self, action: str) -> Turn:
        """Make a move. An impossible move costs the penalty and changes nothing."""
        after = self._state.after(action)
        if after is None:
            return Turn(self._state.observation, -self._penalty, done=False)
        self._state, self._open = after, action == "open"
        return Turn("" if self._open else after.observation, float(self._open), self._open)


class Corridor:
    """The task: fetch the key, open the door."""

    def __init__(self, settings: CorridorTask) -> None:
        self.max_turns = settings.max_turns
        self._penalty = settings.invalid_penalty
        self._starts = {_id(state): state for split in ("train", "test") for state in starts(split)}

    def items(self, split: Split) -> list[Item]:
        """Return one item per start of the split."""
        return [Item(_id(state), state.observation, shortest(state), "corridor") for state in starts(split)]

    def reset(self, item: Item) -> Game:
        """Return a new game from the start of an item."""
        return Game(self._starts[item.id], self._penalty)


def _id(state: State) -> str:
    return f"at-{state.at}-key-{state.key}-door-{state.door}"
