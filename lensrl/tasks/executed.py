"""Tasks whose completions are executed: 1 for a program that reaches its end in the sandbox, 0 for any other.

This module turns outcomes of `lensrl.tasks.sandbox` into rewards and scores. A task supplies the programs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lensrl.tasks.protocol import Item, Split
from lensrl.tasks.sandbox import run_programs


class Executed(ABC):
    """Base of the tasks that run programs. It judges one program per completion, all programs of a batch at once."""

    timeout: float  # seconds of processor time, of one program
    memory: int  # MiB, of one program
    packages: Sequence[str] = ()  # that programs may import

    @abstractmethod
    def items(self, split: Split) -> list[Item]:
        """Return every item of a split, in an order that never changes."""

    @abstractmethod
    def program(self, item: Item, completion: str) -> tuple[str, ...]:
        """Return the completion and its tests, in parts that are executed one after another."""

    def score(self, item: Item, completion: str) -> float:
        """Return 1 if the program of the completion passes, 0 otherwise."""
        return self.scores([item], [completion])[0]

    def scores(self, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
        """Return the score of each completion. Equal programs run once: samples of one item are often equal."""
        programs = [self.program(item, completion) for item, completion in zip(items, completions, strict=True)]
        different = list(dict.fromkeys(programs))
        outcomes = run_programs(different, timeout=self.timeout, memory=self.memory, packages=self.packages)
        passed = {program: float(outcome.passed) for program, outcome in zip(different, outcomes, strict=True)}
        return [passed[program] for program in programs]

    reward, rewards = score, scores
