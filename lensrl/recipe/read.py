"""Read recipes: TOML in, a validated recipe with absolute paths out. Any mistake becomes one clear line."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lensrl.errors import RecipeError, did_you_mean
from lensrl.recipe.checkpoints import Checkpoint, CheckpointRun, ModelPlace
from lensrl.recipe.evaluation import BenchmarkEvaluation, Evaluation
from lensrl.recipe.rl import Rl
from lensrl.recipe.sets import LayerSet
from lensrl.recipe.settings import Prompt, Recipe, Resources, Store
from lensrl.recipe.task_tables import (
    OWN,
    TASKS,
    CodeTask,
    Columns,
    Dataset,
    HarnessTask,
    MathTask,
    OwnTask,
    Samples,
    Source,
    Task,
    TextsTask,
    kind,
)

Place = TypeVar("Place", bound=ModelPlace)


def load_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe, and make its paths absolute.

    Raises RecipeError with the file, the key and the nearest known key.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}; recipes are TOML files such as runs/tiny.toml") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not a TOML file: {error}") from None
    recipe = parse_recipe(data, str(path))
    for name, layer_set in recipe.sets.items():
        if layer_set.chosen is not None:
            raise RecipeError(f"{path}: sets.{name}.chosen is found by the study: say what to choose, layers = 'top-3'")
    return resolve_recipe(recipe, path.resolve().parent)


def read_kept_recipe(path: Path) -> Recipe:
    """Read the `recipe.json` of a study folder. Raises RecipeError if the file cannot be read."""
    try:
        return parse_kept_recipe(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None


def parse_kept_recipe(data: Any, where: str) -> Recipe:
    """Validate the data of a recipe that a study or a run keeps. Raises RecipeError that names `where` it comes from.

    Versions 0.1 and 0.2 had one way to sample, and their recipes do not name it.
    """
    older = isinstance(data, dict) and "generation" not in data
    return parse_recipe(data | {"generation": "generate"} if older else data, where)


def parse_recipe(data: Any, where: str) -> Recipe:
    """Validate the data of a recipe. Raises RecipeError that names `where` it comes from."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_first_mistake(error, data)}") from None


def _first_mistake(error: ValidationError, data: Any) -> str:
    """Describe the first mistake in the words of the file.

    An unknown key comes before a missing one, because a misspelt key explains the missing key.
    """
    found = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    # pydantic puts the tags of unions into the path: task.train becomes ("task", "math", "train", "path")
    tags = {*TASKS, OWN, "path", Dataset.__name__, "int", "str", "list[int]", "[key]"}

    def place(mistake: ErrorDetails) -> str:
        return ".".join(
            str(p) for p in mistake["loc"] if not (p in tags or str(p).startswith(("constrained-", "literal[")))
        )

    key = place(first)
    # A setting of several types has a mistake for each of them.
    messages = dict.fromkeys(one["msg"].removeprefix("Value error, ") for one in found if place(one) == key)
    key = key.replace("evaluation.benchmarks.", "evaluation.", 1)
    key = re.sub(r"^(checkpoints\..+)\.seeds\.(\d+)", r"\1.seed-\2", key)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{did_you_mean(key, _known_keys(data))}"
    if first["type"] == "union_tag_not_found":
        return f"'{key}.name' is missing"
    if first["type"] == "union_tag_invalid":
        name = first["input"]["name"]
        return f"{key}.name: no task {name!r}{did_you_mean(str(name), TASKS)}, or a file of your own: my_task.py:MyTask"
    if first["type"] == "missing":
        return f"{key!r} is missing"
    given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
    return f"{f'{key}: ' if key else ''}{', or '.join(messages)}{given}"


def _known_keys(data: Any) -> list[str]:
    task = TASKS.get(kind(data.get("task")) or "", OwnTask)
    tables = {"prompt": Prompt, "rl": Rl, "evaluation": Evaluation, "store": Store, "engine": Resources}
    tables |= {"task": task, "task.columns": Columns}
    tables |= {f"rl.{name}": table for name, table in Rl.algorithm_tables().items()}
    evaluation = data.get("evaluation")
    named = (
        {f"evaluation.{name}" for name, table in evaluation.items() if isinstance(table, dict)}
        if isinstance(evaluation, dict)
        else ()
    )
    tables |= dict.fromkeys(named, BenchmarkEvaluation)
    sets = data.get("sets")
    tables |= {f"sets.{name}": LayerSet for name in (sets if isinstance(sets, dict) else ())}
    nested: list[str] = []
    checkpoints = data.get("checkpoints")
    for name in checkpoints if isinstance(checkpoints, dict) else ():
        tables |= {f"checkpoints.{name}": CheckpointRun}
        nested += [f"checkpoints.{name}{seed}.{key}" for key in Checkpoint.model_fields for seed in ("", ".seed-0")]
    nested += [f"{table}.{key}" for table, model in tables.items() for key in model.model_fields]
    return [*Recipe.model_fields, *nested]


