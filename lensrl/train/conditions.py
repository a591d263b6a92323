"""The conditions under which a workshop makes runs, as they are written into run files and into checkpoints.

Two runs of a study can be compared where these are the same. Training goes on from a checkpoint only where they are.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from lensrl.models.base import Base
from lensrl.recipe import Recipe
from lensrl.recipe.layers import OUTSIDE
from lensrl.recipe.runs import BASE
from lensrl.store.origin import engine_packages, package_versions, provenance
from lensrl.store.write import Header
from lensrl.train import ranks
from lensrl.train.config import compute_dtype, frozen_in_bf16, samples_with_copy
from lensrl.train.job import Job, run_recipe


@dataclass(frozen=True)
class Conditions:
    """The recipe, the base model, the digests of the items of each split, and the device.

    `samples` is False for texts: their recipe has no completions.
    """

    recipe: Recipe
    base: Base
    digests: Mapping[str, str]
    device: str
    _: KW_ONLY
    samples: bool

    def origin(self, job: Job) -> dict[str, dict[str, object]]:
        """Return what the training of a run rests on: a checkpoint of another origin is not used."""
        spec, recipe = job.spec, run_recipe(job)
        return {
            "recipe": recipe.measured(),
            "run": {"name": spec.name, "seed": spec.seed, "layers": spec.layers, "component": spec.component}
            | {"outside": spec.outside, "boost": spec.boost, "factor": spec.factor},
            "base": {"fingerprint": self.base.fingerprint},
            "items": {**self.digests},
            "hardware": {"device": self.device, "computed in": compute_dtype(recipe, self.device)}
            | {"frozen in bf16": frozen_in_bf16(self.base, recipe, self.device)}
            | {"sampled by a copy": samples_with_copy(recipe, self.device)},
            "versions": package_versions("lensrl", "torch", "transformers", "trl", *engine_packages(recipe.generation)),
        }

    def header(
        self,
        job: Job,
        *,
        status: str,
        reason: str,
        snapshots: Sequence[int] = (),
        checkpoint: Mapping[str, object] | None = None,
        resumed: Sequence[int] = (),
        references: Mapping[str, object] | None = None,
    ) -> Header:
        """Return the header of a run's file. The arguments are those of `Workshop.keep` and of `provenance`."""
        spec, n_layers = job.spec, self.base.blocks.n_layers
        # What was computed in which type, and where: numbers of two machines may differ in their last digits.
        dtypes = {"masters": "float32"}
        if checkpoint is None and spec.name != BASE:
            frozen = "bfloat16" if frozen_in_bf16(self.base, self.recipe, self.device) else "float32"
            dtypes |= {"frozen": frozen, "training and its sampling": compute_dtype(self.recipe, self.device)}
            if samples_with_copy(self.recipe, self.device):
                dtypes["copy that samples in training"] = "bfloat16"
        if self.samples:
            dtypes["scoring"] = "bfloat16" if self.device == "cuda" else "float32"
        dtypes["log-probabilities and activations"] = "float32"
        hardware = torch.cuda.get_device_name() if self.device == "cuda" else f"cpu {platform.machine()}"
        if ranks.world() > 1 and checkpoint is None:
            hardware = f"{ranks.world()} x {hardware}" + (", weights in shards" if self.recipe.engine.shard else "")
        return Header(
            study=job.folder.resolve().name,
            run=spec.name,
            seed=spec.seed,
            layers=range(n_layers) if spec.layers is None else spec.layers,
            status=status,
            reason=reason,
            base=self.recipe.model,
            fingerprint=self.base.fingerprint,
            n_layers=n_layers,
            recipe=run_recipe(job).model_dump_json(),
            compression=job.recipe.store.compression,
            snapshots=snapshots,
            origin="training" if checkpoint is None else "checkpoint",
            also=[part for part in OUTSIDE if part in {*spec.outside, *spec.allow}],
            provenance=provenance(
                device=hardware,
                dtypes=dtypes,
                items=self.digests,
                notes=self.base.notes,
                generation=self.recipe.generation if self.samples else None,
                checkpoint=checkpoint,
                resumed=resumed,
                references=references,
            ),
        )
