"""The runs of one study: found by name and seed, listed with whatever is damaged, running or missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError, StoreError, did_you_mean
from lensrl.recipe import Recipe, read_kept_recipe
from lensrl.recipe.layers import parse_layers
from lensrl.recipe.runs import BASE, RunSpec, plan, run_layer
from lensrl.store.file.atomic import is_being_written, partial_path
from lensrl.store.look import as_text, table_html
from lensrl.store.names import RECIPE_FILE, order, run_of, run_path
from lensrl.store.patch import is_patch
from lensrl.store.run import Run

COLUMNS = ["run", "seed", "status", "score", "gain", "bytes", "reason", "file"]
NOT_READ = ("damaged", "unfinished", "too new", "running", "missing")  # statuses of runs that cannot be read


class Runs(dict[tuple[str, int], Run]):
    """(name, seed) -> run, for the runs of a study's folder that can be read. Opening reads headers and no array.

    The rule for seeds, here and in every function that takes `seed`:

    - A question about particular runs, with `seed=None`, means the lowest training seed that all of those runs have
      (`shared_seed`). Where a function needs weights, only runs with scores count: a diverged run has none. The base
      is trained with no seed and goes with each.
    - A table over a study, with `seed=None`, takes all seeds together (contributions, scores, patches).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: dict[str, StoreError] = {}  # file name, relative to the folder -> why it cannot be read
        for file in sorted(folder.glob("*.h5"), key=lambda f: (f.name != f"{BASE}.h5", f.name)):
            try:
                run = Run(file)
            except StoreError as error:
                if not is_patch(file):
                    self.note_unreadable(file.name, error)
            else:
                self._accept(run)

    def note_unreadable(self, file: str, error: StoreError) -> None:
        """Keep why a file cannot be read, without the traceback, whose frames would keep the file open."""
        self.unreadable[file] = type(error)(str(error))

    @cached_property
    def recipe(self) -> Recipe:
        """The study's recipe, with its paths resolved."""
        return read_kept_recipe(self.folder / RECIPE_FILE)

    @property
    def n_layers(self) -> int:
        """How many layers the model has."""
        return self.find(BASE).n_layers

    @property
    def layers(self) -> list[int]:
        """The layers trained alone: those that the recipe asks for, and any others that have a run."""
        made = [layer for name, _ in self if (layer := run_layer(name)) is not None]
        return sorted({*parse_layers(self.recipe.layers, self.n_layers), *made})

    @property
    def seeds(self) -> list[int]:
        """The training seeds that have any run."""
        return sorted({seed for name, seed in self if name != BASE})

    def of(self, name: str, seed: int | None = None, *, scored: bool = False) -> dict[int, Run]:
        """Seed -> run, for the runs of this name: those of all seeds, or of one. `scored`: only runs with scores.

        The base is one run, under seed 0, whatever `seed` is.
        """
        seeds = sorted(s for n, s in self if n == name and (seed in (None, s) or name == BASE))
        found = {s: self[name, s] for s in seeds}
        return {s: run for s, run in found.items() if run.has_scores} if scored else found

    def find(self, name: str, seed: int | None = None) -> Run:
        """The run of this name and seed; by default the lowest seed that it has.

        Raises LensrlError with the reason why there is none: see `why_missing`.
        """
        runs = self.of(name, seed)
        if not runs:
            raise self.why_missing(name, seed)
        return runs[min(runs)]

    def find_scored(self, name: str, seed: int | None = None) -> Run:
        """As `find`, for a run that has weights and scores. Raises LensrlError for one that diverged, too."""
        run = self.find(name, seed)
        if not run.has_scores:
            raise LensrlError(f"run {name!r} of {self.folder} has no weights and no scores: {run.reason}")
        return run

    def shared_seed(self, *names: str, scored: bool = False) -> int:
        """The lowest training seed that all of the named runs have; 0 where only the base is named.

        `scored`: with scores in every run. Raises LensrlError for a run that is missing, or when no seed is shared.
        """
        trained = [name for name in names if name != BASE]
        seeds = [[*self.of(name, scored=scored)] for name in trained]
        shared = set.intersection(*map(set, seeds)) if seeds else {0}
        if not shared:
            for name in (name for name, of in zip(trained, seeds, strict=True) if not of):
                (self.find_scored if scored else self.find)(name)  # raises with the reason
            raise LensrlError(f"{' and '.join(trained)} share no seed in {self.folder}: {seeds}")
        return min(shared)

    def why_missing(self, name: str, seed: int | None = None) -> LensrlError:
        """Why there is no such run to read: its file is damaged or too new, it is still to be made, or unknown."""
        for file, error in self.unreadable.items():
            if file.startswith(f"{name}." if seed is None else (f"{name}.h5", f"{name}.seed-{seed}.")):
                return type(error)(str(error))
        for row in self.rows():
            if row["run"] == name and seed in (None, row["seed"]) and row["status"] in NOT_READ:
                return LensrlError(
                    f"study {self.folder} has no run {name!r} with seed {row['seed']}: {row['status']}, {row['reason']}"
                )
        seeds = [*self.of(name)]
        if seeds:
            return LensrlError(f"study {self.folder} has no {name} with seed {seed}; it has seeds {seeds}")
        return LensrlError(
            f"study {self.folder} has no run {name!r}{did_you_mean(str(name), dict.fromkeys(n for n, _ in self))}"
        )

    def rows(self) -> list[dict[str, object]]:
        """One row per run that the study has or its recipe asks for, with the keys of `COLUMNS`: see `table`."""
        rows = [run_row(run) for run in self.values()]
        paths = ((self.folder / file, error) for file, error in self.unreadable.items())
        rows += [unread_row(path, error) for path, error in paths if path.parent == self.folder]
        known = {row["file"] for row in rows}
        rows += [row for row in self._without_file() if row["file"] not in known]
        base = next((run.score for run in self.of(BASE).values()), np.nan)
        for row in rows:
            row["gain"] = np.nan if row["score"] is None else float(str(row["score"])) - base
        return sorted(rows, key=lambda row: order(str(row["run"]), int(str(row["seed"]))))

    def table(self) -> pd.DataFrame:
        """One row per run that the study has or its recipe asks for, with the columns of `COLUMNS`.

        `status` is `completed`, `collapsed` or `diverged` as the run ended; for a file that cannot be read the word
        that `verify` has for it: `damaged`, `unfinished` or `too new`; `running` while a process makes it;
        `unfinished` also when that process was killed; `missing` when there is nothing yet. While no run can be read,
        the number of layers is unknown: then only base, full RL, and begun files are listed.
        """
        return as_table(self.rows())

    def close(self) -> None:
        """Close the file of every run."""
        for run in self.values():
            run.close()

    def _accept(self, run: Run) -> None:
        """Keep a run that is what its file's name says and comes from this study's base, which is read first."""
        base = next(iter(self.of(BASE).values()), run)
        if run.path != run_path(self.folder, run.name, run.seed):
            why = f"{run.path} holds the run {run.name} with seed {run.seed}: rename it back"
        elif run.fingerprint != base.fingerprint:
            why = (
                f"{run.path} was made from another base model (fingerprint {run.fingerprint[:12]}) than "
                f"{base.path.name} ({base.fingerprint[:12]}); move it out of this study and run again"
            )
        else:
            self[run.name, run.seed] = run
            return
        self.note_unreadable(run.path.name, StoreError(why))
        run.close()

    def _without_file(self) -> Iterator[dict[str, object]]:
        """The runs that the recipe asks for or a process began to write, as if none had a file yet."""
        begun = [part.with_name(part.name[1 : -len(".partial")]) for part in sorted(self.folder.glob(".*.h5.partial"))]
        planned = [run_path(self.folder, spec.name, spec.seed) for spec in self._planned()]
        for path in dict.fromkeys([*planned, *begun]):
            if is_being_written(path):
                status, reason = "running", "a process is making it"
            elif partial_path(path).exists():
                status, reason = "unfinished", "the process that made it was killed: lensrl run makes it again"
            elif path.exists():
                status, reason = "missing", "made since this study was opened: open it again"
            else:
                status, reason = "missing", "not made yet: lensrl run continues with it"
            name, seed = run_of(path)
            yield dict.fromkeys(COLUMNS) | {
                "run": name, "seed": seed, "status": status, "reason": reason, "bytes": 0, "file": path.name
            }  # fmt: skip

    def _planned(self) -> list[RunSpec]:
        n_layers = next((run.n_layers for run in self.values()), None)
        try:
            if n_layers is None:
                return plan(self.recipe.model_copy(update={"layers": [], "sets": {}}), 0)
            return plan(self.recipe, n_layers)
        except LensrlError:  # whoever uses the recipe is told what is wrong with it; the runs are listed all the same
            return []

    def __missing__(self, key: object) -> NoReturn:
        """Raises KeyError with the reason that `study[key]` would give."""
        if isinstance(key, str):
            raise KeyError(
                f"{key!r} is a name without a seed: study.runs[{key!r}, 0], or study[{key!r}] for the lowest"
            )
        name, seed = key if isinstance(key, tuple) and len(key) == 2 else (str(key), None)
        raise KeyError(str(self.why_missing(name, seed)))

    def __repr__(self) -> str:
        return as_text(self.table())

    def _repr_html_(self) -> str:
        return str(table_html(self.table()))

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        """Names, for any version of IPython; then keys, for those that complete one part of a key after the other."""
        return [*dict.fromkeys(name for name, _ in self), *self]


def as_table(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    """Rows of runs as a DataFrame with the columns of `COLUMNS`."""
    return pd.DataFrame(rows, columns=COLUMNS).astype({"score": float, "gain": float, "bytes": int})


def run_row(run: Run) -> dict[str, object]:
    """The row of a run that can be read, without its gain."""
    return {
        "run": run.name, "seed": run.seed, "status": run.status, "reason": run.reason, "score": run.score,
        "gain": np.nan, "bytes": _bytes(run.path), "file": run.path.name,
    }  # fmt: skip


def unread_row(path: Path, error: StoreError) -> dict[str, object]:
    """The row of a file that cannot be read; its reason without the path, which the row has."""
    name, seed = run_of(path)
    return dict.fromkeys(COLUMNS) | {
        "run": name, "seed": seed, "status": error.status, "reason": str(error).removeprefix(f"{path} "),
        "bytes": _bytes(path), "file": path.name,
    }  # fmt: skip


def _bytes(path: Path) -> int:
    """The size of a file, which may be gone since it was looked for."""
    return path.stat().st_size if path.exists() else 0
