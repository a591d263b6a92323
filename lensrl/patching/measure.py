"""Measuring patched models: the part of patching that needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float64

from lensrl.evaluate import evaluate
from lensrl.models import load_base, pick_device
from lensrl.patching import OnProgress
from lensrl.patching.activations import METRICS, patch_activations
from lensrl.patching.bridge import boot
from lensrl.patching.graft import graft, run_weights
from lensrl.store.patch import PatchComponent, What
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.tasks import evaluation_items, load_task

Measured = Iterator[tuple[int, dict[str, Float64[np.ndarray, "3 item"]]]]


class Patcher:
    """Two runs of a study with their weights in memory."""

    def __init__(self, study: Study, donor: Run, into: Run) -> None:
        self.recipe = study.recipe
        self.device = pick_device()
        self.base = load_base(self.recipe.model)
        self.task = load_task(self.recipe)
        self.items = evaluation_items(self.task, self.recipe)
        self.runs = {"into": into, "donor": donor}
        self.weights = {role: run_weights(run, self.base) for role, run in self.runs.items()}

    def measure(
        self, what: What, layers: Sequence[int], component: PatchComponent, on_progress: OnProgress | None
    ) -> Measured:
        """Per layer, metric -> (into, donor, patched) values per item."""
        if what == "weights":
            return self._weights(layers, component, on_progress)
        return self._activations(layers, component, on_progress)

    def _weights(self, layers: Sequence[int], component: PatchComponent, on_progress: OnProgress | None) -> Measured:
        into, donor = self.runs["into"].items, self.runs["donor"].items
        model = self.base.fresh(self.weights["into"], device=self.device)
        parameters = dict(model.named_parameters())
        inside = {layer: [n for n in parameters if self.base.blocks.layer(n) == layer] for layer in layers}
        for done, layer in enumerate(layers):
            grafted = graft(self.base, self.weights["into"], self.weights["donor"], [layer], component)
            with torch.no_grad():
                for name in inside[layer]:
                    parameters[name].copy_(grafted[name])
                scores = evaluate(model, self.base.tokenizer, self.task, self.items, self.recipe)
                for name in inside[layer]:
                    parameters[name].copy_(self.weights["into"][name])
            patched = {"score": scores.score.mean(axis=1), "reference_logprob": scores.reference_logprob}
            yield (
                layer,
                {
                    metric: np.stack([into[metric], donor[metric], values.astype(np.float64)])
                    for metric, values in patched.items()
                },
            )
            if on_progress is not None:
                on_progress("weights", done + 1, len(layers))

    def _activations(
        self, layers: Sequence[int], component: PatchComponent, on_progress: OnProgress | None
    ) -> Measured:
        bridges = {
            role: boot(self.base.fresh(weights, device=self.device), self.base.tokenizer)
            for role, weights in self.weights.items()
        }
        into, donor, patched = patch_activations(
            bridges["into"], bridges["donor"], self.base.tokenizer, self.items, layers, component,
            on_batch=(lambda done, of: on_progress("activations", done, of)) if on_progress else None,
        )  # fmt: skip
        for layer in layers:
            yield layer, {metric: np.stack([into[i], donor[i], patched[layer][i]]) for i, metric in enumerate(METRICS)}
