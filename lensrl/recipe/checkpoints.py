"""Checkpoints: runs that were trained elsewhere, and that a study takes in place of training them.

    [checkpoints]
    full-rl = "org/model-GRPO"                                     # a folder or a hub name; its seed is 0
    layer-20 = { seed-0 = "rl/layer-20-a", seed-1 = "rl/layer-20-b" }
    my-sft = { model = "rl/sft", layers = "all", allow = "embed" }   # a name of its own says which layers it trained

A checkpoint is compared with the base model of the recipe, parameter by parameter: see `lensrl.train.adopt`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from lensrl.errors import LensrlError
from lensrl.recipe.layers import Outside, read_word, split_outside
from lensrl.recipe.sets import Layers, LayerSet
from lensrl.recipe.table import Table
from lensrl.recipe.task_tables import SampleFiles

SEED = re.compile(r"seed-(\d+)")


class ModelPlace(Table):
    """A place from which a model is loaded. A string is its `model`."""

    model: Annotated[str, Field(min_length=1)]  # required: a folder, or a Hugging Face name
    revision: str | None = None  # of a Hugging Face name: a branch, a tag or a commit; None: the main branch

    @model_validator(mode="before")
    @classmethod
    def _by_model_alone(cls, given: Any) -> Any:
        return {"model": given} if isinstance(given, str) else given

    @property
    def spelled(self) -> str:
        """The place in one word, for messages: `org/model@step-100`."""
        return self.model if self.revision is None else f"{self.model}@{self.revision}"


class Checkpoint(ModelPlace):
    """One trained model: the end of a run, and models that the same run passed through on the way.

    `snapshots` maps a training step to the model after it. Without `model`, the model after the last step is the end of
    the run. With `model`, a snapshot at the same place gives the step of the end.
    """

    snapshots: dict[PositiveInt, ModelPlace] = {}
    scores: SampleFiles = []  # for task "harness": the samples of this model, one file for each benchmark

    @model_validator(mode="before")
    @classmethod
    def _end_of_snapshots(cls, given: Any) -> Any:
        snapshots = given.get("snapshots") if isinstance(given, dict) else None
        if not isinstance(snapshots, dict) or "model" in given:
            return given
        if "revision" in given:
            raise ValueError("revision belongs to a model: 100 = { model = 'org/name', revision = 'step-100' }")
        steps = {int(step): place for step, place in snapshots.items() if str(step).isdecimal()}
        last = steps[max(steps)] if steps else None
        return given | (dict(last) if isinstance(last, dict) else {} if last is None else {"model": last})

    @property
    def end(self) -> int | None:
        """The step after which the run has `model`: the last snapshot, where it is the same model; else None."""
        last = max(self.snapshots, default=None)
        same = last is not None and self.snapshots[last] == ModelPlace(model=self.model, revision=self.revision)
        return last if same else None

    @property
    def origin(self) -> dict[str, object]:
        """The checkpoint as a run file records it, in JSON data: source, revision, snapshots, scores where given."""
        snapshots = {str(step): place.spelled for step, place in sorted(self.snapshots.items())}
        scores = {"scores": [samples.spelled for samples in self.scores]} if self.scores else {}
        return {"source": self.model, "revision": self.revision, "snapshots": snapshots, **scores}


class CheckpointRun(Table):
    """A run that is taken from checkpoints, one for each training seed.

    The name of the run says which layers it trained: `full-rl` trained everything, `layer-20` layer 20 alone. Any other
    name needs `layers`; `all` also allows changes outside the layers. A checkpoint in which any other part moved is
    refused. `allow` names parts outside the layers that may have moved, too.

    A checkpoint alone, `{ model = ... }`, has seed 0. `{ seed-0 = ..., seed-1 = ... }` names one for each seed.
    """

    layers: Layers | None = None  # the layers that the run trained, unless its name says it
    allow: list[Outside] = []  # parts outside these layers that may have moved
    seeds: Annotated[dict[Annotated[int, Field(ge=0, lt=2**32)], Checkpoint], Field(min_length=1)]  # required

    @model_validator(mode="before")
    @classmethod
    def _by_seed(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"model": given}
        if not isinstance(given, dict) or "seeds" in given:
            return given
        alone = {key: value for key, value in given.items() if key in Checkpoint.model_fields}
        seeds = {found[1]: value for key, value in given.items() if (found := SEED.fullmatch(key))}
        if alone and seeds:
            raise ValueError(f"{next(iter(alone))} is of one checkpoint, and there are several: write it in each seed")
        rest = {key: value for key, value in given.items() if key not in alone and not SEED.fullmatch(key)}
        if not alone and not seeds and not rest.keys() - cls.model_fields.keys():
            raise ValueError("names no model: give a folder or a Hugging Face name, model = '...' or seed-0 = '...'")
        return rest | {"seeds": seeds or {"0": alone}}

    @field_validator("allow", mode="before")
    @classmethod
    def _one_part(cls, allow: Any) -> Any:
        return [allow] if isinstance(allow, str) else allow

    @model_validator(mode="after")
    def _layers_are_words(self) -> CheckpointRun:
        try:
            word = None if self.layers is None else read_word(split_outside(self.layers)[0])
        except LensrlError as error:
            raise ValueError(str(error)) from None
        if word is not None and word[0] != "mid":
            raise ValueError(f"layers = {self.layers!r} is a choice, and this run has made it: write their numbers")
        return self

    @property
    def layer_set(self) -> LayerSet:
        """The layers as the set that a run of this name would have trained."""
        return LayerSet(layers=self.layers if self.layers is not None else [])
