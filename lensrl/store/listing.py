"""What is in a study, in a folder of studies, in a run file: tables made from headers, never from arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError, StoreError
from lensrl.layers import BASE, FULL, run_layer, run_rate
from lensrl.plan import RunSpec, plan
from lensrl.store.atomic import is_being_written, partial_path
from lensrl.store.checked import axis_names, check_tree, dataset_at, located
from lensrl.store.patch import is_patch
from lensrl.store.run import Run

if TYPE_CHECKING:
    from lensrl.store.study import Study

COLUMNS = ["run", "seed", "status", "score", "gain", "bytes", "reason", "file"]
NOT_READ = ("damaged", "unfinished", "too new", "running", "missing")  # statuses of what is no `Run`


class Runs(dict[tuple[str, int], Run]):
    """(name, seed) -> run, for the runs that can be read. Its repr lists the others too, with their reason."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __repr__(self) -> str:
        return as_text(list_study(self._study))

    def _repr_html_(self) -> str:
        from lensrl.store.html import table_html

        return str(table_html(list_study(self._study)))

    def __missing__(self, key: object) -> NoReturn:
        """Raises KeyError with the reason that `study[key]` would give."""
        if isinstance(key, str):
            raise KeyError(
                f"{key!r} is a name without a seed: study.runs[{key!r}, 0], or study[{key!r}] for the lowest"
            )
        name, seed = key if isinstance(key, tuple) and len(key) == 2 else (str(key), None)
        raise KeyError(str(self._study.absence(name, seed)))

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        return key_completions(self)


def list_study(study: Study) -> pd.DataFrame:
    """One row per run that the study has or its recipe asks for, with the columns of `COLUMNS`.

    `status` is `completed`, `collapsed` or `diverged` as the run ended; for a file that cannot be read the word that
    `verify` has for it: `damaged`, `unfinished` or `too new`; `running` while a process makes it; `unfinished` also
    when that process was killed; `missing` when there is nothing yet. While no run can be read, how many layers the
    model has is unknown: then only base, full RL, and what somebody began to write are listed.
    """
    rows = [_row(run) for run in study.runs.values()]
    for file, error in study.unreadable.items():
        path = study.path / file
        if path.parent == study.path:
            rows.append(_unread_row(path, error))
    known = {row["file"] for row in rows}
    rows += [row for row in _without_file(study) if row["file"] not in known]
    rows.sort(key=lambda row: order(str(row["run"]), int(str(row["seed"]))))
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"score": float, "gain": float})
    base = table.loc[table["run"] == BASE, "score"]
    table["gain"] = table["score"] - (base.iloc[0] if len(base) else np.nan)
    table["bytes"] = table["bytes"].fillna(0).astype(int)
    return table


def runs(folder: str | Path) -> pd.DataFrame:
    """Every study and run below a folder: the columns of `list_study` after `study`, the study's folder.

    Run files that lie outside a study are listed with an empty `study`; results of patching are no runs. Raises
    LensrlError when there is no folder.
    """
    from lensrl.store.study import RECIPE_FILE, Study

    folder = Path(folder)
    if not folder.is_dir():
        raise LensrlError(f"no folder at {folder}")
    studies = sorted(kept.parent for kept in folder.rglob(RECIPE_FILE))
    tables = []
    for path in studies:
        with Study(path) as study:
            tables.append(list_study(study).assign(study=str(path)))
    stray = [f for f in sorted(folder.rglob("*.h5")) if not any(path in f.parents for path in studies)]
    rows = []
    for file in stray:
        try:
            with Run(file) as run:
                rows.append(_row(run) | {"file": str(file)})
        except StoreError as error:
            if not is_patch(file):
                rows.append(_unread_row(file, error) | {"file": str(file)})
    if rows:
        tables.append(pd.DataFrame(rows, columns=COLUMNS).astype({"score": float, "gain": float}).assign(study=""))
    columns = ["study", *COLUMNS]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def list_contents(run: Run) -> pd.DataFrame:
    """One row per dataset of a run file: dataset, axes, shape, dtype, bytes (as stored)."""
    rows = []
    with located(run.file, "its structure"):
        for name in sorted(check_tree(run.file), key=_natural):
            node = run.file[name]
            if not hasattr(node, "shape"):
                continue
            dataset = dataset_at(run.file, name)
            axes = "" if dataset.is_scale else ", ".join(axis_names(dataset))
            rows.append((name, axes, dataset.shape, str(dataset.dtype),
                         dataset.id.get_storage_size()))  # fmt: skip
    return pd.DataFrame(rows, columns=["dataset", "axes", "shape", "dtype", "bytes"])


