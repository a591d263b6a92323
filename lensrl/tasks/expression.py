"""The Python expression that fits three examples, for the embedded models: `1:5 4:11 7:17 x:` is answered by `2*x+3`.

A problem is a linear function, slope 1 to 5 and offset -5 to 9, and three of the inputs 0 to 9: 9,000 in all, each
asked in one order of its inputs. 1,000 of them, drawn once with a fixed seed, are held out from RL; they are enough for
an accuracy with a standard error of at most 0.016. The text that the embedded models are pre-trained on draws freely
from this world, so they have met held-out problems there, answered right or wrong; RL has not.

The answer is executed as Python, in the sandbox, on all of the inputs 0 to 9 and on three beyond: any expression that
computes the function is right, and one that only fits the examples is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import combinations, product
from typing import NamedTuple

from lensrl.tasks.executed import Executed
from lensrl.tasks.protocol import Item, Split

SLOPES = range(1, 6)
OFFSETS = range(-5, 10)
INPUTS = range(10)
SHOWN = 3
HELD_OUT = 1000
_OTHER_INPUTS = (-7, 23, 1000)
_SPLIT_SEED = 20260701


class Problem(NamedTuple):
    """A function x -> slope * x + offset, and the inputs at which it is shown."""

    slope: int
    offset: int
    inputs: tuple[int, ...]


def prompt(slope: int, offset: int, inputs: Sequence[int]) -> str:
    return " ".join(f"{x}:{slope * x + offset}" for x in inputs) + " x:"


def spelling(slope: int, offset: int) -> str:
    """`2*x+3` for the function x -> 2x + 3, in its shortest spelling."""
    product = "x" if slope == 1 else f"{slope}*x"
    return product if offset == 0 else f"{product}{offset:+d}"


@cache
def problems(split: Split) -> tuple[Problem, ...]:
    """The problems of a split, in a fixed order."""
    rng = random.Random(_SPLIT_SEED)
    drawn = [
        Problem(slope, offset, tuple(rng.sample(inputs, SHOWN)))
        for slope, offset, inputs in product(SLOPES, OFFSETS, combinations(INPUTS, SHOWN))
    ]
    rng.shuffle(drawn)
    return tuple(drawn[:HELD_OUT] if split == "test" else drawn[HELD_OUT:])


class Expression(Executed):
    """Expressions, scored 1 where Python computes the function with them and 0 otherwise."""

    timeout = 1.0
    memory = 256

    def items(self, split: Split) -> list[Item]:
        return [
            Item(
                prompt(slope, offset, inputs)[:-3], prompt(slope, offset, inputs), spelling(slope, offset), "expression"
            )
            for slope, offset, inputs in problems(split)
        ]

    def program(self, item: Item, completion: str) -> tuple[str, ...]:
        """Computes every value first, and what is expected afterwards: an answer does not run beside its solution."""
        inputs = (*INPUTS, *_OTHER_INPUTS)
        return (
            f"answer = compile({completion.strip()!r}, '<answer>', 'eval')\n"
            f"values = [eval(answer, {{'x': x}}) for x in {inputs}]",
            f"assert [type(value) for value in values] == [int] * {len(inputs)}\n"
            f"assert values == [{item.reference} for x in {inputs}]",
        )
