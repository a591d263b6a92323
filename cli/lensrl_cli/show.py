"""`lensrl show`: list the contents of a folder, a study, a run file, a dataset, or a result of patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lensrl
from lensrl.errors import LensrlError, StoreError
from lensrl.show.words import METRIC_LABELS
from lensrl_cli.completions import show_completions
from lensrl_cli.output import Json, interval, named_path, note, number, print_json, print_table

if TYPE_CHECKING:
    from lensrl import Run, Study

Row = Mapping[str, object]


def show(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            parser=named_path,
            help="A study, a folder of studies, a run file, a patching result, or a dataset in a run file.",
        ),
    ],
    item: Annotated[
        str | None, typer.Option("--item", metavar="ID", help="Of --completions: this item alone, all of its samples.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Of --completions: write a row a sample to FILE.")
    ] = None,
    *,
    completions: Annotated[
        bool, typer.Option("--completions", help="What a run answered, beside what the base answered.")
    ] = False,
    wrong: Annotated[
        bool, typer.Option("--wrong", help="Of --completions: items of which a sample scores under 1.")
    ] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Of --completions: items that score otherwise than in the base.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Of --completions: every item, every sample, long texts to their end.")
    ] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort", metavar="COLUMN", help="Of a study or a folder: by score, gain or size, the largest first."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the contents of a folder, a study or a run file; show the first rows of a dataset, or a patching result.

    Listings read headers only.

    Example: lensrl show runs/tiny/full-rl.seed-0.h5 --completions --changed
    """
    from lensrl.store.names import RECIPE_FILE
    from lensrl.store.patch import is_patch

    file = next((p for p in (path, *path.parents) if p.is_file()), None)
    of_completions = {"--item": item is not None, "--wrong": wrong, "--changed": changed, "--full": full}
    given = next((option for option, is_given in (of_completions | {"--csv": csv is not None}).items() if is_given), "")
    if given and not completions:
        raise LensrlError(f"{given} is an option of --completions: lensrl show {path} --completions {given}")
    if sort is not None and (file is not None or not path.is_dir()):
        raise LensrlError(f"--sort orders the runs of a study or of a folder, and {path} is none")
    if completions:
        if file is None or file != path or is_patch(file):
            raise LensrlError(
                f"--completions are of one run, and {path} is no run file: name one, {path}/full-rl.seed-0.h5"
            )
        with lensrl.open_run(file) as run:
            show_completions(run, item=item, wrong=wrong, changed=changed, full=full, json=json, csv=csv)
        return
    if file is not None and is_patch(file):
        if path != file:
            raise LensrlError(f"{file} is shown as a whole: lensrl show {file}")
        _show_patch(file, json=json)
    elif file is not None:
        with lensrl.open_run(file) as run:
            _show_run(run, path.relative_to(file).as_posix(), json=json)
    elif (path / RECIPE_FILE).is_file():
        with lensrl.open_study(path) as study:
            _show_study(study, sort, json=json)
    elif path.is_dir():
        _show_folder(path, sort, json=json)
    else:
        raise LensrlError(f"nothing at {path}: give a study, a run file, or a dataset inside one")


def _show_study(study: Study, sort: str | None, *, json: bool) -> None:
    from lensrl.store.look import size

    rows = _sorted(study.runs.rows(), sort)
    if json:
        print_json(rows)
        return
    seeds = ", ".join(map(str, study.seeds)) or "none"
    note(f"{study.name}: model {study.model}, seeds {seeds}, {size(sum(row['bytes'] for row in rows))}")
    for line in study["base"].notes if "base" in study else ():
        note(f"model {study.model}: {line}")
    _show_runs("Runs", rows, [])


def _show_folder(path: Path, sort: str | None, *, json: bool) -> None:
    from lensrl.store.folder import run_rows
    from lensrl.store.patch import is_patch

    rows = _sorted(run_rows(path), sort)
    results = [file for file in sorted(path.glob("*.h5")) if is_patch(file)]
    if not rows and not results:
        raise LensrlError(f"{path} holds no studies and no run files; studies are made by lensrl run")
    found, broken = _read_results(results)
    if json:
        print_json([*rows, *found, *broken])
        return
    if rows:
        _show_runs(str(path), rows, ["study"])
    if found:
        _show_results(f"{path}: results of patching", found)
    for row in broken:
        note(str(row["reason"]), style="red")


def _sorted(rows: Sequence[Any], column: str | None) -> Sequence[Any]:
    """Return the rows by a column of numbers, the largest first, and last those that have none."""
    if column is None:
        return rows
    if column not in ("score", "gain", "size"):
        raise LensrlError(f"--sort has score, gain and size, not {column!r}")
    key = {"size": "bytes"}.get(column, column)
    return sorted(rows, key=lambda row: (row[key] != row[key], -row[key]))  # NaN differs from itself


def _show_runs(title: str, rows: Sequence[Row], first: list[str]) -> None:
    """Print one row per run, with the columns `first` in front."""
    from lensrl.store.look import size

    cells = [
        {
            **{name: str(row[name]) for name in first},
            "run": str(row["run"]),
            "seed": str(row["seed"]),
            "score": number()(row["score"]),
            "gain": number()(row["gain"]),
            "size": size(int(str(row["bytes"]))) if row["bytes"] else "–",
            "status": f"{row['status']}: {row['reason']}" if row["reason"] else str(row["status"]),
        }
        for row in rows
    ]
    columns = {"run": "left", "seed": "right", "score": "right", "gain": "right", "size": "right", "status": "left"}
    print_table(title, {**dict.fromkeys(first, "left"), **columns}, cells, keys=len(first) + 2)


