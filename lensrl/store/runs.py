"""The runs of one study: found by name and seed, and listed together with damaged, running and missing runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypedDict

from lensrl.errors import LensrlError, StoreError, did_you_mean
from lensrl.recipe import Recipe, read_kept_recipe
from lensrl.recipe.layers import parse_layers
from lensrl.recipe.runs import BASE, RunSpec, plan, run_layer
from lensrl.store.file.atomic import begun
from lensrl.store.file.claim import read_claim
from lensrl.store.file.training import latest_step, training_folder
from lensrl.store.look import as_text, table_html
from lensrl.store.names import RECIPE_FILE, order, run_of, run_path
from lensrl.store.patch import is_patch
from lensrl.store.run import Run

if TYPE_CHECKING:  # pandas is imported where a DataFrame is made: a listing in the terminal does without
    import pandas as pd


class RunRow(TypedDict):
    """One row of a listing of runs."""

    run: str
    seed: int
    status: str  # see `Runs.table`
    score: float  # NaN for a run without scores
    gain: float  # over the base
    bytes: int  # of the file
    reason: str  # why the run is not completed
    file: str


COLUMNS = list(RunRow.__annotations__)
NOT_READ = (
    "damaged",
    "unfinished",
    "too new",
    "not ours",
    "running",
    "missing",
)  # statuses of runs that cannot be read


class Runs(dict[tuple[str, int], Run]):
    """(name, seed) -> run, for the readable runs in a study's folder. Opening reads headers and no array.

    The rule for seeds, here and in every function with the argument `seed`:

    - A question about particular runs, with `seed=None`, uses the lowest training seed that all these runs have
      (`shared_seed`). Where a function needs weights, a run that diverged does not count: it has none. The base has no
      training seed and matches every seed.
    - A table over a study, with `seed=None`, uses all seeds together (contributions, scores, patches).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: dict[str, StoreError] = {}  # file name in the folder -> the error that reading it raised
        for file in sorted(folder.glob("*.h5"), key=lambda f: (f.name != f"{BASE}.h5", f.name)):
            try:
                run = Run(file)
            except StoreError as error:
                if not is_patch(file):
                    self.note_unreadable(file.name, error)
            else:
                self._accept(run)

    def note_unreadable(self, file: str, error: StoreError) -> None:
        """Keep the error of a file that cannot be read.

        The error is copied without its traceback: the traceback's frames would keep the file open.
        """
        self.unreadable[file] = type(error)(str(error))

    @cached_property
    def recipe(self) -> Recipe:
        """The study's recipe. Its paths are absolute."""
        return read_kept_recipe(self.folder / RECIPE_FILE)

    @property
    def n_layers(self) -> int:
        """The number of layers of the model."""
        return self.find(BASE).n_layers

    @property
    def layers(self) -> list[int]:
        """The layers that are trained alone: the layers in the recipe, and any other layer that has a run.

        The recipe names them in `layers` and in `checkpoints`.
        """
        made = [layer for name, _ in self if (layer := run_layer(name)) is not None]
        named = [layer for name in self.recipe.checkpoints if (layer := run_layer(name)) is not None]
        return sorted({*parse_layers(self.recipe.layers, self.n_layers), *named, *made})

    @property
    def seeds(self) -> list[int]:
        """The training seeds for which there is any run."""
        return sorted({seed for name, seed in self if name != BASE})

    def of(self, name: str, seed: int | None = None, *, scored: bool = False) -> dict[int, Run]:
        """Return seed -> run for the runs with this name, of all seeds or of one.

        With `scored`, only runs that did not diverge: they have weights, and scores where the study has any. The base
        is always one run, under seed 0.
        """
        seeds = sorted(s for n, s in self if n == name and (seed in (None, s) or name == BASE))
        found = {s: self[name, s] for s in seeds}
        return {s: run for s, run in found.items() if run.has_weights} if scored else found

    def find(self, name: str, seed: int | None = None) -> Run:
        """Return the run with this name and seed; by default, the run with the lowest seed.

        Raises LensrlError when there is no such run, with the reason: see `why_missing`.
        """
        runs = self.of(name, seed)
        if not runs:
            raise self.why_missing(name, seed)
        return runs[min(runs)]

    def find_scored(self, name: str, seed: int | None = None) -> Run:
        """Return the same run as `find`. Raises LensrlError also when it diverged: it has no weights and no scores."""
        run = self.find(name, seed)
        if not run.has_weights:
            raise LensrlError(f"run {name!r} of {self.folder} has no weights and no scores: {run.reason}")
        return run

    def check_scored(self) -> None:
        """Raise LensrlError, with the command to type, where the study compares models on texts and has no scores."""
        base = self.find(BASE)
        if not base.has_scores:
            raise LensrlError(
                f"{self.folder} has no scores, and C_l needs them: its models are compared on texts; score them in "
                f"another folder, lensrl import {base.base} TRAINED --task math --test FILE --out DIR, or give results "
                f"of lm-evaluation-harness there, --scores base=FILE --scores full-rl=FILE"
            )

    def shared_seed(self, *names: str, scored: bool = False) -> int:
        """Return the lowest training seed that all named runs have; 0 when only the base is named.

        With `scored`, every run must have weights: see `of`. Raises LensrlError when a run is missing or no seed is
        shared.
        """
        trained = [name for name in names if name != BASE]
        seeds = [[*self.of(name, scored=scored)] for name in trained]
        shared = set.intersection(*map(set, seeds)) if seeds else {0}
        if not shared:
            for name in (name for name, of in zip(trained, seeds, strict=True) if not of):
                (self.find_scored if scored else self.find)(name)  # raises LensrlError with the reason
            raise LensrlError(f"{' and '.join(trained)} share no seed in {self.folder}: {seeds}")
        return min(shared)

    def why_missing(self, name: str, seed: int | None = None) -> LensrlError:
        """Return an error that says why this run cannot be read: damaged, too new, not made yet, or unknown."""
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

    def rows(self) -> list[RunRow]:
        """Return the rows of `table` as dictionaries, without pandas."""
        rows = [run_row(run) for run in self.values()]
        paths = ((self.folder / file, error) for file, error in self.unreadable.items())
        rows += [unread_row(path, error) for path, error in paths if path.parent == self.folder]
        known = {row["file"] for row in rows}
        rows += [row for row in self._without_file() if row["file"] not in known]
        base = next((run.score for run in self.of(BASE).values()), float("nan"))
        for row in rows:
            row["gain"] = row["score"] - base
        return sorted(rows, key=lambda row: order(row["run"], row["seed"]))

    def table(self) -> pd.DataFrame:
        """Return one row per run in the folder or in the recipe, with the columns of `RunRow`.

        `status` is one of:

        - `completed`, `collapsed` or `diverged`: how the run ended;
        - `damaged`, `unfinished`, `too new` or `not ours`: the file cannot be read, as `verify` says it;
        - `running`: a process is making the run, which `reason` names; `unfinished` also when it was stopped;
        - `missing`: there is no file yet.

        While no run can be read, the number of layers is unknown. Then only base, full RL and begun files are listed.
        """
        return as_table(self.rows())

    def close(self) -> None:
        """Close the file of every run."""
        for run in self.values():
            run.close()

    def _accept(self, run: Run) -> None:
        """Keep a run if its file name is right and its base model is the study's. The base must be read first."""
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

    def _without_file(self) -> Iterator[RunRow]:
        """Yield a row for every run in the recipe and every begun file. The caller drops runs that have a file."""
        planned = [run_path(self.folder, spec.name, spec.seed) for spec in self._planned()]
        left = [path for path in begun(self.folder) if path.suffix == ".h5"]
        for path in dict.fromkeys([*planned, *left]):
            claim = read_claim(path)
            if claim is not None and claim.is_living:
                status, reason = "running", claim.in_words()
            elif not path.exists() and (step := latest_step(training_folder(path))) is not None:
                status, reason = "unfinished", f"a checkpoint keeps step {step}: lensrl run goes on from there"
            elif claim is not None:
                status, reason = "unfinished", f"{claim.in_words()}: lensrl run makes it again"
            elif path in left:
                status, reason = "unfinished", "the process that made it was killed: lensrl run makes it again"
            elif path.exists():
                status, reason = "missing", "made since this study was opened: open it again"
            else:
                status, reason = "missing", "not made yet: lensrl run continues with it"
            name, seed = run_of(path)
            yield RunRow(
                run=name, seed=seed, status=status, score=float("nan"), gain=float("nan"), bytes=0, reason=reason,
                file=path.name,
            )  # fmt: skip

    def _planned(self) -> list[RunSpec]:
        """Return the runs in the recipe; none if the recipe is wrong: a function that needs the recipe raises."""
        n_layers = next((run.n_layers for run in self.values()), None)
        try:
            if n_layers is None:
                return plan(self.recipe.model_copy(update={"layers": [], "sets": {}, "checkpoints": {}}), 0)
            return plan(self.recipe, n_layers)
        except LensrlError:
            return []

    def __missing__(self, key: object) -> NoReturn:
        """Raise KeyError with the reason that `study[key]` gives."""
        if isinstance(key, str):
            raise KeyError(
                f"{key!r} is a name without a seed: study.runs[{key!r}, 0], or study[{key!r}] for the lowest"
            )
        name, seed = key if isinstance(key, tuple) and len(key) == 2 else (str(key), None)
        raise KeyError(str(self.why_missing(name, seed)))

    def __repr__(self) -> str:
        return as_text(self.rows())

    def _repr_html_(self) -> str:
        return str(table_html(self.rows()))

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        """Return names, for every version of IPython, then keys, for versions that complete a key part by part."""
        return [*dict.fromkeys(name for name, _ in self), *self]


def as_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Return rows of runs as a DataFrame with these columns, also when there is no row."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns)).astype({"score": float, "gain": float, "bytes": int})


def run_row(run: Run) -> RunRow:
    """Return the row of a run. Its gain is NaN: the base is not known here."""
    return RunRow(
        run=run.name, seed=run.seed, status=run.status, score=run.score, gain=float("nan"), bytes=_bytes(run.path),
        reason=run.reason, file=run.path.name,
    )  # fmt: skip


def unread_row(path: Path, error: StoreError) -> RunRow:
    """Return the row of a file that cannot be read. Its reason leaves out the path, which the row has."""
    name, seed = run_of(path)
    return RunRow(
        run=name, seed=seed, status=error.status, score=float("nan"), gain=float("nan"), bytes=_bytes(path),
        reason=str(error).removeprefix(f"{path} "), file=path.name,
    )  # fmt: skip


def _bytes(path: Path) -> int:
    """Return the size of a file; 0 if it was deleted in the meantime."""
    return path.stat().st_size if path.exists() else 0
