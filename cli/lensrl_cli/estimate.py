"""`lensrl run --dry-run`: what the missing runs of a study will take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lensrl_cli.output import note

if TYPE_CHECKING:
    from lensrl.recipe import Recipe


def print_estimate(recipe: Recipe, folder: Path, only: list[str] | None) -> None:
    """Measure a few steps, and print runs, disk and time. Nothing is written."""
    from lensrl.store.look import size
    from lensrl.train.estimate import estimate_study

    found = estimate_study(recipe, folder, only)
    for line in found.notes:
        note(line)
    done = f", {found.done} are there" if found.done else ""
    if not found.runs:
        note(f"{folder}: all {found.done} runs are there")
        return
    names = list(dict.fromkeys(spec.name for spec in found.runs))
    shown = ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])}, ... {', '.join(names[-2:])}"
    note(f"runs     {len(found.runs)} to make{done}: {shown}")
    note(f"disk     {size(found.bytes)} in {folder}, {size(found.free)} are free there")
    parts = [f"{name} {seconds:.3g} s" for name, seconds in found.step.items()]
    steps = f", a step of {', of '.join(parts)} (measured), {found.steps} steps a run" if parts else ""
    note(f"time     about {duration(found.seconds)} one by one: scoring {found.scoring:.3g} s a run at most{steps}")
    if found.memory:
        note(f"memory   {size(int(found.memory))} at its peak in these steps")
    note("nothing was made: leave out --dry-run to make the study")


def duration(seconds: float) -> str:
    """Return a time in its two largest units: `3 h 20 min`."""
    whole = max(1, round(seconds))
    units = {"d": whole // 86400, "h": whole // 3600 % 24, "min": whole // 60 % 60, "s": whole % 60}
    first = next(name for name, count in units.items() if count)
    names = [*units][[*units].index(first) :][:2]
    return " ".join(f"{units[name]} {name}" for name in names if units[name])
