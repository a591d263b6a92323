"""Which runs a recipe asks for, and what someone who watches them being made is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lensrl.errors import LensrlError
from lensrl.layers import BASE, FULL, layer_run, parse_layers, run_layer
from lensrl.recipe import Recipe

if TYPE_CHECKING:
    from lensrl.rl import TrainingCurve
    from lensrl.store.run import Run


@dataclass(frozen=True)
class RunSpec:
    """One run to make: `layers` is what it trains, None for all parameters, empty for the base."""

    name: str
    layers: tuple[int, ...] | None
    seed: int


class Watcher(Protocol):
    """Whoever looks on while a study runs."""

    def planned(self, specs: list[RunSpec], missing: list[RunSpec]) -> None: ...
    def started(self, spec: RunSpec) -> None: ...
    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None: ...
    def scoring(self, spec: RunSpec) -> None: ...
    def finished(self, spec: RunSpec, run: Run) -> None: ...


class NoWatcher:
    """Nobody looks on."""

    def planned(self, specs: list[RunSpec], missing: list[RunSpec]) -> None: ...
    def started(self, spec: RunSpec) -> None: ...
    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None: ...
    def scoring(self, spec: RunSpec) -> None: ...
    def finished(self, spec: RunSpec, run: Run) -> None: ...


def plan(recipe: Recipe, n_layers: int) -> list[RunSpec]:
    """Every run that a recipe asks for: the base once; then, for each seed, full RL, single layers and sets."""
    for name in recipe.sets:
        if name in (BASE, FULL) or run_layer(name) is not None or not name.replace("-", "").isalnum():
            raise LensrlError(
                f"sets: {name!r} cannot name a set: use letters, digits and dashes, not the name of a run"
            )
    specs = [RunSpec(BASE, (), 0)]
    for seed in recipe.seeds:
        specs.append(RunSpec(FULL, None, seed))
        specs += [RunSpec(layer_run(layer), (layer,), seed) for layer in parse_layers(recipe.layers, n_layers)]
        specs += [RunSpec(name, tuple(parse_layers(layers, n_layers)), seed) for name, layers in recipe.sets.items()]
    empty = next((spec.name for spec in specs if spec.layers == () and spec.name != BASE), None)
    if empty is not None:
        raise LensrlError(f"sets: {empty!r} names no layer")
    return specs
