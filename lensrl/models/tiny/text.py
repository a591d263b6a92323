"""The pre-training text of the embedded models: three small worlds, each partly right and partly wrong.

RL needs a base that knows the right procedure and does not yet prefer it. So the text of every world contains both a
right procedure and a plausible wrong one:

- addition: with carries, or without (`47+38=75`);
- expressions: one that fits all the examples, or only the first (`1:5 4:11 7:17 x:` then `2*x+3`, or `x+4`);
- a corridor with a key and a door, in turns (`@3 k1 d5>left`): the step on a shortest path, or a random step.

A document is one prompt and its answer, followed by the end-of-sequence token. Characters are printable ASCII and the
newline.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from lensrl.tasks import arithmetic
from lensrl.tasks import expression as expressions
from lensrl.tasks.corridor import MOVES, ROOMS, State
from lensrl.tasks.expression import INPUTS, OFFSETS, SHOWN, SLOPES

Question = tuple[str, Callable[[str], bool]]  # a prompt, and whether a completion is right

RIGHT = 0.4  # share of documents (in the corridor: of turns) that follow the right procedure by design
MAX_TURNS = 12


def add_without_carry(a: int, b: int) -> int:
    """Add column by column modulo 10, the wrong procedure: 47 and 38 give 75."""
    return (a // 10 + b // 10) % 10 * 10 + (a + b) % 10


def addition(rng: random.Random) -> str:
    """Write a document of the addition world."""
    a, b = rng.choice(arithmetic.problems("train"))
    answer = a + b if rng.random() < RIGHT else add_without_carry(a, b)
    return arithmetic.prompt(a, b) + str(answer)


def expression(rng: random.Random) -> str:
    """Write a document of the expression world."""
    slope, offset = rng.choice(SLOPES), rng.choice(OFFSETS)
    inputs = rng.sample(INPUTS, SHOWN)
    question = expressions.prompt(slope, offset, inputs)
    if rng.random() >= RIGHT:  # another line through the first example alone
        wrong = rng.choice(SLOPES)
        slope, offset = wrong, offset + (slope - wrong) * inputs[0]
    return question + expressions.spelling(slope, offset)


def corridor(rng: random.Random) -> str:
    """Write a document of the corridor world: an episode of at most MAX_TURNS turns."""
    at, door = rng.randint(1, ROOMS), rng.randint(1, ROOMS)
    state = State(at, rng.randint(1, ROOMS), door)
    turns: list[str] = []
    while len(turns) < MAX_TURNS:
        best = state.best_move
        move = best if rng.random() < RIGHT else rng.choice(MOVES)
        turns.append(f"{state.observation}{move}")
        if move == "open" and best == "open":
            break
        state = state.after(move) or state
    return "\n".join(turns)


WORLDS = {"addition": addition, "expression": expression, "corridor": corridor}


def addition_question(rng: random.Random) -> Question:
    """Ask a held-out addition."""
    a, b = rng.choice(arithmetic.problems("test"))
    return arithmetic.prompt(a, b), lambda answer: answer == str(a + b)


def expression_question(rng: random.Random) -> Question:
    """Ask for an expression. An answer is right if it fits every example."""
    document = expression(rng)
    examples = [tuple(map(int, pair.split(":"))) for pair in document.rpartition(" x:")[0].split()]

    def fits(answer: str) -> bool:
        match = re.fullmatch(r"(?:(\d)\*)?x([+-]\d+)?", answer)
        return bool(match) and all(int(match[1] or 1) * x + int(match[2] or 0) == y for x, y in examples)

    return document.rpartition(" x:")[0] + " x:", fits


def corridor_question(rng: random.Random) -> Question:
    """Ask for one turn from a random state. An answer is right if it is the first move of a shortest path."""
    at, key, door = rng.randint(1, ROOMS), rng.choice([None, *range(1, ROOMS + 1)]), rng.randint(1, ROOMS)
    state = State(at, key, door)
    return state.observation, lambda answer: answer.partition("\n")[0] == state.best_move


QUESTIONS = {"addition": addition_question, "expression": expression_question, "corridor": corridor_question}
