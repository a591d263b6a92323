"""The sets of layers that a recipe trains together, in the words that choose them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat, model_validator

from lensrl.errors import LensrlError
from lensrl.recipe.layers import RANKED, WHOLE, read_word
from lensrl.recipe.table import Table

Layers = int | str | list[int]  # 3, "0-7", "all", [3, 5]
Trained = Literal["block", "attn", "mlp"]  # of a layer: all of it, its attention, its MLP


class Chosen(Table):
    """What the words of a set mean in a study, and which of the study's items the choice has not seen."""

    layers: list[int] | None  # None: every parameter of the model
    boost: list[int] = []
    items: Literal["all", "other half"] = "all"


class LayerSet(Table):
    """Layers that one run trains together; what is not a table is its `layers`: `sets.ends = [0, 7]`.

    `layers` is what a recipe's `layers` may be, or `"full"` (every parameter of the model, as full RL), `"mid-K"` (the
    K layers in the middle of the depth), `"random-K"` (drawn by the set's name, so that two names are two draws),
    `"top-K"` or `"bottom-K"` (those with the highest or lowest C_l of `profile`). `component` trains the attention or
    the MLP of the layers alone. `boost` names layers in the same words, whose learning rate is `factor` times the
    others'; weight decay, where there is any, is a part of a step and grows with it.

    What is chosen from a profile is chosen once, when the study is planned, and kept in `chosen`: see
    `lensrl.train.choose`.
    """

    layers: Layers
    component: Trained = "block"
    profile: Path | None = None  # a finished study's folder, or a CSV file with layer and contribution
    boost: Layers | None = None
    factor: PositiveFloat | None = None
    chosen: Chosen | None = None  # filled in when the study is planned

    @model_validator(mode="before")
    @classmethod
    def _by_layers_alone(cls, given: Any) -> Any:
        return given if isinstance(given, dict | LayerSet) else {"layers": given}

    @model_validator(mode="after")
    def _says_one_thing(self) -> LayerSet:
        try:
            ranked = self.ranked
        except LensrlError as error:
            raise ValueError(str(error)) from None
        if self.boost == WHOLE:
            raise ValueError("boost = 'full' is another learning rate for everything: see learning_rates")
        if (self.boost is None) != (self.factor is None):
            raise ValueError("boost and factor go together: boost = '0-2', factor = 5.0")
        if self.component != "block" and self.layers == WHOLE:
            raise ValueError(f"component = {self.component!r} is a part of layers: layers = 'all', not 'full'")
        if self.profile is None and ranked:
            raise ValueError(f"{ranked[0]!r} is chosen by contribution: add profile = 'FOLDER', a finished study")
        if self.profile is not None and not ranked:
            raise ValueError("profile is given but nothing is chosen from it: say 'top-3' or 'bottom-3'")
        return self

    @property
    def ranked(self) -> list[str]:
        """The words of this set that rest on its profile. Raises LensrlError for a word that is none."""
        words = [(spec, read_word(spec)) for spec in (self.layers, self.boost) if spec is not None]
        return [str(spec) for spec, word in words if word is not None and word[0] in RANKED]
