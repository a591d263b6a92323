"""The recipe of a study whose models were all trained elsewhere, written from their places instead of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lensrl.errors import LensrlError, RecipeError, did_you_mean
from lensrl.recipe.read import parse_recipe, resolve_recipe
from lensrl.recipe.runs import BASE, FULL, run_layer
from lensrl.recipe.settings import Recipe

Place = str | Path
Files = Place | Sequence[Place]  # one for each benchmark


def import_recipe(
    base: Place,
    trained: Place | Mapping[str, Place],
    *,
    task: str | None = None,
    test: Files = (),
    texts: Place | None = None,
    scores: Mapping[str, Files] | None = None,
    metric: str | None = None,
    filter: str | None = None,
) -> Recipe:
    """Return the recipe that compares `base` with `trained`, for `lensrl.run_study`. Nothing is trained.

    `trained` is a folder or a hub name, or a mapping from the names of runs to them: `full-rl`, `layer-20`. A model of
    any other name counts as trained in all of its parameters. One alone is `full-rl`.

    - Without more, the models are compared on texts: a file `texts` (.txt with a text a line, or .jsonl with
      {"text": ...}), or 24 short ones that lensrl brings. There are no scores, and so no C_l. Activations are taken on
      all texts.
    - With `task`, they are scored: `task="math", test="gsm8k-test.jsonl"`. Each file of `test` is a benchmark.
    - With `scores`, they were scored by lm-evaluation-harness: {"base": FILE, "full-rl": FILE, ...}, with `metric` and
      `filter` where the files hold several. Activations are taken on texts.

    Paths are relative to the working folder. Raises LensrlError for settings that do not go together.
    """
    places = trained if isinstance(trained, Mapping) else {FULL: trained}
    made = {} if scores is None else {name: list(map(str, _listed(files))) for name, files in scores.items()}
    # 1. The table of the task.
    if task is not None and (texts is not None or made):
        other = "texts" if texts is not None else "scores"
        raise LensrlError(f"task {task!r} scores the models on its own items: leave out {other}, or leave out the task")
    if task is None and _listed(test):
        raise LensrlError(f"test {_listed(test)[0]} is of no task: say which, --task math or --task code")
    if not made and (metric is not None or filter is not None):
        raise LensrlError(
            "metric and filter are of scores that lm-evaluation-harness made: give scores, or leave them out"
        )
    file = {} if texts is None else {"texts" if made else "file": str(texts)}
    if made:
        _check_names(made, places)
        table = {"name": "harness", "base": made[BASE], "metric": metric, "filter": filter, **file}
    elif task is not None:
        if task in ("math", "code") and not _listed(test):
            raise LensrlError(f"task {task!r} has no items: give a file of them, --test FILE")
        benchmarks: dict[str, str] = {}
        for one in map(str, _listed(test)):
            benchmark = Path(one).name.split(".")[0]
            if benchmark in benchmarks:
                raise LensrlError(f"test {benchmarks[benchmark]} and {one} would both be {benchmark!r}: rename a file")
            benchmarks[benchmark] = one
        table = {"name": task} | ({"test": benchmarks} if benchmarks else {})
    else:
        table = {"name": "texts", **file}
    # 2. One run for each model.
    runs = {}
    for name, place in places.items():
        run = {"model": str(place)} | ({"scores": made[name]} if made else {})
        runs[name] = run if name == FULL or run_layer(name) is not None else run | {"layers": "all"}
    data = {"model": str(base), "task": table, "seeds": [], "layers": [], "checkpoints": runs}
    return resolve_recipe(parse_recipe(data, "import"), Path.cwd())


def _listed(files: Files) -> list[Place]:
    return [files] if isinstance(files, str | Path) else list(files)


def _check_names(scores: Mapping[str, Sequence[str]], trained: Mapping[str, Place]) -> None:
    """Raise LensrlError unless every model has scores, and every scores have a model."""
    known = [BASE, *trained]
    unknown = next((name for name in scores if name not in known), None)
    if unknown is not None:
        raise RecipeError(f"scores of {unknown!r}, which is no model here{did_you_mean(unknown, known)}")
    missing = next((name for name in known if not scores.get(name)), None)
    if missing is not None:
        raise RecipeError(f"no scores of {missing}: add its samples_*.jsonl, --scores {missing}=FILE")