def resolve_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """Make the paths of a recipe absolute. They are relative to `folder`.

    A model name that is not a folder here stays as it is: it is a hub name or `tiny:`.
    """
    changes: dict[str, Any] = {
        "task": _resolve_task(recipe.task, folder),
        "also": [also.model_copy(update={"task": _resolve_task(also.task, folder)}) for also in recipe.also],
        "sets": {name: _resolve_set(layer_set, folder) for name, layer_set in recipe.sets.items()},
        "checkpoints": {name: _resolve_run(run, folder) for name, run in recipe.checkpoints.items()},
        "model": _resolve_model(recipe.model, folder),
        "prompt": _resolve_prompt(recipe.prompt, folder),
    }
    return recipe.model_copy(update=changes)


def _resolve_model(model: str, folder: Path) -> str:
    """Make the path of a model's folder absolute: one beside the recipe, or one in the working folder."""
    for path in (folder / model, Path(model)):
        if path.is_dir():
            return str(path.resolve())
    return model


def _resolve_prompt(prompt: Prompt, folder: Path) -> Prompt:
    if prompt.template is None:
        return prompt
    path = (folder / prompt.template.expanduser()).resolve()
    if not path.is_file():
        raise RecipeError(f"prompt.template: there is no file {path}; give a chat template in Jinja, as a text file")
    return prompt.model_copy(update={"template": path})


def _resolve_run(run: CheckpointRun, folder: Path) -> CheckpointRun:
    return run.model_copy(update={"seeds": {seed: _resolve_checkpoint(c, folder) for seed, c in run.seeds.items()}})


def _resolve_checkpoint(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    snapshots = {step: _resolve_place(place, folder) for step, place in checkpoint.snapshots.items()}
    scores = [_resolve_samples(samples, folder) for samples in checkpoint.scores]
    return _resolve_place(checkpoint, folder).model_copy(update={"snapshots": snapshots, "scores": scores})


def _resolve_place(place: Place, folder: Path) -> Place:
    return place.model_copy(update={"model": _resolve_model(str(Path(place.model).expanduser()), folder)})


def _resolve_task(task: Task, folder: Path) -> Task:
    if isinstance(task, MathTask | CodeTask):
        test = {name: _resolve_source(source, folder) for name, source in task.test.items()}
        train = None if task.train is None else _resolve_source(task.train, folder)
        return task.model_copy(update={"train": train, "test": test})
    if isinstance(task, TextsTask) and task.file is not None:
        return task.model_copy(update={"file": (folder / task.file).resolve()})
    if isinstance(task, HarnessTask):
        texts = None if task.texts is None else (folder / task.texts).resolve()
        return task.model_copy(update={"base": [_resolve_samples(s, folder) for s in task.base], "texts": texts})
    if isinstance(task, OwnTask):
        path = (folder / task.path).resolve()
        digest = _sha256("task file", path)
        return task.model_copy(update={"name": f"{path}:{task.class_name}", "sha256": digest})
    return task


def _resolve_samples(samples: Samples, folder: Path) -> Samples:
    path = (folder / samples.file).resolve()
    return samples.model_copy(update={"file": path, "sha256": _sha256("samples", path)})


def _sha256(what: str, path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RecipeError(f"{what} {path} cannot be read: {error.strerror}") from None


def _resolve_set(layer_set: LayerSet, folder: Path) -> LayerSet:
    profile = layer_set.profile
    return layer_set if profile is None else layer_set.model_copy(update={"profile": (folder / profile).resolve()})


def _resolve_source(source: Source, folder: Path) -> Source:
    """Make the path of a file, or of a local data set's folder, absolute. The name of a hub data set stays as it is."""
    if isinstance(source, Dataset):
        local = folder / source.dataset
        return source.model_copy(update={"dataset": str(local.resolve())}) if local.is_dir() else source
    return (folder / source).resolve()
