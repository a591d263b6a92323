"""A task of your own: additions without carrying, `47+38=75`. A recipe names it own_task.py:NoCarry."""

import random

from lensrl.tasks import Item


class NoCarry:
    def __init__(self):
        pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
        random.Random(0).shuffle(pairs)  # seeded: every run of a study must see the same items
        self.pairs = {"test": pairs[:1000], "train": pairs[1000:]}

    def items(self, split):
        return [
            Item(id=f"{a}+{b}", prompt=f"{a}+{b}=", reference=no_carry(a, b), benchmark="no-carry")
            for a, b in self.pairs[split]
        ]

    def reward(self, item, completion):  # RL maximises this: a part for each digit in its place
        in_place = sum(map(str.__eq__, item.reference, completion))
        return in_place / max(len(item.reference), len(completion))

    def score(self, item, completion):  # the study reports this
        return float(completion == item.reference)


def no_carry(a, b):
    return f"{(a // 10 + b // 10) % 10}{(a + b) % 10}"
