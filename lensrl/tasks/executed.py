"""Tasks whose completions are run: 1 for a program that reaches its end in the sandbox, 0 for any other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lensrl.tasks.protocol import Item, Split
from lensrl.tasks.sandbox import run_programs


class Executed(ABC):
    """What the tasks that run programs share: a program for each completion, all of them judged at once."""

    timeout: float  # seconds, of one program
    memory: int  # MiB, of one program

    @abstractmethod
    def items(self, split: Split) -> list[Item]: ...

    @abstractmethod
    def program(self, item: Item, completion: str) -> tuple[str, ...]:
        """The completion and its tests, in parts that are executed one after another."""

    def score(self, item: Item, completion: str) -> float:
        return self.scores([item], [completion])[0]

    def scores(self, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
        programs = [self.program(item, completion) for item, completion in zip(items, completions, strict=True)]
        different = list(dict.fromkeys(programs))  # samples of one item often agree
        outcomes = run_programs(different, timeout=self.timeout, memory=self.memory)
        passed = {program: float(outcome.passed) for program, outcome in zip(different, outcomes, strict=True)}
        return [passed[program] for program in programs]

    reward, rewards = score, scores