def fold(contents: pd.DataFrame) -> pd.DataFrame:
    """The contents of a run file at a glance: axes left out, the weights of a part in one row.

    `dtype` is empty for the repairs of a part, which are places (int64) and values (float32).
    """
    shown = contents[(contents["axes"] != "") | (contents["shape"].map(len) == 0)]
    weights = shown["dataset"].str.contains("(?:^|/)(?:deltas|repairs)/")
    part = shown["dataset"].str.replace(r"((?:^|/)(?:deltas|repairs)/[^/]+)/.*", r"\1", regex=True)
    rows = []
    for name, group in shown.groupby(part.where(weights, shown["dataset"]), sort=False):
        axes, shape = group.iloc[0][["axes", "shape"]]
        if weights[group.index[0]]:
            axes, shape = f"{len(group)} array{'s' * (len(group) > 1)}", ""
        dtypes = group["dtype"].unique()
        rows.append((name, axes, shape, dtypes[0] if len(dtypes) == 1 else "", group["bytes"].sum()))
    return pd.DataFrame(rows, columns=["dataset", "axes", "shape", "dtype", "bytes"])


def as_text(table: pd.DataFrame) -> str:
    """A listing for a terminal or a REPL."""
    shown = for_people(table).assign(bytes=[size(n) for n in table["bytes"]])
    return shown.to_string(index=False, na_rep="", float_format="{:.3f}".format) if len(table) else "no runs"


def for_people(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the names of files, and without reasons where no row has one."""
    empty = ["reason"] if "reason" in table and not table["reason"].any() else []
    return table.drop(columns=["file", *empty], errors="ignore")


def size(n_bytes: int | np.integer) -> str:
    """`7.6 MB`; decimal units, as disks are sold."""
    for unit, power in (("GB", 3), ("MB", 2), ("kB", 1)):
        if n_bytes >= 1000**power:
            return f"{n_bytes / 1000**power:.1f} {unit}"
    return f"{n_bytes} B"


def key_completions(keys: Iterable[tuple[str, int]]) -> list[str | tuple[str, int]]:
    """What IPython offers inside the brackets: names, for any version of it; then keys, for those that complete one
    part of a key after the other, so the seeds after a name.
    """
    keys = list(keys)
    return [*dict.fromkeys(name for name, _ in keys), *keys]


def order(name: str, seed: int) -> tuple[object, ...]:
    """The base, full RL, single layers from the bottom up, then sets; then, rate by rate, what has another rate."""
    run, rate = run_rate(name) or (name, 0.0)
    layer = run_layer(run)
    return (rate, run != BASE, run != FULL, layer is None, layer or 0, run, seed)


def _row(run: Run) -> dict[str, object]:
    return {
        "run": run.name, "seed": run.seed, "status": run.status, "reason": run.reason, "score": run.score,
        "gain": np.nan, "bytes": _bytes(run.path), "file": run.path.name,
    }  # fmt: skip


def _unread_row(path: Path, error: StoreError) -> dict[str, object]:
    """A file that cannot be read; its reason without the path, which the row has."""
    name, seed = _named(path)
    return dict.fromkeys(COLUMNS) | {
        "run": name, "seed": seed, "status": error.status, "reason": str(error).removeprefix(f"{path} "),
        "bytes": _bytes(path), "file": path.name,
    }  # fmt: skip


def _bytes(path: Path) -> int:
    """The size of a file, which may be gone since it was looked for."""
    return path.stat().st_size if path.exists() else 0


def _without_file(study: Study) -> Iterator[dict[str, object]]:
    """The runs that the recipe asks for or somebody began to write, as if none had a file yet."""
    from lensrl.store.study import run_path

    begun = [part.with_name(part.name[1 : -len(".partial")]) for part in sorted(study.path.glob(".*.h5.partial"))]
    planned = [run_path(study.path, spec.name, spec.seed) for spec in _planned(study)]
    for path in dict.fromkeys([*planned, *begun]):
        if is_being_written(path):
            status, reason = "running", "a process is making it"
        elif partial_path(path).exists():
            status, reason = "unfinished", "the process that made it was killed: lensrl run makes it again"
        elif path.exists():
            status, reason = "missing", "made since this study was opened: open it again"
        else:
            status, reason = "missing", "not made yet: lensrl run continues with it"
        name, seed = _named(path)
        yield dict.fromkeys(COLUMNS) | {
            "run": name, "seed": seed, "status": status, "reason": reason, "file": path.name
        }  # fmt: skip


def _planned(study: Study) -> list[RunSpec]:
    n_layers = next((run.n_layers for run in study.runs.values()), None)
    try:
        if n_layers is None:
            return plan(study.recipe.model_copy(update={"layers": [], "sets": {}}), 0)
        return plan(study.recipe, n_layers)
    except LensrlError:  # whoever uses the recipe is told what is wrong with it; the runs are listed all the same
        return []


def _named(path: Path) -> tuple[str, int]:
    """The run and seed that a file's name says."""
    name, _, seed = path.name.removesuffix(".h5").partition(".seed-")
    return name, int(seed) if seed.isdecimal() else 0


def _natural(name: str) -> list[object]:
    """`deltas/10` after `deltas/9`; what is at the root first."""
    parts = name.split("/")
    return [len(parts) > 1, *((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)]
