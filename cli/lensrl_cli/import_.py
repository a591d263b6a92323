"""`lensrl import`: make a study of models that were trained elsewhere, without a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import lensrl
from lensrl.errors import LensrlError
from lensrl_cli.output import named_path, note
from lensrl_cli.run import make_study


def import_(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base model: a folder or a hub name.")],
    trained: Annotated[
        str, typer.Argument(metavar="TRAINED", help="What training made of it: a folder or a hub name.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", parser=named_path, help="The folder of the study.")],
    name: Annotated[
        str, typer.Option("--as", metavar="RUN", help="What TRAINED is: full-rl, layer-20, or a name of your own.")
    ] = "full-rl",
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="RUN=MODEL",
            help="A further model, repeatable. --layer-20 MODEL means --run layer-20=MODEL.",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Score the models: math, code, FILE.py:CLASS, ...")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", metavar="FILE", help="The items of the task; one file a benchmark.")
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="Without a task: texts to compare the models on, .txt (one a line) or .jsonl; by default built-in.",
        ),
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--scores",
            metavar="RUN=FILE",
            help="Instead of a task: samples_*.jsonl of lm-evaluation-harness, for base and every run; repeatable.",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="The metric of --scores, where there are several.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option("--filter", metavar="NAME", help="The filter of --scores, where there are several.")
    ] = None,
) -> None:
    """Make a study of models that were trained elsewhere: a base, and what training made of it.

    Without a task, the models are compared on texts: weight deltas, spectra, CKA, patching of log-probabilities.

    With --task or --scores there are scores too, and with --layer-N the contribution of single layers.

    Seeds, snapshots, sets of layers and settings of scoring need a recipe with a table [checkpoints]: see the README.

    my-model is the folder that the example of lensrl export writes.

    Example: lensrl import tiny:qwen3 my-model --out runs/mine
    """  # fmt: skip
    models = {name: trained}
    for run, model in _pairs("--run", "MODEL", runs):
        if run in models:
            raise LensrlError(f"two models are {run}: seeds of one run need a recipe, checkpoints.{run}.seed-1 = '...'")
        models[run] = model
    made: dict[str, list[str]] = {}
    for run, file in _pairs("--scores", "FILE", scores):
        made.setdefault(run, []).append(file)
    recipe = lensrl.import_recipe(
        base, models, task=task, test=test or [], texts=texts, scores=made or None, metric=metric, filter=filter
    )
    make_study(recipe, out, None)
    scored = (task is not None or made) and "full-rl" in models and len(models) > 1
    next_ = [f"deltas {out} --run {name}", f"cka {out} --into {name}"]
    note("next: " + ", ".join(f"lensrl {verb}" for verb in [*next_, *([f"contribution {out}"] if scored else [])]))


def _pairs(option: str, kind: str, given: Sequence[str] | None) -> list[tuple[str, str]]:
    """Split every `RUN=MODEL` of `--run`, or `RUN=FILE` of `--scores`."""
    pairs = []
    for text in given or []:
        run, equals, place = text.partition("=")
        if not (run and equals and place):
            raise typer.BadParameter(f"{option} {text}: write {option} RUN={kind}, such as {option} layer-20={kind}")
        pairs.append((run, place))
    return pairs
