"""The sets of layers that a recipe trains together, and the words that choose the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from lensrl.errors import LensrlError
from lensrl.recipe.layers import RANKED, WHOLE, LayerSpec, Outside, read_word, split_outside
from lensrl.recipe.table import Table

Layers = int | str | list[int]  # 3, "0-7", "all", [3, 5]
Trained = Literal["block", "attn", "mlp"]  # trained part of a layer: the whole block, its attention, its MLP


class Chosen(Table):
    """The layers that the words of a set mean in one study.

    `items` names the items on which a run of the set may be scored, because the choice of its layers did not use them:
    all items, or the other half if the profile was measured on the first half.
    """

    layers: list[int] | None  # None: every parameter of the model
    outside: list[Outside] = []  # parts outside the layers
    boost: list[int] = []
    items: Literal["all", "other half"] = "all"  # items that the choice did not use


class Lora(Table):
    """LoRA in the place of the weights themselves: W + (alpha / rank) B A, of the linear maps in the layers of a set.

    A control: it has few trained parameters too, spread over many layers. With PEFT's defaults, B begins at 0. LoRA
    learns slowly at a small learning rate: `boost` and `factor` of the set raise it.
    """

    rank: PositiveInt  # required: rows of A
    alpha: PositiveFloat | None = None  # scale; None: 2 x rank
    targets: tuple[str, ...] | None = None  # last names of the linear maps, as "q_proj"; None: all in the layers

    @property
    def scale(self) -> float:
        """The value of alpha."""
        return self.alpha or 2.0 * self.rank


class LayerSet(Table):
    """Layers that one run trains together. A value that is not a table is its `layers`: `sets.ends = [0, 7]`.

    `layers` is anything that a recipe's `layers` may be, or one of these words:

    - `"full"`: every parameter of the model, as in full RL;
    - `"all-but-7"`, `"all-but-0-3"`: every layer without these;
    - `"mid-K"`: the K layers in the middle of the depth;
    - `"random-K"`: K layers drawn by the set's name, so that two names give two draws;
    - `"top-K"`, `"bottom-K"`: the K layers with the highest or lowest C_l of `profile`.

    `"embed"`, `"final_norm"` and `"lm_head"` name the parts outside the layers: alone, several (`"embed,lm_head"`), or
    beside layers (`"0-3,embed"`). Where the head is tied to the embedding, `embed` is both.

    `boost` names layers in the same words. Their learning rate is `factor` times the rate of the other layers. Weight
    decay, if any, is part of a step and grows with it.

    `lora = { rank = 8 }` trains a LoRA adapter of the layers, and keeps it merged.

    A choice from a profile is made once, when the study is planned, and kept in `chosen`: see `lensrl.train.choose`.
    """

    layers: Layers  # required: the layers that the run trains
    component: Trained = "block"  # trained part of these layers
    lora: Lora | None = None  # LoRA of the layers in the place of their weights; needs pip install 'lensrl[peft]'
    profile: Path | None = None  # for top-K, bottom-K: a finished study's folder, or a CSV with layer and contribution
    boost: Layers | None = None  # layers with another learning rate; None: no such layers
    factor: PositiveFloat | None = None  # learning rate of the boosted layers, in multiples of the run's
    chosen: Chosen | None = None  # never written by hand: filled in when the study is planned

    @model_validator(mode="before")
    @classmethod
    def _by_layers_alone(cls, given: Any) -> Any:
        return given if isinstance(given, dict | LayerSet) else {"layers": given}

    @model_validator(mode="after")
    def _settings_fit_together(self) -> LayerSet:
        try:
            ranked = self.ranked
        except LensrlError as error:
            raise ValueError(str(error)) from None
        alone = self.layers_and_outside[0] == []
        if self.boost == WHOLE:
            raise ValueError("boost = 'full' is another learning rate for everything: see learning_rates")
        if (self.boost is None) != (self.factor is None):
            raise ValueError("boost and factor go together: boost = '0-2', factor = 5.0")
        if alone and (self.component != "block" or self.lora is not None):
            raise ValueError(f"component and lora are of layers, and {self.layers!r} names none: leave them out")
        if self.component != "block" and self.layers == WHOLE:
            raise ValueError(f"component = {self.component!r} is a part of layers: layers = 'all', not 'full'")
        if self.lora is not None and (self.layers == WHOLE or self.component != "block"):
            raise ValueError("lora is of layers: layers = 'all', not 'full', and targets in the place of component")
        if self.profile is None and ranked:
            raise ValueError(f"{ranked[0]!r} is chosen by contribution: add profile = 'FOLDER', a finished study")
        if self.profile is not None and not ranked:
            raise ValueError("profile is given but nothing is chosen from it: say 'top-3' or 'bottom-3'")
        return self

    @property
    def ranked(self) -> list[str]:
        """The words of this set that need its profile: `top-K`, `bottom-K`. Raises LensrlError for an unknown word."""
        specs = (self.layers_and_outside[0], self.boost)
        words = [(spec, read_word(spec)) for spec in specs if spec is not None]
        return [str(spec) for spec, word in words if word is not None and word[0] in RANKED]

    @property
    def layers_and_outside(self) -> tuple[LayerSpec, tuple[Outside, ...]]:
        """The words of `layers` that name layers, and the parts outside the layers."""
        return split_outside(self.layers)
