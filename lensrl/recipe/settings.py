"""The settings of a study other than its task: base model, runs, RL, scoring, storage.

Each class is one table of the recipe file, each field one setting: its type, default, unit and meaning. A setting
without a default is required. The settings of a task are in `lensrl.recipe.task_tables`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from lensrl.recipe.checkpoints import CheckpointRun
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

    `frozen_dtype` is the type in which frozen weights are stored while RL trains a part of the model. `"bfloat16"`
    takes 2 bytes a weight instead of 4, and computes in bf16 on every device, full RL included. It needs a base whose
    matrices are bf16 numbers, so that nothing is rounded. None means bfloat16 on a GPU with such a base, else float32.

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
    rollout_batch: PositiveInt | None = None  # completions (or episodes) sampled at once; None: all of a step at once
    gradient_checkpointing: bool = False
    frozen_dtype: Literal["float32", "bfloat16"] | None = None  # of frozen weights; None: by device and base, see above

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
    """Table `[evaluation]`: how every run is scored.

    All runs are scored on the same held-out items with the same sampling settings. The sampling defaults of the model
    are not used.
    """

    items: PositiveInt = 256  # items per benchmark: the first ones, or all if the benchmark is smaller
    samples: PositiveInt = 4  # completions (in a task in turns: episodes) per item
    temperature: Annotated[float, Field(ge=0)] = 1.0  # of sampling; 0 is greedy decoding
    top_p: Share = 1.0  # nucleus sampling: probability mass to sample from; 1: no cut
    top_k: Annotated[int, Field(ge=0)] = 0  # number of most probable tokens to sample from; 0: no cut
    max_completion_tokens: PositiveInt | None = None  # of an answer, or of each turn; None: rl.max_completion_tokens
    batch: PositiveInt = 128  # completions generated at once; their keys and values are held in memory
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0  # of the sampler, the same for every run


class Store(Table):
    """Table `[store]`: what a run file keeps beside scores, curves and deltas."""

    probe_items: PositiveInt = 32  # number of held-out items whose prompts and references form the probe set
    snapshots: list[Share] = []  # shares of rl.steps after which deltas are also kept: [0.25, 0.5, 1.0]
    compression: Literal["none", "blosc2-zstd"] = "none"  # of deltas and activations; blosc2-zstd needs hdf5plugin


class Recipe(Table):
    """The top level of a recipe file: one study.

    `model` is `tiny:qwen3`, `tiny:qwen2.5`, a local folder, or a Hugging Face name.

    `task` is a table, or only the name if the task needs no settings: `task = "arithmetic"`.

    `layers` names the single-layer runs. `sets` names further runs that train several layers together: a table whose
    values are layers or `LayerSet`s, or a list of words that are their own names (`["mid-3", "random-3"]`).

    `learning_rates` are further rates beside `rl.learning_rate`. Full RL and the single layers are trained at each of
    them too, so that no layer looks weak only because the one rate does not suit it.

    `generation` says how completions are sampled, in training, in scoring and in patching (`lensrl.models.sampler`):

    - `"pieces"`: sixteen tokens at a time. Rows that have ended are left out, and each row has its own random numbers.
    - `"generate"`: every row to the end of the longest one, with torch's generator. Studies of lensrl 0.1 and 0.2 were
      made in this way. A recipe goes on with such a study if it says so.

    `checkpoints` names runs that were trained elsewhere: `full-rl`, `layer-20`, or a name of their own. A run that is
    named there is never trained here. It has the seeds of its checkpoints, whatever `seeds` says.
    """

    model: Annotated[str, Field(min_length=1)]  # required: the base model
    task: Task  # required: the table of a task, see lensrl.recipe.task_tables
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [0]  # one training run each
    layers: Layers = "all"  # single-layer runs: "all", "0-7", [3, 5]
    sets: dict[str, LayerSet] = {}  # further runs, by name, that train several layers together
    learning_rates: list[PositiveFloat] = []  # further rates for full RL and the single layers
    generation: Literal["pieces", "generate"] = "pieces"  # how completions are sampled, in every run of the study
    checkpoints: dict[str, CheckpointRun] = {}  # table [checkpoints]: runs that were trained elsewhere, by name
    rl: Rl = Rl()  # table [rl]: training
    evaluation: Evaluation = Evaluation()  # table [evaluation]: scoring
    store: Store = Store()  # table [store]: contents of run files

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
        _refuse_duplicates("set", sets)
        return {word: word for word in sets}

    @model_validator(mode="after")
    def _seeds_and_rates_once(self) -> Recipe:
        _refuse_duplicates("seed", self.seeds)
        _refuse_duplicates("learning rate", [self.rl.learning_rate, *self.learning_rates])
        return self

    @property
    def evaluation_tokens(self) -> int:
        """The most tokens of a completion (or of a turn) in scoring."""
        return self.evaluation.max_completion_tokens or self.rl.max_completion_tokens

    @property
    def snapshot_steps(self) -> list[int]:
        """The training steps after which the deltas are kept, sorted."""
        return sorted({max(1, round(share * self.rl.steps)) for share in self.store.snapshots})

    def conflict(self, other: Recipe) -> str | None:
        """Describe the first setting in which two recipes measure different things; None if there is no such setting.

        The settings that choose runs (`seeds`, `layers`, `sets`, `learning_rates`, `checkpoints`) are not compared: a
        study can be extended. Each run that exists is compared with its own checkpoint (`lensrl.train.job.is_made`).
        """
        runs = {"seeds", "layers", "sets", "learning_rates", "checkpoints"}
        mine, theirs = (_flatten(r.model_dump(mode="json", exclude=runs)) for r in (self, other))
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                return f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here"
        return None


def _refuse_duplicates(what: str, values: list[Any]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{what}s {values} name a {what} twice")


def _flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    return {k: v for key, value in data.items() for k, v in _flatten(value, f"{prefix}.{key}".lstrip(".")).items()}
