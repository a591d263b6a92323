"""How the processor time of one run of the demo is spread, and which share its start-up has: `make bench`.

    python -m tests.benchmarks.one_run [--steps 100] [--rounds 3]

Runs of `runs/tiny.toml`, layer 3 alone, are made one after another in this process, as a study makes them. Start-up is
what is neither training, scoring, activations nor writing: models that share the base, the construction of the trainer,
what comes before its first step, checks, the boot of TransformerLens, and the rest. The first run, which finds nothing
warm, stands apart. The base model is loaded before, once for all runs of a study. A share is of processor time: other
processes on the machine change it less than the time on the wall.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from lensrl.models import bridge
from lensrl.models.base import Base
from lensrl.recipe import Recipe, load_recipe
from lensrl.recipe.runs import plan
from lensrl.train import training, workshop
from lensrl.train.job import Job
from lensrl.train.recorder import Recorder
from lensrl.train.trainer import Trainer
from lensrl.train.watch import NoWatcher
from tests.benchmarks.store import verdict

RECIPE = Path(__file__).parents[2] / "runs" / "tiny.toml"
LAYER = 3
WORK = ("training", "scoring", "activations", "writing")
WANTED = 0.1


class Clock:
    """Processor seconds by part. Inside a part, another may begin: each moment counts for the innermost."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._parts = ["the rest"]
        self._since = time.process_time()

    def _switch(self) -> None:
        now = time.process_time()
        self.spent[self._parts[-1]] += now - self._since  # pyright: ignore[reportArgumentType]
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._switch()
        self._parts.append(name)
        try:
            yield
        finally:
            self._switch()
            self._parts.pop()

    def rename(self, name: str) -> None:
        """Go on in the innermost part under another name."""
        self._switch()
        self._parts[-1] = name

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as a part."""

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*arguments, **named)

        return call


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=load_recipe(RECIPE).rl.steps)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(RECIPE)
    recipe = recipe.model_copy(update={"rl": recipe.rl.model_copy(update={"steps": arguments.steps})})
    shop = workshop.Workshop(recipe)
    first, *others = [spent(shop, recipe) for _ in range(1 + arguments.rounds)]
    table = Table("part", "first run, s", "later runs, s", "share", box=None, pad_edge=False, header_style="dim")
    middle = {name: statistics.median(one[name] for one in others) for name in first}
    total = sum(middle.values())
    for name in sorted(middle, key=lambda name: -middle[name]):
        table.add_row(name, f"{first[name]:.2f}", f"{middle[name]:.2f}", f"{middle[name] / total:.3f}")
    shares = [1 - sum(one[name] for name in WORK) / sum(one.values()) for one in (first, *others)]
    share = statistics.median(shares[1:])
    table.add_row(
        "start-up: all but training, scoring, activations, writing", f"share {shares[0]:.3f}", "", f"{share:.3f}"
    )
    console = Console(width=120)
    console.print(
        f"{os.cpu_count()} cores; layer {LAYER} of tiny.toml, {arguments.steps} steps; {len(others)} later runs"
    )
    console.print(table)
    console.print(f"start-up {share:.1%}, wanted {verdict(share <= WANTED, f'≤ {WANTED:.0%}')}")


def spent(shop: workshop.Workshop, recipe: Recipe) -> dict[str, float]:
    """Make a run, and return the processor seconds of its parts."""
    clock = Clock()
    begins = Recorder.step_begins

    def step_begins(recorder: Recorder) -> None:
        clock.rename("training")  # so far it was what comes before the first step
        begins(recorder)

    parts: list[tuple[Any, str, str]] = [
        (Base, "reading", "models that share the base"),
        (Trainer, "__init__", "construction of the trainer"),
        (Trainer, "train", "before the first step"),
        (training, "check_frozen", "checks of the trained model"),
        (training, "is_finite", "checks of the trained model"),
        (bridge, "boot", "boot of TransformerLens"),
        (workshop, "evaluate", "scoring"),
        (workshop, "capture", "activations"),
        (workshop, "write_run", "writing"),
    ]
    spec = next(spec for spec in plan(recipe, shop.base.blocks.n_layers) if spec.name == f"layer-{LAYER}")
    with tempfile.TemporaryDirectory(prefix="lensrl-bench-") as folder, ExitStack() as stack:
        job = Job(recipe, spec, Path(folder), shop.base.fingerprint, shop.digests)
        for owner, name, part in parts:
            stack.enter_context(patch.object(owner, name, clock.around(part, getattr(owner, name))))
        stack.enter_context(patch.object(Recorder, "step_begins", step_begins))
        with clock.part("the rest"):
            shop.make(job, NoWatcher())
    return {name: clock.spent[name] for name in [*dict.fromkeys(part for *_, part in parts), "training", "the rest"]}


if __name__ == "__main__":
    main()
