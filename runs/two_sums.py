"""Two benchmarks of one task: additions with a carry of the ones, and without one. `smoke-evaluation.toml` names it."""

import random

from lensrl.tasks import Item


class TwoSums:
    def __init__(self):
        pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
        random.Random(0).shuffle(pairs)  # seeded: every run of a study must see the same items
        self.pairs = {"test": pairs[:1000], "train": pairs[1000:]}

    def items(self, split):
        return [Item(f"{a}+{b}", f"{a}+{b}=", str(a + b), benchmark(a, b)) for a, b in self.pairs[split]]

    def reward(self, item, completion):
        return self.score(item, completion)

    def score(self, item, completion):
        return float(completion.strip() == item.reference)

    def answer(self, item, completion):  # samples with equal answers vote together
        return completion.strip() or None


def benchmark(a, b):
    return "carry" if a % 10 + b % 10 >= 10 else "no-carry"
