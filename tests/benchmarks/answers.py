"""How often the judge of mathematics errs, beside math-verify alone: `python -m tests.benchmarks.answers`.

A pair is a gold and a completion. A false right is a wrong answer judged right; a false wrong is a right answer judged
wrong. The truth is held in tests/data, or, for GSM8K, is the equality of the two numbers of the file. The verdicts and
golds were written for this judge, so GSM8K's pairs alone are a neutral sample.

math-verify alone: `verify(parse(gold in a box), parse(completion))`, with its defaults.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from math_verify import parse, verify

from lensrl.tasks.answers import same_answer
from tests.tasks.test_verdicts import GOLDS, VERDICTS, published, spoken

OTHERS = 40  # of each GSM8K answer


class Pair(NamedTuple):
    """A gold, a completion, and whether the completion is right."""

    gold: str
    completion: str
    right: bool


def main() -> None:
    """Print a row for each set of pairs and judge."""
    logging.disable()
    print("| pairs | judge | right pairs | false wrong | wrong pairs | false right | ms a pair |")
    print("|---|---|---|---|---|---|---|")
    sets = {
        "verdicts by kind": [Pair(row["gold"], row["completion"], row["right"]) for row in VERDICTS],
        "golds of published forms": list(forms()),
        "GSM8K": list(gsm8k()),
    }
    judges: dict[str, Callable[[str, str], bool]] = {"lensrl": same_answer, "math-verify": alone}
    for (name, pairs), (judge, function) in itertools.product(sets.items(), judges.items()):
        start = time.process_time()
        said = [function(pair.gold, pair.completion) for pair in pairs]
        took = 1000 * (time.process_time() - start) / len(pairs)
        right, wrong = sum(pair.right for pair in pairs), sum(not pair.right for pair in pairs)
        false_wrong = sum(pair.right and not verdict for pair, verdict in zip(pairs, said, strict=True))
        false_right = sum(verdict and not pair.right for pair, verdict in zip(pairs, said, strict=True))
        cells = (name, judge, right, share(false_wrong, right), wrong, share(false_right, wrong), f"{took:.2f}")
        print(f"| {' | '.join(map(str, cells))} |")


def forms() -> Iterator[Pair]:
    """Yield every gold with its other spellings, and with answers that are not the same, in a box."""
    for row in GOLDS:
        yield from (Pair(row["gold"], f"\\boxed{{{text}}}", True) for text in (row["gold"], *row["same"]))
        yield from (Pair(row["gold"], f"\\boxed{{{text}}}", False) for text in row["other"])


def gsm8k() -> Iterator[Pair]:
    """Yield every answer with itself in a box, in prose, in tags and in its solution, and with others, in turn so."""
    draw, published_pairs, turns = random.Random(0), published(), itertools.cycle(range(6))
    for gold, solution in published_pairs:
        yield from (Pair(gold, text, True) for text in (*spoken(gold), solution))
        for other, its_solution in draw.sample(published_pairs, OTHERS):
            text = (*spoken(other), its_solution)[next(turns)]
            yield Pair(gold, text, float(gold.replace(",", "")) == float(other.replace(",", "")))


def alone(gold: str, completion: str) -> bool:
    """Judge with math-verify alone."""
    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(completion)))


def share(count: int, total: int) -> str:
    """Format a count with its share."""
    return f"{count} ({100 * count / total:.1f} %)"


if __name__ == "__main__":
    main()
