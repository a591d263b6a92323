"""`lensrl show`: what is in a folder, a study, a run file, one dataset, or a result of patching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lensrl import LensrlError, Run, Study
from lensrl.recipe.runs import set_run
from lensrl.show.words import METRIC_LABELS
from lensrl_cli.output import Json, interval, note, number, print_json, show


def show_path(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A study, a folder of studies, a run or patch file, or a dataset: runs/tiny/base.h5/scores/score.",
        ),
    ],
    json: Json = False,
) -> None:
    """Show what is in a study, a run file, or one dataset, from headers alone; or what patching gave.

    Example: lensrl show runs/tiny/full-rl.seed-0.h5/deltas/4
    """
    from lensrl.store.names import RECIPE_FILE
    from lensrl.store.patch import is_patch

    file = next((p for p in (path, *path.parents) if p.is_file()), None)
    if file is not None and is_patch(file):
        if path != file:
            raise LensrlError(f"{file} is shown as a whole: lensrl show {file}")
        _show_patch(file, json=json)
    elif file is not None:
        with Run(file) as run:
            _show_run(run, path.relative_to(file).as_posix(), json=json)
    elif (path / RECIPE_FILE).is_file():
        with Study(path) as study:
            _show_study(study, json=json)
    elif path.is_dir():
        _show_folder(path, json=json)
    else:
        raise LensrlError(f"nothing at {path}: give a study, a run file, or a dataset inside one")


def _show_study(study: Study, *, json: bool) -> None:
    from lensrl.store.look import size

    table = study.runs.table()
    if json:
        print_json(table.to_dict("records"))
        return
    note(f"{study.name}: model {study.model}, seeds {', '.join(map(str, study.seeds)) or 'none'}, "
         f"{size(int(table['bytes'].sum()))}")  # fmt: skip
    _show_runs("Runs", table.to_dict("records"), [])


def _show_folder(path: Path, *, json: bool) -> None:
    from lensrl import runs
    from lensrl.store.patch import is_patch

    table = runs(path)
    results = [file for file in sorted(path.glob("*.h5")) if is_patch(file)]
    if not len(table) and not results:
        raise LensrlError(f"{path} holds no studies and no run files; studies are made by lensrl run")
    found, broken = _read_results(results)
    if json:
        print_json([*table.to_dict("records"), *found, *broken])
        return
    if len(table):
        _show_runs(str(path), table.to_dict("records"), ["study"])
    if found:
        _show_results(f"{path}: results of patching", found)
    for row in broken:
        note(str(row["reason"]), style="red")


def _show_runs(title: str, records: list[dict], first: list[str]) -> None:  # type: ignore[type-arg]
    from lensrl.store.look import size

    rows = [
        {
            **{name: row[name] for name in first},
            "run": row["run"],
            "seed": str(row["seed"]),
            "score": number()(row["score"]),
            "gain": number()(row["gain"]),
            "size": size(row["bytes"]) if row["bytes"] else "–",
            "status": row["status"] + (f": {row['reason']}" if row["reason"] else ""),
        }
        for row in records
    ]
    columns = {"run": "left", "seed": "right", "score": "right", "gain": "right", "size": "right", "status": "left"}
    show(title, {**dict.fromkeys(first, "left"), **columns}, rows, keys=len(first) + 2)


def _read_results(files: list[Path]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """What patch files hold, and which of them cannot be read, and why."""
    from lensrl.errors import StoreError
    from lensrl.store.patch import read_patch

    found: list[dict[str, object]] = []
    broken: list[dict[str, object]] = []
    for file in files:
        try:
            found += [{"file": file.name, **row} for row in read_patch(file).rows()]
        except StoreError as error:
            broken.append({"file": file.name, "status": error.status, "reason": str(error)})
    return found, broken


def _show_results(title: str, found: list[dict[str, object]]) -> None:
    """What was put where, and how much that recovers."""
    columns = {"file": "left", "metric": "left", "recovery": "right", "95 % interval": "right"}
    rows = [
        {
            "file": str(row["file"]),
            "metric": METRIC_LABELS[str(row["metric"])],
            "recovery": number(2)(row["recovery"]),
            "95 % interval": interval(row["low"], row["high"]),
        }
        for row in found
    ]
    show(title, columns, rows, keys=2)


def _show_patch(path: Path, *, json: bool) -> None:
    from lensrl.store.patch import read_patch

    result = read_patch(path)
    found, key = list(result.rows()), result.key
    if json:
        print_json(found)
        return
    heads = {"head": "right"} if key.component == "head" else {}
    rows = [
        {
            "head": str(row["head"]),
            "metric": METRIC_LABELS[str(row["metric"])],
            "recovery": number(2)(row["recovery"]),
            "95 % interval": interval(row["low"], row["high"]),
            "into": number()(row["into_value"]),
            "patched": number()(row["patched_value"]),
            "from": number()(row["from_value"]),
        }
        for row in found
    ]
    numbers = dict.fromkeys(("recovery", "95 % interval", "into", "patched", "from"), "right")
    layers = f"layer{'s' * (len(key.layers) > 1)} {key.layer_names}"
    part = key.layer_names if key.sets == "everything" else f"{key.component} of {layers}"
    note(f"{key.what}: {part} of {key.donor} into {key.into}, seed {key.seed}, {len(result.benchmark)} items")
    show("Recovery", {**heads, "metric": "left", **numbers}, rows)
    undefined = [(METRIC_LABELS[str(row["metric"])], row["status"], row["reason"]) for row in found if row["reason"]]
    for metric, status, why in dict.fromkeys(undefined):
        note(f"{metric} {status}: {why}", style="red")


def _show_run(run: Run, inside: str, *, json: bool) -> None:
    from lensrl.store.contents import fold, list_contents
    from lensrl.store.look import size

    table = list_contents(run.file)
    if inside != ".":
        below = table["dataset"].str.startswith(f"{inside}/")
        chosen = table[(table["dataset"] == inside) | below]
        if not len(chosen):
            raise LensrlError(f"{run.path} holds no {inside!r}; see: lensrl show {run.path}")
        table = chosen
    if json:
        print_json(table.to_dict("records"))
        return
    if inside == ".":
        note(f"{run.name} seed {run.seed} of {run.study}: {run.status}{f': {run.reason}' if run.reason else ''}, "
             f"score {number()(run.score)}, {size(run.bytes)}, format version {run.format_version}")  # fmt: skip
        made = run.provenance.get("created", "at an unknown time")
        note(f"model {run.base}, {run.n_layers} layers, trained: {_layers(run)}; made {made}")
        table = fold(table)
    rows = [
        {
            "dataset": row["dataset"],
            "shape": _extent(row["axes"], row["shape"]),
            "type": "text" if row["dtype"].startswith("|S") else row["dtype"],
            "size": size(row["bytes"]),
        }
        for row in table.to_dict("records")
    ]
    show("Datasets", {"dataset": "left", "shape": "left", "type": "left", "size": "right"}, rows)
    if len(table) == 1:
        note(run.preview(table["dataset"].iloc[0]))


def _extent(axes: str, shape: Sequence[int]) -> str:
    """`item 256, sample 4`; `row 96` for an axis that has its length in its name; of a folded part, its arrays."""
    if not axes:
        return f"an axis of {shape[0]}" if shape else "a number"
    if not shape:
        return axes
    return ", ".join(f"{a.removesuffix(f'_{n}')} {n}" for a, n in zip(axes.split(", "), shape, strict=False))


def _layers(run: Run) -> str:
    if run.layer_set is not None:
        return set_run(run.name, run.layer_set, run.n_layers).trained
    if not run.layers:
        return "nothing"
    return "all" if len(run.layers) == run.n_layers else ", ".join(map(str, run.layers))
