"""The settings of tasks: one table per task. The tasks themselves are in `lensrl.tasks`.

Each class is a form of the table `[task]`, chosen by its `name`. Each field is one setting: its type, default, unit and
meaning. A setting without a default is required.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from lensrl.recipe.table import Table


class Dataset(Table):
    """A data set of the Hugging Face hub, or of a local folder, as `datasets` loads it."""

    dataset: Annotated[str, Field(min_length=1)]  # required: "openai/gsm8k", or a folder of Parquet or JSON files
    split: str  # required: "train", "test", ...
    config: str | None = None  # configuration of the data set; None: its default
    revision: str | None = None  # commit, tag or branch of the hub's repository; None: the newest


Source = Annotated[  # a .jsonl, .jsonl.gz or .parquet file, or a table {dataset, split, config, revision}
    Annotated[Path, Tag("path")] | Annotated[Dataset, Tag("Dataset")],
    Discriminator(lambda given: "Dataset" if isinstance(given, dict | Dataset) else "path"),
]


def _none_is_train(benchmarks: dict[str, Source]) -> dict[str, Source]:
    if "train" in benchmarks:
        raise ValueError("a benchmark cannot be named train: its items would have the training items' names")
    return benchmarks


# Benchmark name -> source of its items. The score is the mean over benchmarks.
Benchmarks = Annotated[dict[str, Source], Field(min_length=1), AfterValidator(_none_is_train)]


class ArithmeticTask(Table):
    """`name = "arithmetic"`: two-digit addition, for the embedded models."""

    name: Literal["arithmetic"]


class ExpressionTask(Table):
    """`name = "expression"`: write the Python expression that fits three examples, for the embedded models.

    `1:5 4:11 7:17 x:` is answered by `2*x+3`.
    """

    name: Literal["expression"]


class CorridorTask(Table):
    """`name = "corridor"`: fetch the key and open the door of a text corridor, in turns, for the embedded models."""

    name: Literal["corridor"]
    max_turns: PositiveInt = 12  # turns of the model in an episode
    invalid_penalty: Annotated[float, Field(ge=0)] = 0.1  # subtracted from the reward for each impossible move


FieldPath = Annotated[str, Field(min_length=1)]


class Columns(Table):
    """The fields of a problem in a row, by name or path: `answer`, `reward_model.ground_truth`, `prompt.1.content`.

    A field that is not named here has one of the names that `lensrl.tasks.math` lists.
    """

    question: FieldPath | None = None
    answer: FieldPath | None = None  # compared with completions
    solution: FieldPath | None = None  # reference text; None where `answer` is named: the answer


class MathTask(Table):
    """`name = "math"`: problems with a checkable answer.

    A row holds `question` (or `problem`) and `answer` (or `solution`). GSM8K's endings `#### 42` are understood, and
    rows as TRL, verl and OlympiadBench write them (`lensrl.tasks.math`). If a row holds both `answer` and `solution`,
    completions are compared with `answer`, and `solution` is the reference text whose log-probability is measured.
    `tasks/answers/ANSWERS.md` lists which answers are the same.
    """

    name: Literal["math"]
    train: Source | None = None  # training items; None: nothing is trained, all runs are checkpoints
    test: Benchmarks  # required: held-out items, a table of one source per benchmark
    columns: Columns = Columns()  # fields of other rows: { question = "problem", answer = "reward_model.ground_truth" }
    # The text given to the model, with the question of a row in place of {question}.
    prompt: str = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.\n"

    @model_validator(mode="after")
    def _has_a_question(self) -> MathTask:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        return self


class CodeTask(Table):
    """`name = "code"`: Python functions checked by unit tests in a sandbox. Rows have HumanEval's or MBPP's format.

    HumanEval's rows hold `prompt`, `entry_point`, `test` and `canonical_solution`. MBPP's rows hold `text` (or
    `prompt`), `test_list` and `code`; a `test` beside them, as in MBPP+, must pass too.

    HumanEval+ and MBPP+ need `packages = ["numpy"]`.
    """

    name: Literal["code"]
    train: Source | None = None  # training items; None: nothing is trained, all runs are checkpoints
    test: Benchmarks  # required: held-out items, a table of one source per benchmark
    timeout: PositiveFloat = 3.0  # seconds of processor time for one program; ten times as many of wall clock
    memory: PositiveInt = 512  # MiB of address space for one program, beside what its packages take
    # Installed packages that programs may import, read-only, by the names under which they are imported. Packages that
    # these import in turn must be named too.
    packages: list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] = []


class TextWorldTask(Table):
    """`name = "textworld"`: TextWorld games made on this machine, a quest in a few rooms.

    Needs `pip install lensrl[agentic]`.
    """

    name: Literal["textworld"]
    train_games: PositiveInt = 100  # number of training games
    test_games: PositiveInt = 50  # number of held-out games
    rooms: PositiveInt = 2  # rooms of a game
    objects: PositiveInt = 4  # objects of a game
    quest_length: PositiveInt = 2  # commands of the quest
    seed: Annotated[int, Field(ge=0)] = 0  # of the games
    max_turns: PositiveInt = 12  # turns of the model in an episode
    invalid_penalty: Annotated[float, Field(ge=0)] = 0.1  # subtracted from the reward for each impossible command


class GymTask(Table):
    """`name = "gym"`: a data set of reasoning-gym, judged by its own verifier. Needs `pip install lensrl[gym]`."""

    name: Literal["gym"]
    dataset: str  # required: "chain_sum", "leg_counting", ...
    options: dict[str, Any] = {}  # of the data set: { min_terms = 2, max_digits = 3 }
    train_items: PositiveInt = 1000  # number of training items, before repeated questions are left out
    test_items: PositiveInt = 256  # number of held-out items
    seed: Annotated[int, Field(ge=0)] = 0  # of the data set's generator
    prompt: str = "{question}\n"  # text given to the model, with the question in place of {question}

    @model_validator(mode="after")
    def _has_a_question(self) -> GymTask:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        return self


class TextsTask(Table):
    """`name = "texts"`: models are compared on texts. Nothing is sampled and nothing is scored, so there is no C_l.

    Every run is a checkpoint. The texts are the items: runs keep their activations and the log-probability of the first
    `evaluation.items` texts, whatever `store.probe_items` says.
    """

    name: Literal["texts"]
    file: Path | None = (
        None  # .txt with a text a line, or .jsonl with {"text": ...}; None: `lensrl.tasks.texts.BUILT_IN`
    )


class Samples(Table):
    """A file `samples_*.jsonl` of lm-evaluation-harness: the results of one model. A string is its path."""

    file: Path  # required
    sha256: str = ""  # never written by hand: hash of the file, so that a study notices changes

    @model_validator(mode="before")
    @classmethod
    def _by_file_alone(cls, given: Any) -> Any:
        return {"file": given} if isinstance(given, str | Path) else given

    @property
    def spelled(self) -> str:
        """The file and the start of its hash, in one text."""
        return f"{self.file} ({self.sha256[:12]})"


# One file for each benchmark. One alone needs no list.
SampleFiles = Annotated[
    list[Samples], BeforeValidator(lambda given: given if isinstance(given, list | tuple) else [given])
]


class HarnessTask(Table):
    """`name = "harness"`: scores that lm-evaluation-harness has made (`--log_samples`). Nothing is sampled here.

    Every run is a checkpoint with its own `scores`. Activations are taken on texts, as in the task `texts`.
    """

    name: Literal["harness"]
    base: Annotated[SampleFiles, Field(min_length=1)]  # required: the base's samples, one file for each benchmark
    metric: str | None = None  # the metric that is the score; None: the only one
    filter: str | None = None  # the filter of the harness whose rows count; None: the only one
    texts: Path | None = None  # file of texts for activations; None: `lensrl.tasks.texts.BUILT_IN`


class OwnTask(Table):
    """A task of your own: `name = "my_task.py:MyTask"`, a class without arguments in a file beside the recipe.

    `lensrl.tasks.protocol` describes the class. `sha256` is filled in when the recipe is read, so that a study notices
    changes of the file.
    """

    name: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")]  # required: FILE.py:CLASS
    sha256: str = ""  # never written by hand: hash of the file

    @property
    def path(self) -> Path:
        """The file of the task."""
        return Path(self.name.rpartition(":")[0])

    @property
    def class_name(self) -> str:
        """The name of the class in the file."""
        return self.name.rpartition(":")[2]


TASKS: dict[str, type[Table]] = {
    "arithmetic": ArithmeticTask,
    "expression": ExpressionTask,
    "corridor": CorridorTask,
    "math": MathTask,
    "code": CodeTask,
    "textworld": TextWorldTask,
    "gym": GymTask,
    "texts": TextsTask,
    "harness": HarnessTask,
}
OWN = "own"


def kind(task: Any) -> str | None:
    """Return the kind of a task's table, or of its name alone: the name, or `own` for a file of the user."""
    if not isinstance(task, str):
        task = task.get("name") if isinstance(task, dict) else getattr(task, "name", None)
    name = task
    return OWN if isinstance(name, str) and ".py:" in name else name


def has_training(task: Any) -> bool:
    """Return whether a task, or the data of its table, has items to train on."""
    if kind(task) in ("math", "code"):
        return not isinstance(task, str) and (task.get("train") if isinstance(task, dict) else task.train) is not None
    return kind(task) not in ("texts", "harness")


Task = Annotated[
    Annotated[ArithmeticTask, Tag("arithmetic")]
    | Annotated[ExpressionTask, Tag("expression")]
    | Annotated[CorridorTask, Tag("corridor")]
    | Annotated[MathTask, Tag("math")]
    | Annotated[CodeTask, Tag("code")]
    | Annotated[TextWorldTask, Tag("textworld")]
    | Annotated[GymTask, Tag("gym")]
    | Annotated[TextsTask, Tag("texts")]
    | Annotated[HarnessTask, Tag("harness")]
    | Annotated[OwnTask, Tag(OWN)],
    Discriminator(kind),
]
