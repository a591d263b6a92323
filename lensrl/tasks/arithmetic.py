"""Two-digit addition for the embedded models: `47+38=` is answered by `85`.

The problems are all 8,100 pairs of two-digit numbers. A draw with a fixed seed holds out 1,000 of them from
pre-training and from RL.
"""

from __future__ import annotations

import random
from functools import cache

from lensrl.tasks.protocol import Item, Split

HELD_OUT = 1000
_SPLIT_SEED = 20260701


@cache
def problems(split: Split) -> tuple[tuple[int, int], ...]:
    """Return the operand pairs of a split, in a fixed order."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    random.Random(_SPLIT_SEED).shuffle(pairs)
    return tuple(pairs[:HELD_OUT] if split == "test" else pairs[HELD_OUT:])


def prompt(a: int, b: int) -> str:
    """Return the prompt of an addition: `47+38=`."""
    return f"{a}+{b}="


class Arithmetic:
    """Addition, scored 1 for exactly the right digits and 0 otherwise."""

    def items(self, split: Split) -> list[Item]:
        """Return the additions of a split."""
        return [Item(f"{a}+{b}", prompt(a, b), str(a + b), "arithmetic") for a, b in problems(split)]

    def reward(self, item: Item, completion: str) -> float:
        """Return the score."""
        return self.score(item, completion)

    def score(self, item: Item, completion: str) -> float:
        """Return 1 if the completion, without spaces around it, is the sum, and 0 otherwise."""
        return float(completion.strip() == item.reference)

    def answer(self, item: Item, completion: str) -> str | None:
        """Return the completion without spaces around it; None for an empty one."""
        return completion.strip() or None
