"""The Python expression that fits three examples, for the embedded models: `1:5 4:11 7:17 x:` is answered by `2*x+3`.

A problem is a linear function with slope 1 to 5 and offset -5 to 9, shown at three of the inputs 0 to 9. There are
9,000 problems, each with one order of its inputs. A draw with a fixed seed holds out 1,000 of them from RL: enough for
an accuracy with a standard error of at most 0.016. The pre-training text of the embedded models draws freely from all
problems. So the models have met held-out problems, answered right or wrong; RL has not.

The sandbox executes the answer as Python on all inputs 0 to 9 and on three further inputs. Any expression that computes
the function is right. An expression that fits only the examples is wrong.
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
    """Return the prompt of a problem: `1:5 4:11 7:17 x:`."""
    return " ".join(f"{x}:{slope * x + offset}" for x in inputs) + " x:"


def spelling(slope: int, offset: int) -> str:
    """Spell the function x -> slope * x + offset in its shortest form: `2*x+3`."""
    product = "x" if slope == 1 else f"{slope}*x"
    return product if offset == 0 else f"{product}{offset:+d}"


@cache
def problems(split: Split) -> tuple[Problem, ...]:
    """Return the problems of a split, in a fixed order."""
    rng = random.Random(_SPLIT_SEED)
    drawn = [
        Problem(slope, offset, tuple(rng.sample(inputs, SHOWN)))
        for slope, offset, inputs in product(SLOPES, OFFSETS, combinations(INPUTS, SHOWN))
    ]
    rng.shuffle(drawn)
    return tuple(drawn[:HELD_OUT] if split == "test" else drawn[HELD_OUT:])


class Expression(Executed):
    """Expressions, scored 1 if Python computes the function with them and 0 otherwise."""

    timeout = 1.0
    memory = 256

    def items(self, split: Split) -> list[Item]:
        """Return the items of a split, with the shortest spelling as reference."""
        return [
            Item(
                prompt(slope, offset, inputs)[:-3], prompt(slope, offset, inputs), spelling(slope, offset), "expression"
            )
            for slope, offset, inputs in problems(split)
        ]

    def program(self, item: Item, completion: str) -> tuple[str, ...]:
        """Build the program of a completion: all values first, the expected values after them.

        In this order the answer does not run beside its solution.
        """
        inputs = (*INPUTS, *_OTHER_INPUTS)
        return (
            f"answer = compile({completion.strip()!r}, '<answer>', 'eval')\n"
            f"values = [eval(answer, {{'x': x}}) for x in {inputs}]",
            f"assert [type(value) for value in values] == [int] * {len(inputs)}\n"
            f"assert values == [{item.reference} for x in {inputs}]",
        )
