"""The settings of scoring: the items, how completions are sampled, and further tasks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from lensrl.recipe.table import Share, Table
from lensrl.recipe.task_tables import Task


class BenchmarkEvaluation(Table):
    """Table `[evaluation.NAME]`: how one benchmark is scored. A setting that is left out is that of `[evaluation]`."""

    items: PositiveInt | None = None
    samples: PositiveInt | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: PositiveInt | None = None


class Evaluation(Table):
    """Table `[evaluation]`: how every run is scored.

    All runs are scored on the same held-out items with the same sampling settings. The sampling defaults of the model
    are not used.

    A table with the name of a benchmark has the settings of this benchmark: `[evaluation.amc]` with `samples = 32`. The
    benchmark may be one of the task, or one of `also`.
    """

    items: PositiveInt = 256  # items per benchmark: the first ones, or all if the benchmark is smaller
    samples: PositiveInt = 4  # completions (in a task in turns: episodes) per item
    temperature: Annotated[float, Field(ge=0)] = 1.0  # of sampling; 0 is greedy decoding
    top_p: Share = 1.0  # nucleus sampling: probability mass to sample from; 1: no cut
    top_k: Annotated[int, Field(ge=0)] = 0  # number of most probable tokens to sample from; 0: no cut
    max_completion_tokens: PositiveInt | None = None  # of an answer, or of each turn; None: rl.max_completion_tokens
    batch: PositiveInt = 128  # completions generated at once; their keys and values are held in memory
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0  # of the sampler, the same for every run
    benchmarks: dict[str, BenchmarkEvaluation] = {}  # tables with the names of benchmarks: [evaluation.amc]

    @model_validator(mode="before")
    @classmethod
    def _tables_are_benchmarks(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = {name: table for name, table in given.items() if isinstance(table, dict) and name != "benchmarks"}
        rest = {name: value for name, value in given.items() if name not in own}
        return rest | {"benchmarks": given.get("benchmarks", {}) | own} if own else given

    def of(self, benchmark: str) -> Evaluation:
        """Return the settings with which a benchmark is scored."""
        own = self.benchmarks.get(benchmark, BenchmarkEvaluation()).model_dump(exclude_none=True)
        return self.model_copy(update=own | {"benchmarks": {}})


class Also(Table):
    """A table `[[also]]`: a further task on which every run is scored, beside the task that trains.

    Its benchmarks do not count in the study's score, and so not in C_l: `lensrl contribution --benchmark NAME` and
    `--benchmark all` show them. Its training items are not used.
    """

    task: Task  # required: the table of a task, or only its name

    @field_validator("task", mode="before")
    @classmethod
    def _task_by_name(cls, task: Any) -> Any:
        return {"name": task} if isinstance(task, str) else task

    @model_validator(mode="after")
    def _is_sampled(self) -> Also:
        if self.task.name in ("texts", "harness"):
            raise ValueError(f"task {self.task.name!r} samples no scores; a further task is one that is scored here")
        return self
