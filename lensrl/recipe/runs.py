"""The names of runs, and the list of runs that a recipe asks for.

The names are `base`, `full-rl`, `layer-20`, the name of a set (`mid-3`), and `layer-20@0.0004` for a run at another
learning rate than the recipe's. This module makes no runs: `lensrl.train` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lensrl.errors import LensrlError, did_you_mean
from lensrl.recipe.checkpoints import Checkpoint, CheckpointRun
from lensrl.recipe.layers import Outside, choose_layers, parse_layers, spell_layers
from lensrl.recipe.sets import Chosen, LayerSet, Lora, Trained
from lensrl.recipe.settings import Recipe
from lensrl.recipe.task_tables import has_training

BASE = "base"
FULL = "full-rl"


@dataclass(frozen=True)
class RunSpec:
    """One run to make.

    `name` and `seed` identify it. `layers` are the trained layers: None for all parameters, empty for the base.
    `outside` are the trained parts outside the layers, beside them or alone.
    `component` is the trained part of these layers. The learning rate of the layers in `boost` is `factor` times the
    run's. `lora` is the adapter that is trained in the place of the layers' weights. `learning_rate` is the run's
    learning rate where it is not the recipe's; None takes the recipe's.

    `checkpoint` is the model that takes the place of training; None trains the run. In this model, the parts in `allow`
    may have moved beside the layers. Runs that differ in these two alone are equal: they have one name and one file.
    """

    name: str
    layers: tuple[int, ...] | None
    seed: int
    component: Trained = "block"
    outside: tuple[Outside, ...] = ()
    boost: tuple[int, ...] = ()
    factor: float = 1.0
    learning_rate: float | None = None
    lora: Lora | None = None
    checkpoint: Checkpoint | None = field(default=None, compare=False)
    allow: tuple[Outside, ...] = field(default=(), compare=False)

    @property
    def trained(self) -> str:
        """The trained parameters in words: `all parameters, layers 2-4 at 5 x the learning rate`."""
        if self.layers == ():
            return " and ".join(self.outside) or "nothing"
        part = {"block": "", "attn": "attention of ", "mlp": "MLP of "}[self.component]
        part = part if self.lora is None else f"LoRA of rank {self.lora.rank} in "
        text = (
            "all parameters" if self.layers is None else " and ".join((f"{part}{_spell(self.layers)}", *self.outside))
        )
        return text + (f", {_spell(self.boost)} at {self.factor:g} x the learning rate" if self.boost else "")


def plan(recipe: Recipe, n_layers: int) -> list[RunSpec]:
    """List every run that a recipe asks for: the base once; the checkpoints; then, for each seed, the runs to train.

    The runs to train are full RL, the single layers and the sets, without the names in `checkpoints`. Full RL and the
    single layers come again at each of the recipe's further learning rates. Without seeds, and for a task without
    training items, nothing is trained.

    Raises LensrlError for a set that a model with `n_layers` layers cannot have, for a set that ranks layers by a
    profile and has not been chosen yet (`lensrl.train.choose`), and for a name in `checkpoints` that no run can have.
    """
    specs = [RunSpec(BASE, (), 0)]
    for name, run in recipe.checkpoints.items():
        specs += _checkpoint_runs(name, run, recipe, n_layers)
    for seed in recipe.seeds if has_training(recipe.task) else ():
        alone = [RunSpec(FULL, None, seed)]
        alone += [RunSpec(layer_run(layer), (layer,), seed) for layer in parse_layers(recipe.layers, n_layers)]
        of_seed = [*alone, *(set_run(name, layer_set, n_layers, seed) for name, layer_set in recipe.sets.items())]
        of_seed += [
            RunSpec(rate_run(spec.name, rate), spec.layers, seed, learning_rate=rate)
            for rate in recipe.learning_rates
            for spec in alone
        ]
        specs += [spec for spec in of_seed if spec.name not in recipe.checkpoints]
    return specs


def trains(recipe: Recipe, n_layers: int) -> bool:
    """Return whether a recipe asks for a run that is trained, and not taken from a checkpoint."""
    asked = {FULL, *map(layer_run, parse_layers(recipe.layers, n_layers)), *recipe.sets}
    return bool(recipe.seeds) and has_training(recipe.task) and not asked <= recipe.checkpoints.keys()


def _checkpoint_runs(name: str, run: CheckpointRun, recipe: Recipe, n_layers: int) -> list[RunSpec]:
    """Return the runs of one name in `checkpoints`, one for each seed. Raises LensrlError for a name that is wrong."""
    layer = run_layer(name)
    known = name == FULL or (layer is not None and name == layer_run(layer))
    if name == BASE:
        raise LensrlError(f"checkpoints: {BASE!r} is the recipe's model: write the path there, model = '...'")
    if known and recipe.learning_rates:
        raise LensrlError(
            f"checkpoints.{name}: learning_rates repeats full RL and the layers at further rates, and the rate of a "
            f"checkpoint is not known; leave learning_rates out"
        )
    if known and run.layers is not None:
        raise LensrlError(f"checkpoints.{name}: the name says what was trained; leave layers out, or name it otherwise")
    if not known and name in recipe.sets:
        raise LensrlError(
            f"checkpoints.{name}: sets.{name} is trained under this name; leave it out there, and say "
            f"checkpoints.{name}.layers"
        )
    if not known and run.layers is None:
        raise LensrlError(
            f"checkpoints.{name}: say which layers it trained, layers = '0-3' or 'all'; names that say it are "
            f"full-rl and layer-20{did_you_mean(name, [FULL]) if '_' in name else ''}"
        )
    try:
        if layer is not None and known:
            parse_layers(layer, n_layers)  # raises for a layer that the model does not have
        one = RunSpec(name, None if layer is None else (layer,), 0) if known else set_run(name, run.layer_set, n_layers)
    except LensrlError as error:
        raise LensrlError(
            f"checkpoints.{name}: {str(error).removeprefix(f'sets.{name}: ').removeprefix('sets: ')}"
        ) from None
    return [
        replace(one, seed=seed, checkpoint=checkpoint, allow=tuple(run.allow)) for seed, checkpoint in run.seeds.items()
    ]


def set_run(name: str, layer_set: LayerSet, n_layers: int, seed: int = 0) -> RunSpec:
    """Return the run of a set.

    Raises LensrlError if the name is not allowed for a set, or if the set trains nothing or boosts a frozen layer.
    """
    if name in (BASE, FULL) or run_layer(name) is not None or not name.replace("-", "").isalnum():
        raise LensrlError(f"sets: {name!r} cannot name a set: use letters, digits and dashes, not the name of a run")
    chosen = layer_set.chosen or read_set(name, layer_set, n_layers)
    layers = None if chosen.layers is None else tuple(chosen.layers)
    if layers == () and not chosen.outside:
        raise LensrlError(f"sets: {name!r} names no layer")
    frozen = [layer for layer in chosen.boost if layers is not None and layer not in layers]
    if frozen:
        raise LensrlError(f"sets.{name}: boosts layer {frozen[0]}, but trains {_spell(layers or ())} alone")
    return RunSpec(
        name=name,
        layers=layers,
        seed=seed,
        component=layer_set.component,
        boost=tuple(chosen.boost),
        factor=layer_set.factor or 1.0,
        lora=layer_set.lora,
        outside=tuple(chosen.outside) if layers is not None else (),
    )


def read_set(name: str, layer_set: LayerSet, n_layers: int, contribution: Mapping[int, float] | None = None) -> Chosen:
    """Translate the words of a set into layers.

    `contribution` maps layer to C_l, for words that rank layers. Raises LensrlError with the name of the set.
    """
    inside, outside = layer_set.layers_and_outside
    try:
        layers, boost = (
            choose_layers(spec, n_layers, draw=name, contribution=contribution)
            for spec in (inside, layer_set.boost if layer_set.boost is not None else [])
        )
    except LensrlError as error:
        raise LensrlError(f"sets.{name}: {error}") from None
    return Chosen(layers=layers, outside=[*outside], boost=boost or [])


def _spell(layers: tuple[int, ...]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {spell_layers(layers)}"


def layer_run(layer: int) -> str:
    """Return the name of the run that trains `layer` alone: `layer-20`."""
    return f"layer-{layer}"


def run_layer(run: str) -> int | None:
    """Return the layer of a single-layer run, the inverse of `layer_run`: 20 for `layer-20`, None for any other run."""
    prefix, _, number = run.partition("-")
    return int(number) if prefix == "layer" and number.isdecimal() else None


def rate_run(run: str, rate: float) -> str:
    """Return the name of `run` trained at another learning rate than the recipe's: `layer-20@0.0004`."""
    return f"{run}@{rate!r}"


def run_rate(run: str) -> tuple[str, float] | None:
    """Split `layer-20@0.0004` into ("layer-20", 0.0004). None for a run at the recipe's own learning rate."""
    found = re.fullmatch(r"(.+)@(\d+(?:\.\d+)?(?:e[-+]\d+)?)", run)
    return None if found is None else (found[1], float(found[2]))
