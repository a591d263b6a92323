"""The result of patching one layer: a file of its own, since run files are never changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64

from lensrl.errors import Damaged, reason
from lensrl.measures.contribution import GainRatio, gain_ratios, mean_score
from lensrl.store.atomic import new_file
from lensrl.store.checked import DAMAGE, attribute, group_at, members, open_for_reading, read_array, read_strings
from lensrl.store.hdf5 import axis, create, create_file
from lensrl.store.seal import write_seal

PATCH_FORMAT = "lensrl-patch"
PATCH_VERSION = 2

What = Literal["weights", "activations"]
PatchComponent = Literal["block", "attn", "mlp"]
METRICS = ("score", "reference_logprob", "logit_difference")


@dataclass(frozen=True)
class PatchKey:
    """What was patched: part `component` of `layer`, taken from run `donor` and put into run `into`."""

    what: What
    component: PatchComponent
    layer: int
    donor: str
    into: str
    seed: int

    @property
    def file_name(self) -> str:
        return f"{self.what}.{self.component}.{self.donor}-into-{self.into}.layer-{self.layer}.seed-{self.seed}.h5"


@dataclass(frozen=True)
class PatchResult:
    """Per-item metrics of the receiving run, the donor, and the patched model.

    `metrics` maps a metric's name to (into, donor, patched) values per item: `score` (mean over samples),
    `reference_logprob` (nats per token), `logit_difference` (reference token minus its strongest rival).
    """

    key: PatchKey
    metrics: Mapping[str, Float64[np.ndarray, "3 item"]]
    benchmark: Sequence[str]
    sources: Mapping[str, str]  # run_id of the donor and of the receiving run
    provenance: Mapping[str, object]

    COLUMNS: ClassVar[list[str]] = [
        "layer", "what", "component", "from", "into", "seed", "metric",
        "recovery", "low", "high", "into_value", "from_value", "patched_value", "status", "reason",
    ]  # fmt: skip

    def recovery(self, metric: str) -> GainRatio:
        """(M(patched) - M(into)) / (M(from) - M(into)), with its paired bootstrap interval over items."""
        into, donor, patched = (values[None] for values in self.metrics[metric])
        return gain_ratios(into, donor, {"patched": patched}, self.benchmark, gain="M(from) - M(into)")["patched"]

    def rows(self) -> Iterator[dict[str, object]]:
        """One row per metric, with the columns of `COLUMNS`."""
        for metric in (name for name in METRICS if name in self.metrics):
            result = self.recovery(metric)
            into, donor, patched = (mean_score(values, self.benchmark) for values in self.metrics[metric])
            yield {
                "layer": self.key.layer, "what": self.key.what, "component": self.key.component,
                "from": self.key.donor, "into": self.key.into, "seed": self.key.seed, "metric": metric,
                "recovery": result.ratio.value, "low": result.ratio.low, "high": result.ratio.high,
                "into_value": into, "from_value": donor, "patched_value": patched,
                "status": result.status, "reason": result.reason,
            }  # fmt: skip


def write_patch(folder: Path, result: PatchResult) -> Path:
    """Write a result atomically; an older result of the same patch is replaced."""
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
            file.attrs[name] = value
        file.attrs["sources"] = json.dumps(result.sources)
        file.attrs["provenance"] = json.dumps(result.provenance)
        axis(file, "model", ["into", "donor", "patched"])
        axis(file, "item", len(result.benchmark))
        create(file, "benchmark", list(result.benchmark), ["item"])
        for metric, values in result.metrics.items():
            create(file.require_group("metrics"), metric, values, ["model", "item"])


def read_patch(path: Path) -> PatchResult:
    """Read a stored result. Raises StoreError when the file is damaged."""
    with open_for_reading(path, PATCH_FORMAT, PATCH_VERSION) as file:
        try:
            metrics = group_at(file, "metrics")
            return PatchResult(
                key=PatchKey(
                    what=attribute(file, "what"),
                    component=attribute(file, "component"),
                    layer=int(attribute(file, "layer")),
                    donor=str(attribute(file, "donor")),
                    into=str(attribute(file, "into")),
                    seed=int(attribute(file, "seed")),
                ),
                metrics={metric: read_array(metrics, metric) for metric in members(metrics)},
                benchmark=read_strings(file, "benchmark"),
                sources=json.loads(attribute(file, "sources")),
                provenance=json.loads(attribute(file, "provenance")),
            )
        except DAMAGE as error:
            raise Damaged(f"{path} is damaged ({reason(error)}); delete it and patch again") from None
