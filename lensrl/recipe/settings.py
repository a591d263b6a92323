"""The settings of a study other than its task: the base, the runs, the RL, the scoring, what is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from lensrl.recipe.sets import Layers, LayerSet
from lensrl.recipe.table import Share, Table
from lensrl.recipe.task_tables import Task


class Gigpo(Table):
    """The settings of `algorithm = "gigpo"`: the arguments of `lensrl.train.advantages.gigpo_advantages`."""

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95  # discount of the rewards that follow a step
    step_weight: Annotated[float, Field(ge=0)] = 1.0  # of the step's advantage beside the episode's; 0: episodes alone
    normalise: Literal["mean", "mean_std"] = "mean"
    baseline: Literal["trajectories", "steps"] = "trajectories"


class Rl(Table):
    """Reinforcement learning with TRL. Every run of a study gets the same budget and the same data order.

    One step samples `prompts_per_step` x `completions_per_prompt` completions and makes one update with them, so the
    clipped objective is on-policy. The learning rate is constant: with a schedule, C_l would depend on its shape.

    `algorithm` is one of

    - `"grpo"`: arXiv 2402.03300.
    - `"dr_grpo"`: arXiv 2503.20783. GRPO without the division by the group's std and by a completion's length.
    - `"rloo"`: arXiv 2402.14740. REINFORCE on whole completions, with the mean of the group's others as the baseline.
    - `"gigpo"`: arXiv 2505.10978, for tasks in turns only.

    `lensrl.train.algorithms` gives their objectives. GRPO divides the loss of a completion by its length, Dr. GRPO by
    `max_completion_tokens`, and RLOO by nothing. This matters to `max_grad_norm`. With rewards in [0, 1], Dr. GRPO has
    smaller gradients than GRPO, so fewer are clipped. RLOO's gradients grow with the completions, so more are clipped.

    A table with the name of an algorithm (`rl.gigpo`) holds settings of this algorithm alone.
    """

    algorithm: Literal["grpo", "dr_grpo", "gigpo", "rloo"] = "grpo"
    gigpo: Gigpo = Gigpo()
    steps: PositiveInt = 60
    prompts_per_step: PositiveInt = 8
    completions_per_prompt: Annotated[int, Field(ge=2)] = 8  # a group of one has no advantage
    max_completion_tokens: PositiveInt = 512  # of an answer; in a task in turns, of each turn
    learning_rate: PositiveFloat = 1e-6
    temperature: PositiveFloat = 1.0  # 1: the policy that is sampled is the policy that is trained
    clip: PositiveFloat = 0.2  # epsilon of the clipped objective
    kl_beta: Annotated[float, Field(ge=0)] = 0.0  # weight of the KL term against the base
    max_grad_norm: PositiveFloat = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # off: decay would move weights that the reward does not
    micro_batch: PositiveInt | None = None  # completions per backward pass; None: all of a step at once
    gradient_checkpointing: bool = False

    @classmethod
    def algorithm_tables(cls) -> dict[str, type[Table]]:
        """Return the table of each algorithm that has settings of its own, by the algorithm's name."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Table)}

    @property
    def algorithm_settings(self) -> dict[str, Any]:
        """Return the values of the chosen algorithm's own table; empty where it has no table."""
        return getattr(self, self.algorithm).model_dump() if self.algorithm in self.algorithm_tables() else {}

    @model_validator(mode="after")
    def _tables_are_used(self) -> Rl:
        for name, kind in self.algorithm_tables().items():
            if name != self.algorithm and getattr(self, name) != kind():
                raise ValueError(f"the table {name} is for algorithm = {name!r}, and this is {self.algorithm!r}")
        return self

    @model_validator(mode="after")
    def _micro_batches_fill_a_step(self) -> Rl:
        completions = self.prompts_per_step * self.completions_per_prompt
        if self.micro_batch is not None and completions % self.micro_batch:
            raise ValueError(f"micro_batch ({self.micro_batch}) must divide the {completions} completions of a step")
        return self


class Evaluation(Table):
    """How every run is scored: the same held-out items, `samples` completions each, settings made explicit."""

    items: PositiveInt = 256  # per benchmark, the first ones; fewer where the benchmark is smaller
    samples: PositiveInt = 4
    temperature: Annotated[float, Field(ge=0)] = 1.0  # 0 is greedy decoding
    top_p: Share = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0  # 0: no cut
    max_completion_tokens: PositiveInt | None = None  # None: as in training
    batch: PositiveInt = 128  # completions generated at once: their keys and values stand in memory
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0  # of the sampler, the same for every run


class Store(Table):
    """What a run file keeps beside scores, curves and deltas."""

    probe_items: PositiveInt = 32  # held-out items whose prompt and reference make the probe set
    snapshots: list[Share] = []  # shares of the budget after which the deltas are kept: [0.25, 0.5, 1.0]
    compression: Literal["none", "blosc2-zstd"] = "none"  # of deltas and activations; reading then needs hdf5plugin


class Recipe(Table):
    """One study. `model` is `tiny:qwen3`, `tiny:qwen2.5`, a local folder, or a Hugging Face name.

    `task` is a table, or the name alone where a task needs no settings: `task = "arithmetic"`.

    `layers` names the single-layer runs (`"all"`, `"0-7"`, `[3, 5]`); `sets` names further runs that train several
    layers together: a table of layers or of `LayerSet`s, or a list of words that are their own names
    (`["mid-3", "random-3"]`). `learning_rates` are further rates, beside `rl.learning_rate`, at which full RL and the
    single layers are trained as well, so that no layer looks bad for want of a rate that suits it.
    """

    model: Annotated[str, Field(min_length=1)]
    task: Task
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [0]
    layers: Layers = "all"
    sets: dict[str, LayerSet] = {}
    learning_rates: list[PositiveFloat] = []
    rl: Rl = Rl()
    evaluation: Evaluation = Evaluation()
    store: Store = Store()

    @field_validator("task", mode="before")
    @classmethod
    def _task_by_name(cls, task: Any) -> Any:
        return {"name": task} if isinstance(task, str) else task

    @field_validator("sets", mode="before")
    @classmethod
    def _sets_by_words(cls, sets: Any) -> Any:
        if not isinstance(sets, list):
            return sets
        if not all(isinstance(word, str) for word in sets):
            raise ValueError("a list of sets holds words such as 'mid-3'; sets of other layers need names: a table")
        _each_once("set", sets)
        return {word: word for word in sets}

    @model_validator(mode="after")
    def _nothing_twice(self) -> Recipe:
        _each_once("seed", self.seeds)
        _each_once("learning rate", [self.rl.learning_rate, *self.learning_rates])
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

        Which runs to make (`seeds`, `layers`, `sets`, `learning_rates`) is not compared: a study can be extended.
        """
        runs = {"seeds", "layers", "sets", "learning_rates"}
        mine, theirs = (_flatten(r.model_dump(mode="json", exclude=runs)) for r in (self, other))
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                return f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here"
        return None


def _each_once(what: str, values: list[Any]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{what}s {values} name a {what} twice")


def _flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    return {k: v for key, value in data.items() for k, v in _flatten(value, f"{prefix}.{key}".lstrip(".")).items()}
