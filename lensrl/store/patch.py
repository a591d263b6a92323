"""The result of patching one layer or one set of layers.

Every result is a separate file, because run files are never changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float64

from lensrl.errors import Damaged, StoreError, TooNew, Unfinished, reason
from lensrl.measures.score import mean_score
from lensrl.recipe.layers import spell_layers
from lensrl.store.file.atomic import new_file
from lensrl.store.file.checked import DAMAGE, attribute, group_at, members, open_for_reading, read_array, read_strings
from lensrl.store.file.hdf5 import axis, create, create_file
from lensrl.store.file.seal import read_seal, write_seal

if TYPE_CHECKING:
    from lensrl.measures.contribution import GainRatio

PATCH_FORMAT = "lensrl-patch"
PATCH_VERSION = 3
SETS_SINCE = 3  # the first format version with sets of layers; before it, a result had one layer

What = Literal["weights", "activations"]
PatchComponent = Literal["block", "attn", "mlp", "head", "direct", "stream"]
Sets = Literal["single", "bottom", "top", "pairs", "together"]
Metric = Literal["score", "logprob", "both"]
METRICS = ("score", "reference_logprob", "logit_difference")
PATCHED = ("patched",)


@dataclass(frozen=True)
class PatchKey:
    """The patch: part `component` of `layers`, all at once, is taken from run `donor` and put into run `into`.

    `sets` says how the layers belong together: one layer (`single`), the lowest layers 0 ... l (`bottom`), the highest
    layers l ... n - 1 (`top`), two layers (`pairs`), or any other layers (`together`). `everything` means all layers
    and all parts outside the layers: nothing of the receiving run is left.
    """

    what: What
    component: PatchComponent
    layers: tuple[int, ...]
    donor: str
    into: str
    seed: int
    sets: Sets | Literal["everything"] = "single"

    @property
    def layer(self) -> int:
        """The place of the result over depth: the last layer of a `bottom` set, the first layer of any other set."""
        return self.layers[-1] if self.sets == "bottom" else self.layers[0]

    @property
    def layer_names(self) -> str:
        """The layers as a person types them: `3`, `0-5`, `3,5`; or `everything`."""
        return self.sets if self.sets == "everything" else spell_layers(self.layers)

    @property
    def file_name(self) -> str:
        """The name of the result's file."""
        named = {"single": f"layer-{self.layer_names}", "everything": "everything"}
        unit = named.get(self.sets, f"{self.sets}-{self.layer_names}")
        return f"{self.what}.{self.component}.{self.donor}-into-{self.into}.{unit}.seed-{self.seed}.h5"


@dataclass(frozen=True)
class PatchResult:
    """Per-item metrics of the receiving run, the donor and the patched model.

    `metrics` maps the name of a metric to values per item, in the order (into, donor, *patched): `score` (mean over
    samples), `reference_logprob` (nats per token), `logit_difference` (the reference token minus its strongest rival).
    There is one patched model, except for heads: then there is one for each head, `head-0` ..., in which this head
    alone is patched.
    """

    key: PatchKey
    metrics: Mapping[str, Float64[np.ndarray, "model item"]]
    benchmark: Sequence[str]
    sources: Mapping[str, str]  # the run_id of the donor and of the receiving run
    provenance: Mapping[str, object]
    patched: Sequence[str] = PATCHED

    COLUMNS: ClassVar[list[str]] = [
        "layer", "layers", "sets", "head", "what", "component", "from", "into", "seed", "metric",
        "recovery", "low", "high", "into_value", "from_value", "patched_value", "status", "reason",
    ]  # fmt: skip

    def recoveries(self, metric: str) -> dict[str, GainRatio]:
        """Return the recovery of every patched model, with intervals paired over items.

        recovery = (M(patched) - M(into)) / (M(from) - M(into)) for the metric M.
        """
        from lensrl.measures.contribution import gain_ratios  # SciPy, which reading a result does without

        into, donor, *patched = (values[None] for values in self.metrics[metric])
        models = dict(zip(self.patched, patched, strict=True))
        return gain_ratios(into, donor, models, self.benchmark, gain="M(from) - M(into)")

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield one row per patched model and metric, with the columns of `COLUMNS`."""
        for metric in (name for name in METRICS if name in self.metrics):
            into, donor, *patched = (mean_score(values, self.benchmark) for values in self.metrics[metric])
            for (name, result), value in zip(self.recoveries(metric).items(), patched, strict=True):
                yield {
                    "layer": self.key.layer, "layers": self.key.layer_names, "sets": self.key.sets,
                    "head": int(name.removeprefix("head-")) if self.key.component == "head" else None,
                    "what": self.key.what, "component": self.key.component,
                    "from": self.key.donor, "into": self.key.into, "seed": self.key.seed, "metric": metric,
                    "recovery": result.ratio.value, "low": result.ratio.low, "high": result.ratio.high,
                    "into_value": into, "from_value": donor, "patched_value": value,
                    "status": result.status, "reason": result.reason,
                }  # fmt: skip


def write_patch(folder: Path, result: PatchResult) -> Path:
    """Write a result atomically and return its path. An older result of the same patch is replaced."""
    path = folder / result.key.file_name
    with new_file(path) as partial:
        _write(partial, result)
        write_seal(partial, PATCH_FORMAT, PATCH_VERSION)
    return path


def _write(path: Path, result: PatchResult) -> None:
    with create_file(path) as file:
        file.attrs["format"] = PATCH_FORMAT
        file.attrs["format_version"] = PATCH_VERSION
        for name, value in vars(result.key).items():
            file.attrs[name] = np.array(value, np.int32) if name == "layers" else value
        file.attrs["sources"] = json.dumps(result.sources)
        file.attrs["provenance"] = json.dumps(result.provenance)
        axis(file, "model", ["into", "donor", *result.patched])
        axis(file, "item", len(result.benchmark))
        create(file, "benchmark", list(result.benchmark), ["item"])
        for metric, values in result.metrics.items():
            create(file.require_group("metrics"), metric, values, ["model", "item"])


def is_patch(path: Path) -> bool:
    """Return whether a file says that it has the patch format, in any version, complete or not."""
    try:
        seal = read_seal(path)
        if seal is not None:
            return seal.format == PATCH_FORMAT
        open_for_reading(path, PATCH_FORMAT, PATCH_VERSION).close()
    except (TooNew, Unfinished):  # only raised for a file of the format that was asked for
        return True
    except (StoreError, OSError):
        return False
    return True


def read_patch(path: Path) -> PatchResult:
    """Read a stored result. Raises StoreError when the file is missing, damaged, unfinished or too new."""
    with open_for_reading(path, PATCH_FORMAT, PATCH_VERSION) as file:
        try:
            metrics = group_at(file, "metrics")
            several = int(attribute(file, "format_version")) >= SETS_SINCE
            return PatchResult(
                key=PatchKey(
                    what=attribute(file, "what"),
                    component=attribute(file, "component"),
                    layers=tuple(attribute(file, "layers").tolist()) if several else (int(attribute(file, "layer")),),
                    donor=str(attribute(file, "donor")),
                    into=str(attribute(file, "into")),
                    seed=int(attribute(file, "seed")),
                    sets=attribute(file, "sets") if several else "single",
                ),
                metrics={metric: read_array(metrics, metric) for metric in members(metrics)},
                benchmark=read_strings(file, "benchmark"),
                sources=json.loads(attribute(file, "sources")),
                provenance=json.loads(attribute(file, "provenance")),
                patched=read_strings(file, "model")[2:],
            )
        except DAMAGE as error:
            raise Damaged(f"{path} is damaged ({reason(error)}); delete it and patch again") from None
