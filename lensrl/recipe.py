"""The recipe: everything that decides what a study measures, as validated data read from a TOML file.

Paths in a recipe are relative to the recipe's own folder. A study keeps its recipe, resolved, as `recipe.json`.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from lensrl.errors import RecipeError, did_you_mean

Share = Annotated[float, Field(gt=0, le=1)]
Layers = int | str | list[int]  # 3, "0-7", "all", [3, 5]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ArithmeticTask(_Table):
    """Two-digit addition, for the embedded models."""

    name: Literal["arithmetic"]


class MathTask(_Table):
    """Problems with a checkable answer in local JSON Lines files, compared by math-verify.

    A line holds `question` (or `problem`) and `answer` (or `solution`); GSM8K's `#### 42` endings are understood.
    Where both are there, completions are compared with `answer`, and `solution` is the reference text whose
    log-probability is measured. An answer that math-verify cannot read scores 0 for every completion.
    """

    name: Literal["math"]
    train: Path
    test: Annotated[
        dict[str, Path], Field(min_length=1)
    ]  # benchmark name -> file; the score is the mean over benchmarks
    prompt: str = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.\n"

    @model_validator(mode="after")
    def _has_a_question(self) -> MathTask:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        return self


Task = Annotated[ArithmeticTask | MathTask, Field(discriminator="name")]


class Rl(_Table):
    """Reinforcement learning with TRL. Every run of a study gets the same budget and the same data order.

    One step samples `prompts_per_step` x `completions_per_prompt` completions and makes one update with them, so that
    the clipped objective is on-policy. The learning rate is constant: with a schedule, C_l would depend on its shape.

    `algorithm` is `"grpo"` (arXiv 2402.03300) or `"dr_grpo"` (arXiv 2503.20783). Dr. GRPO takes out the two divisions
    of GRPO: of the advantage by the group's std, and of a completion's loss by its own length. It divides the loss of
    every completion by `max_completion_tokens` instead. With rewards in [0, 1] both make gradients smaller, so
    `max_grad_norm` clips less of them.
    """

    algorithm: Literal["grpo", "dr_grpo"] = "grpo"
    steps: PositiveInt = 60
    prompts_per_step: PositiveInt = 8
    completions_per_prompt: Annotated[int, Field(ge=2)] = 8  # a group of one has no advantage
    max_completion_tokens: PositiveInt = 512
    learning_rate: PositiveFloat = 1e-6
    temperature: PositiveFloat = 1.0  # 1: the policy that is sampled is the policy that is trained
    clip: PositiveFloat = 0.2  # epsilon of the clipped objective
    kl_beta: Annotated[float, Field(ge=0)] = 0.0  # weight of the KL term against the base
    max_grad_norm: PositiveFloat = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # off: decay would move weights that the reward does not
    micro_batch: PositiveInt | None = None  # completions per backward pass; None: all of a step at once
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _micro_batches_fill_a_step(self) -> Rl:
        completions = self.prompts_per_step * self.completions_per_prompt
        if self.micro_batch is not None and completions % self.micro_batch:
            raise ValueError(f"micro_batch ({self.micro_batch}) must divide the {completions} completions of a step")
        return self


class Evaluation(_Table):
    """How every run is scored: the same held-out items, `samples` completions each, settings made explicit."""

    items: PositiveInt = 256  # per benchmark, the first ones; fewer where the benchmark is smaller
    samples: PositiveInt = 4
    temperature: Annotated[float, Field(ge=0)] = 1.0  # 0 is greedy decoding
    top_p: Share = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0  # 0: no cut
    max_completion_tokens: PositiveInt | None = None  # None: as in training
    batch: PositiveInt = 128  # completions generated at once: their keys and values stand in memory
    seed: int = 0  # of the sampler, the same for every run


class Store(_Table):
    """What a run file keeps beside scores, curves and deltas."""

    probe_items: PositiveInt = 32  # held-out items whose prompt and reference make the probe set
    snapshots: list[Share] = []  # shares of the budget after which the deltas are kept: [0.25, 0.5, 1.0]
    compression: Literal["none", "blosc2-zstd"] = "none"  # of deltas and activations; reading then needs hdf5plugin


class Recipe(_Table):
    """One study. `model` is `tiny:qwen3`, a local folder, or a Hugging Face name.

    `layers` names the single-layer runs (`"all"`, `"0-7"`, `[3, 5]`); `sets` names further runs that train several
    layers together.
    """

    model: Annotated[str, Field(min_length=1)]
    task: Task
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    layers: Layers = "all"
    sets: dict[str, Layers] = {}
    rl: Rl = Rl()
    evaluation: Evaluation = Evaluation()
    store: Store = Store()

    @model_validator(mode="after")
    def _each_seed_once(self) -> Recipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} name a seed twice")
        return self

    @property
    def evaluation_tokens(self) -> int:
        return self.evaluation.max_completion_tokens or self.rl.max_completion_tokens

    @property
    def snapshot_steps(self) -> list[int]:
        """The steps after which the deltas are kept."""
        return sorted({max(1, round(share * self.rl.steps)) for share in self.store.snapshots})

    def conflict(self, other: Recipe) -> str | None:
        """The first setting in which two recipes measure different things, or None.

        Which runs to make (`seeds`, `layers`, `sets`) is not compared, so that a study can be extended.
        """
        mine, theirs = (_flatten(r.model_dump(mode="json", exclude={"seeds", "layers", "sets"})) for r in (self, other))
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                return f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here"
        return None


def load_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe. Raises RecipeError with the file, the key and the nearest known key."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}; recipes are TOML files such as runs/tiny.toml") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not a TOML file: {error}") from None
    recipe = _validate(data, str(path))
    return _resolve(recipe, path.resolve().parent)


def read_kept_recipe(path: Path) -> Recipe:
    """The `recipe.json` of a study folder."""
    try:
        return _validate(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None


def _validate(data: Any, where: str) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic puts the tag of a union into the path: ("task", "math", "train") for what was typed as task.train
        key = ".".join(str(part) for part in first["loc"] if part not in ("arithmetic", "math"))
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"{where}: unknown key {key!r}{did_you_mean(key, _known_keys())}") from None
        if first["type"] == "union_tag_not_found":
            raise RecipeError(f"{where}: '{key}.name' is missing") from None
        if first["type"] == "missing":
            raise RecipeError(f"{where}: {key!r} is missing") from None
        given = "" if isinstance(first["input"], dict) else f" (given: {first['input']!r})"
        raise RecipeError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{given}") from None


def _known_keys() -> list[str]:
    tables = {
        "rl": Rl,
        "evaluation": Evaluation,
        "store": Store,
        "task": MathTask,
    }
    nested = [f"{table}.{key}" for table, model in tables.items() for key in model.model_fields]
    return [*Recipe.model_fields, *nested]


def _resolve(recipe: Recipe, folder: Path) -> Recipe:
    """Make the paths absolute. A model that names no folder here is left as it is: a hub name or `tiny:`."""
    changes: dict[str, Any] = {}
    if (folder / recipe.model).is_dir():
        changes["model"] = str((folder / recipe.model).resolve())
    elif Path(recipe.model).is_dir():
        changes["model"] = str(Path(recipe.model).resolve())
    if isinstance(recipe.task, MathTask):
        test = {name: (folder / path).resolve() for name, path in recipe.task.test.items()}
        changes["task"] = recipe.task.model_copy(update={"train": (folder / recipe.task.train).resolve(), "test": test})
    return recipe.model_copy(update=changes)


def _flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    return {k: v for key, value in data.items() for k, v in _flatten(value, f"{prefix}.{key}".lstrip(".")).items()}
