"""What a study trains and scores on, one table per task. The tasks themselves are in `lensrl.tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from lensrl.recipe.table import Table


class Dataset(Table):
    """A data set of the Hugging Face hub, or of a local folder, as `datasets` loads it."""

    dataset: Annotated[str, Field(min_length=1)]  # "openai/gsm8k", or a folder of Parquet or JSON files
    split: str
    config: str | None = None
    revision: str | None = None  # a commit, tag or branch of the hub's repository; None: its newest


Source = Annotated[  # a .jsonl, .jsonl.gz or .parquet file, or a table {dataset, split, config, revision}
    Annotated[Path, Tag("path")] | Annotated[Dataset, Tag("Dataset")],
    Discriminator(lambda given: "Dataset" if isinstance(given, dict | Dataset) else "path"),
]


def _none_is_train(benchmarks: dict[str, Source]) -> dict[str, Source]:
    if "train" in benchmarks:
        raise ValueError("a benchmark cannot be named train: its items would have the training items' names")
    return benchmarks


# name -> items; the score is the mean over benchmarks
Benchmarks = Annotated[dict[str, Source], Field(min_length=1), AfterValidator(_none_is_train)]


class ArithmeticTask(Table):
    """Two-digit addition, for the embedded models."""

    name: Literal["arithmetic"]


class ExpressionTask(Table):
    """Write the Python expression that fits three examples, for the embedded models: `1:5 4:11 7:17 x:` -> `2*x+3`."""

    name: Literal["expression"]


class CorridorTask(Table):
    """Fetch the key and open the door of a text corridor, turn by turn, for the embedded models."""

    name: Literal["corridor"]
    max_turns: PositiveInt = 12
    invalid_penalty: Annotated[float, Field(ge=0)] = 0.1  # taken off the reward for each move that cannot be made


class MathTask(Table):
    """Problems with a checkable answer, compared by math-verify.

    A row holds `question` (or `problem`) and `answer` (or `solution`); GSM8K's `#### 42` endings are understood.
    Where both are there, completions are compared with `answer`, and `solution` is the reference text whose
    log-probability is measured. An answer that math-verify cannot read is compared as a string.
    """

    name: Literal["math"]
    train: Source
    test: Benchmarks
    prompt: str = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.\n"

    @model_validator(mode="after")
    def _has_a_question(self) -> MathTask:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        return self


class CodeTask(Table):
    """Python functions checked by unit tests in a sandbox: rows of HumanEval's or MBPP's format.

    HumanEval's rows hold `prompt`, `entry_point`, `test` and `canonical_solution`; MBPP's `text` (or `prompt`),
    `test_list` and `code`.
    """

    name: Literal["code"]
    train: Source
    test: Benchmarks
    timeout: PositiveFloat = 3.0  # seconds of wall clock, and of processor time, for one program
    memory: PositiveInt = 512  # MiB of address space for one program


class TextWorldTask(Table):
    """TextWorld games made on this machine: a quest in a few rooms. Needs `pip install lensrl[agentic]`."""

    name: Literal["textworld"]
    train_games: PositiveInt = 100
    test_games: PositiveInt = 50
    rooms: PositiveInt = 2
    objects: PositiveInt = 4
    quest_length: PositiveInt = 2
    seed: Annotated[int, Field(ge=0)] = 0  # of the games
    max_turns: PositiveInt = 12
    invalid_penalty: Annotated[float, Field(ge=0)] = 0.1


class GymTask(Table):
    """A data set of reasoning-gym, judged by its own verifier. Needs `pip install lensrl[gym]`."""

    name: Literal["gym"]
    dataset: str  # "chain_sum", "leg_counting", ...
    options: dict[str, Any] = {}  # of the data set: { min_terms = 2, max_digits = 3 }
    train_items: PositiveInt = 1000
    test_items: PositiveInt = 256
    seed: Annotated[int, Field(ge=0)] = 0
    prompt: str = "{question}\n"

    @model_validator(mode="after")
    def _has_a_question(self) -> GymTask:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")
        return self


class OwnTask(Table):
    """A task of your own: `my_task.py:MyTask`, a class without arguments beside the recipe.

    `sha256` is filled in when the recipe is read, so that a study notices when the file has changed.
    """

    name: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")]
    sha256: str = ""

    @property
    def path(self) -> Path:
        return Path(self.name.rpartition(":")[0])

    @property
    def class_name(self) -> str:
        return self.name.rpartition(":")[2]


TASKS: dict[str, type[Table]] = {
    "arithmetic": ArithmeticTask,
    "expression": ExpressionTask,
    "corridor": CorridorTask,
    "math": MathTask,
    "code": CodeTask,
    "textworld": TextWorldTask,
    "gym": GymTask,
}
OWN = "own"


def kind(task: Any) -> str | None:
    """Which table a task is written in: its name, or `own` for a file of the user's."""
    name = task.get("name") if isinstance(task, dict) else getattr(task, "name", None)
    return OWN if isinstance(name, str) and ".py:" in name else name


Task = Annotated[
    Annotated[ArithmeticTask, Tag("arithmetic")]
    | Annotated[ExpressionTask, Tag("expression")]
    | Annotated[CorridorTask, Tag("corridor")]
    | Annotated[MathTask, Tag("math")]
    | Annotated[CodeTask, Tag("code")]
    | Annotated[TextWorldTask, Tag("textworld")]
    | Annotated[GymTask, Tag("gym")]
    | Annotated[OwnTask, Tag(OWN)],
    Discriminator(kind),
]