def _read_results(files: list[Path]) -> tuple[list[Row], list[Row]]:
    """Return the rows of all patching results, and a row with the reason for each file that cannot be read."""
    from lensrl.store.patch import read_patch

    found: list[Row] = []
    broken: list[Row] = []
    for file in files:
        try:
            found += [{"file": file.name, **row} for row in read_patch(file).rows()]
        except StoreError as error:
            broken.append({"file": file.name, "status": error.status, "reason": str(error)})
    return found, broken


def _show_results(title: str, found: Sequence[Row]) -> None:
    """Print the recovery of each patching result, by file and metric."""
    columns = {"file": "left", "metric": "left", "recovery": "right", "95 % interval": "right"}
    cells = [
        {
            "file": str(row["file"]),
            "metric": METRIC_LABELS[str(row["metric"])],
            "recovery": number(2)(row["recovery"]),
            "95 % interval": interval(row["low"], row["high"]),
        }
        for row in found
    ]
    print_table(title, columns, cells, keys=2)


def _show_patch(path: Path, *, json: bool) -> None:
    from lensrl.store.patch import read_patch

    result = read_patch(path)
    found, key = list(result.rows()), result.key
    if json:
        print_json(found)
        return
    # A line about the patch, then one row per metric, or per head and metric.
    layers = f"layer{'s' * (len(key.layers) > 1)} {key.layer_names}"
    part = key.layer_names if key.sets == "everything" else f"{key.component} of {layers}"
    note(f"{key.what}: {part} of {key.donor} into {key.into}, seed {key.seed}, {len(result.benchmark)} items")
    heads = {"head": "right"} if key.component == "head" else {}
    cells = [
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
    print_table("Recovery", {**heads, "metric": "left", **numbers}, cells)
    # The reasons of undefined recoveries, each once.
    undefined = [(METRIC_LABELS[str(row["metric"])], row["status"], row["reason"]) for row in found if row["reason"]]
    for metric, status, why in dict.fromkeys(undefined):
        note(f"{metric} {status}: {why}", style="red")


def _show_run(run: Run, inside: str, *, json: bool) -> None:
    """Print the datasets of a run; with a path inside the file, the datasets below it."""
    from lensrl.store.contents import fold, list_contents
    from lensrl.store.look import size
    from lensrl.store.origin import checkpoint_note

    contents = list_contents(run.file)
    if inside != ".":
        contents = [row for row in contents if row.dataset == inside or row.dataset.startswith(f"{inside}/")]
        if not contents:
            raise LensrlError(f"{run.path} holds no {inside!r}; see: lensrl show {run.path}")
    if json:
        print_json([row._asdict() for row in contents])
        return
    # The whole file: a head of two or three lines, and the weights of a part in one row.
    if inside == ".":
        status = f"{run.status}: {run.reason}" if run.reason else run.status
        note(f"{run.name} seed {run.seed} of {run.study}: {status}, score {number()(run.score)}, {size(run.bytes)}, "
             f"format version {run.format_version}")  # fmt: skip
        made = run.provenance.get("created", "at an unknown time")
        note(f"model {run.base}, {run.n_layers} layers, trained: {_trained(run)}; made {made}")
        if run.checkpoint is not None:
            note(f"from checkpoint {_checkpoint(run.checkpoint)}")
            if rounded := checkpoint_note([run]):
                note(rounded, style="yellow")
        for line in run.notes:
            note(f"model {run.base}: {line}")
        contents = fold(contents)
    cells = [
        {
            "dataset": row.dataset,
            "shape": _extent(row.axes, row.shape),
            "type": "text" if row.dtype.startswith("|S") else row.dtype,
            "size": size(row.bytes),
        }
        for row in contents
    ]
    print_table("Datasets", {"dataset": "left", "shape": "left", "type": "left", "size": "right"}, cells)
    if len(contents) == 1:
        note(run.preview(contents[0].dataset))


def _extent(axes: str, shape: Sequence[int]) -> str:
    """Return the shape of a dataset with its axes: `item 256, sample 4`.

    An axis whose name ends in its length is named once: `row 96` for `row_96`. A folded part has its arrays instead.
    """
    if not axes:
        return f"an axis of {shape[0]}" if shape else "a number"
    if not shape:
        return axes
    return ", ".join(f"{a.removesuffix(f'_{n}')} {n}" for a, n in zip(axes.split(", "), shape, strict=False))


def _checkpoint(record: Mapping[str, object]) -> str:
    """Return the source of a checkpoint, its revision on the hub, and its stored type, in words."""
    revision = record.get("commit") or record.get("revision")
    said = f"{record['source']}{f', revision {revision}' if revision else ''}"
    merged = record.get("merged")
    if isinstance(merged, Mapping):
        kinds = [word for word, key in (("rsLoRA", "use_rslora"), ("DoRA", "use_dora")) if merged.get(key)]
        kind = " and ".join(kinds) or "LoRA"
        return f"{said}, {kind} of rank {merged.get('r')} and alpha {merged.get('lora_alpha')}, merged with PEFT"
    return f"{said}, stored as {record['dtype']}"


def _trained(run: Run) -> str:
    """Return the layers that a run trained, in words."""
    from lensrl.recipe.runs import set_run

    if run.layer_set is not None:
        return set_run(run.name, run.layer_set, run.n_layers).trained
    if not run.layers:
        return "nothing"
    return "all" if len(run.layers) == run.n_layers else ", ".join(map(str, run.layers))
