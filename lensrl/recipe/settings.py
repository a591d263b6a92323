"""The settings of a study other than its task, its scoring and its RL: base model, runs, storage.

Each class is one table of the recipe file, each field one setting: its type, default, unit and meaning. A setting
without a default is required. Those of a task are in `lensrl.recipe.task_tables`, those of scoring in
`lensrl.recipe.evaluation`, those of RL in `lensrl.recipe.rl`.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from lensrl.recipe.checkpoints import CheckpointRun
from lensrl.recipe.evaluation import Also, Evaluation
from lensrl.recipe.rl import Rl
from lensrl.recipe.sets import Layers, LayerSet
from lensrl.recipe.table import Share, Table
from lensrl.recipe.task_tables import CodeTask, HarnessTask, MathTask, Task, has_training


def _whole_above_one(amount: float) -> float:
    if amount > 1 and amount != round(amount):
        raise ValueError("above 1 it must be a whole number; a share of one is below 1")
    return amount


Amount = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]


class Prompt(Table):
    """Table `[prompt]`: how the prompt of an item becomes the text that the model reads, in training and in scoring.

    Without `chat`, the model reads the prompt as it is. With `chat`, it reads the prompt as a user's message, through
    the chat template of its tokenizer. In a task in turns, observations are user messages as well. See
    `lensrl.models.prompts`.
    """

    chat: bool = False  # true: through a chat template, as models that follow instructions were trained
    system: str | None = None  # text of a system message; None: the template decides
    assistant_prefix: str = ""  # the beginning of every answer, written for the model: "<think>\n"
    template: Path | None = None  # a Jinja file, relative to the recipe; None: the template of the tokenizer

    @model_validator(mode="after")
    def _only_in_a_chat(self) -> Prompt:
        given = [name for name in ("system", "assistant_prefix", "template") if getattr(self, name)]
        if given and not self.chat:
            raise ValueError(f"{given[0]} is for a chat template, and prompts are plain text here; write chat = true")
        return self


class Store(Table):
    """Table `[store]`: what a run file keeps beside scores, completions of scoring and curves.

    `keep` says what is kept of the model: `"all"`, `"deltas"` without activations, or `"norms"`, the norms of deltas
    without deltas and activations. Analyses that need what is left out say so in a line. Patching with weights, export
    and spectra need deltas, and CKA needs activations. C_l and the claims of the verdict on norms need neither.
    """

    keep: Literal["all", "deltas", "norms"] = "all"  # deltas: no activations; norms: neither, and norms of deltas alone
    probe_items: PositiveInt = 32  # number of held-out items whose prompts and references form the probe set
    training_completions: Annotated[int, Field(ge=0)] = 4  # kept of each of 20 training steps, spaced evenly
    snapshots: list[Share] = []  # shares of all steps after which deltas are also kept: [0.25, 0.5, 1.0]
    compression: Literal["none", "blosc2-zstd"] = "none"  # of deltas and activations; blosc2-zstd needs hdf5plugin


class Resources(Table):
    """Table `[engine]`: what a worker of a cluster gets (`lensrl.train.on_ray`), and a run on several devices.

    It is no part of a study: the folder of the study does not keep it, and it may change between two commands.
    """

    num_cpus: Amount = 1.0  # CPUs of a worker; where it computes on the CPU, also its threads
    num_gpus: Amount | None = None  # GPUs of a worker; 0.5: two workers share one; None: 1 where the cluster has GPUs
    shard: bool = False  # true: the devices of one run share its weights out (`lensrl.models.shards`)


class Recipe(Table):
    """The top level of a recipe file: one study.

    `model` is `tiny:qwen3`, `tiny:qwen2.5`, `tiny:qwen3-deep`, a local folder, or a Hugging Face name.

    `task` is a table, or only the name if the task needs no settings: `task = "arithmetic"`.

    `layers` names the single-layer runs. `sets` names further runs that train several layers together: a table whose
    values are layers or `LayerSet`s, or a list of words that are their own names (`["mid-3", "random-3"]`). In such a
    list, `"pairs:3,7,9"` stands for the sets `pair-3-7`, `pair-3-9` and `pair-7-9`.

    `learning_rates` are further rates beside `rl.learning_rate`. Full RL and the single layers are trained at each of
    them too, so that no layer looks weak only because the one rate does not suit it.

    `generation` says how completions are sampled, in training, in scoring and in patching (`lensrl.models.sampler`):

    - `"pieces"`: sixteen tokens at a time. Rows that have ended are left out, and each row has its own random numbers.
    - `"vllm"`: with vLLM, on one GPU (`lensrl.models.vllm_sampler`, which says what of it has run). It keeps a copy of
      the weights in bf16, and takes the trained ones before each step. Each completion has a seed of its own.
    - `"generate"`: every row to the end of the longest one, with torch's generator. Studies of lensrl 0.1 and 0.2 were
      made in this way. A recipe goes on with such a study if it says so.

    `also` names further tasks on which every run is scored, for example code beside mathematics.

    Every reference of the held-out items is judged by its own task when a study begins (`check_references`). Where
    full RL has gained nothing, the command line stops before the single layers are trained (`on_no_gain`,
    `lensrl.train.no_gain`). Both are no part of a study.

    `report_to` shows training curves in TensorBoard, wandb or trackio while they grow (`lensrl.train.trackers`). It is
    no part of a study, as `engine` is none.

    `checkpoints` names runs that were trained elsewhere: `full-rl`, `layer-20`, or a name of their own. A run that is
    named there is never trained here. It has the seeds of its checkpoints, whatever `seeds` says.

    A task without training items (`task.train` left out, the tasks `texts` and `harness`) trains nothing: `layers` is
    then empty, and all runs are `checkpoints`. Full RL need not be among them.
    """

    model: Annotated[str, Field(min_length=1)]  # required: the base model
    task: Task  # required: the table of a task, see lensrl.recipe.task_tables
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = [0]  # one training run each; []: nothing is trained
    layers: Layers = "all"  # single-layer runs: "all", "0-7", [3, 5]
    sets: dict[str, LayerSet] = {}  # further runs, by name, that train several layers together
    learning_rates: list[PositiveFloat] = []  # further rates for full RL and the single layers
    generation: Literal["pieces", "vllm", "generate"] = (
        "pieces"  # how completions are sampled, in every run of the study
    )
    checkpoints: dict[str, CheckpointRun] = {}  # table [checkpoints]: runs that were trained elsewhere, by name
    also: list[Also] = []  # tables [[also]]: further tasks, scored beside
    prompt: Prompt = Prompt()  # table [prompt]: plain text, or a chat template
    rl: Rl = Rl()  # table [rl]: training
    evaluation: Evaluation = Evaluation()  # table [evaluation]: scoring
    store: Store = Store()  # table [store]: contents of run files
    check_references: bool = Field(default=True, exclude=True)  # false: go on where over 5 % fail their own judge
    on_no_gain: Literal["stop", "go on"] = Field(
        default="stop", exclude=True
    )  # before single layers, if full RL gained nothing
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], exclude=True
    )  # followed there; not kept
    engine: Resources = Field(default=Resources(), exclude=True)  # table [engine]: a worker of a cluster; not kept

    @model_validator(mode="before")
    @classmethod
    def _no_layers_without_training(cls, given: Any) -> Any:
        idle = isinstance(given, dict) and "layers" not in given and not has_training(given.get("task"))
        return given | {"layers": []} if idle else given

    @field_validator("task", mode="before")
    @classmethod
    def _task_by_name(cls, task: Any) -> Any:
        return {"name": task} if isinstance(task, str) else task

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_tracker(cls, given: Any) -> Any:
        return ([] if given == "none" else [given]) if isinstance(given, str) else given

    @field_validator("sets", mode="before")
    @classmethod
    def _sets_by_words(cls, sets: Any) -> Any:
        if not isinstance(sets, list):
            return sets
        if not all(isinstance(word, str) for word in sets):
            raise ValueError("a list of sets holds words such as 'mid-3'; sets of other layers need names: a table")
        found = [pair for word in sets for pair in _expand_pairs(word)]
        _refuse_duplicates("set", [name for name, _ in found])
        return dict(found)

    @model_validator(mode="after")
    def _seeds_and_rates_once(self) -> Recipe:
        _refuse_duplicates("seed", self.seeds)
        _refuse_duplicates("learning rate", [self.rl.learning_rate, *self.learning_rates])
        return self

    @model_validator(mode="after")
    def _copies_what_lensrl_samples(self) -> Recipe:
        if self.rl.sampler_dtype is not None and self.rl.algorithm == "sft":
            raise ValueError("rl.sampler_dtype is for training that samples, and algorithm = 'sft' does not")
        if self.rl.sampler_dtype == "bfloat16" and self.generation != "pieces":
            raise ValueError(
                f"rl.sampler_dtype = 'bfloat16' is for generation = 'pieces', and this is {self.generation!r}"
            )
        return self

    @model_validator(mode="after")
    def _keeps_what_it_compares(self) -> Recipe:
        keep = self.store.keep
        if keep != "all" and self.task.name == "texts":
            raise ValueError(
                f"store.keep = {keep!r}: a study of task 'texts' is there for its activations; leave it out"
            )
        followed = self.store.snapshots or any(c.snapshots for r in self.checkpoints.values() for c in r.seeds.values())
        if keep == "norms" and followed:
            raise ValueError("store.keep = 'norms' leaves out the deltas that snapshots keep: leave one of them out")
        return self

    @model_validator(mode="after")
    def _has_what_its_task_needs(self) -> Recipe:
        if not self.seeds and not self.checkpoints:
            raise ValueError("seeds = [] trains nothing: give a seed, or name trained models under [checkpoints]")
        if not has_training(self.task):
            why = f"task {self.task.name!r} has no training items: "
            why += "give task.train, or " if isinstance(self.task, MathTask | CodeTask) else ""
            if self.layers != [] or self.sets or self.learning_rates:
                raise ValueError(f"{why}train nothing, layers = [] without sets and learning_rates")
            if not self.checkpoints:
                raise ValueError(f"{why}name trained models, checkpoints.full-rl = 'FOLDER'")
        if self.also and self.task.name in ("texts", "harness"):
            raise ValueError(f"also: a study of task {self.task.name!r} samples no scores; leave also out")
        harness = isinstance(self.task, HarnessTask)
        for name, checkpoint in ((n, c) for n, run in self.checkpoints.items() for c in run.seeds.values()):
            if harness and not checkpoint.scores:
                raise ValueError(
                    f"checkpoints.{name} has no scores, and task 'harness' samples none: "
                    f"{{ model = '...', scores = 'samples.jsonl' }}"
                )
            if checkpoint.scores and not harness:
                raise ValueError(f"checkpoints.{name}.scores is for task 'harness'; this task samples its own scores")
        return self

    def evaluation_tokens(self, benchmark: str) -> int:
        """Return the most tokens of a completion (or of a turn) in scoring on a benchmark."""
        return self.evaluation.of(benchmark).max_completion_tokens or self.rl.max_completion_tokens

    def snapshot_steps(self, steps: int) -> list[int]:
        """Return the training steps after which the deltas are kept, sorted, of a run with `steps` steps."""
        return sorted({max(1, round(share * steps)) for share in self.store.snapshots})

    def completion_steps(self, steps: int) -> list[int]:
        """Return the training steps of which completions are kept, sorted: 20 of `steps`, spaced evenly."""
        most = min(20, steps) if self.store.training_completions else 0
        return sorted({1 + round(i * (steps - 1) / max(1, most - 1)) for i in range(most)})

    def measured(self) -> dict[str, Any]:
        """Return the settings that decide what a run measures, as JSON by their full names (`rl.kl_beta`).

        The settings that choose runs (`seeds`, `layers`, `sets`, `learning_rates`, `checkpoints`) are left out: a study
        can be extended. So are `rl.checkpoint_every`, `store.training_completions` and `store.keep`, which no result
        depends on.
        """
        runs = ("seeds", "layers", "sets", "learning_rates", "checkpoints")
        exclude: dict[str, Any] = dict.fromkeys(runs, True)
        exclude |= {"rl": {"checkpoint_every"}, "store": {"training_completions", "keep"}}
        return _flatten(self.model_dump(mode="json", exclude=exclude))

    def conflict(self, other: Recipe) -> str | None:
        """Describe the first setting in which two recipes measure different things; None if there is no such setting.

        Each run that exists is compared with its own checkpoint (`lensrl.train.job.is_made`).
        """
        mine, theirs = self.measured(), other.measured()
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                return f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here"
        return None


def _expand_pairs(word: str) -> list[tuple[str, Any]]:
    """Return the sets of a word of a list, by name: the word itself, or the pairs of `pairs:3,7,9`."""
    kind, colon, layers = word.partition(":")
    if not colon:
        return [(word, word)]
    numbers = [number.strip() for number in layers.split(",")]
    if kind != "pairs" or len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{word!r} names no pairs: write at least two layers, 'pairs:3,7'")
    pairs = combinations(sorted(map(int, numbers)), 2)
    return [(f"pair-{one}-{other}", [one, other]) for one, other in pairs]


def _refuse_duplicates(what: str, values: list[Any]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{what}s {values} name a {what} twice")


def _flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    return {k: v for key, value in data.items() for k, v in _flatten(value, f"{prefix}.{key}".lstrip(".")).items()}
