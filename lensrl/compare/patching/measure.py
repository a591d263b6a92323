"""Measure patched models: the part of patching that needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.activations import FORCED_METRICS, Patch, patch_activations
from lensrl.compare.patching.graft import graft, run_weights
from lensrl.measures.item_scores import item_means
from lensrl.models.base import load_base, pick_device
from lensrl.models.bridge import boot
from lensrl.models.evaluate import evaluate
from lensrl.recipe.layers import OUTSIDE
from lensrl.store.origin import check_items
from lensrl.store.patch import PATCHED, PatchComponent, PatchKey
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.tasks import evaluation_items, load_task

Measured = Iterator[tuple[PatchKey, dict[str, Float64[np.ndarray, "model item"]], list[str]]]


class Patcher:
    """Patches one run of a study into another run and measures the result. Holds the weights of both in memory.

    Raises LensrlError when the base model or the held-out items are not the study's.
    """

    def __init__(self, study: Study, donor: Run, into: Run) -> None:
        self.recipe = study.recipe
        self.device = pick_device()
        self.base = load_base(self.recipe.model, self.recipe.prompt)
        self.task = load_task(self.recipe)
        self.items = evaluation_items(self.task, self.recipe)
        for run in (donor, into):
            check_items(run, self.base.prompts.digests("test", self.items))
        self.benchmark = [item.benchmark for item in self.items]
        self.runs = {"into": into, "donor": donor}
        self.weights = {role: run_weights(run, self.base) for role, run in self.runs.items()}

    def measure(self, keys: Sequence[PatchKey], on_progress: OnProgress | None) -> Measured:
        """Measure keys of one kind and component.

        Yields, for each key: the key, its metrics, and the names of its patched models. A metric is an array (model,
        item) with the models in the order into, donor, patched models.
        """
        if keys[0].what == "weights":
            return self._measure_grafts(keys, on_progress)
        return self._measure_activations(keys, keys[0].component, on_progress)

    def _measure_grafts(self, keys: Sequence[PatchKey], on_progress: OnProgress | None) -> Measured:
        """Graft the parts of each key into one model, score it, and put the receiver's weights back."""
        into, donor = self._unpatched("into"), self._unpatched("donor")
        model = self.base.fresh(self.weights["into"], device=self.device)
        parameters = dict(model.named_parameters())
        for done, key in enumerate(keys):
            parts = [*key.layers, *(OUTSIDE if key.sets == "everything" else ())]
            grafted = graft(self.base, self.weights["into"], self.weights["donor"], parts, key.component)
            inside = [name for name in parameters if self.base.blocks.part(name) in parts]  # all that can have changed
            with torch.no_grad():
                for name in inside:
                    parameters[name].copy_(grafted[name])
                scores = evaluate(model, self.base.prompts, self.task, self.items, self.recipe)
                for name in inside:
                    parameters[name].copy_(self.weights["into"][name])
            patched = {"reference_logprob": scores.reference_logprob}
            if scores.score is not None:
                patched = {"score": item_means(scores.score, np.isfinite(scores.score))} | patched
            metrics = {
                metric: np.stack([into[metric], donor[metric], np.asarray(values, np.float64)])
                for metric, values in patched.items()
            }
            yield key, metrics, [*PATCHED]
            if on_progress is not None:
                on_progress("weights", done + 1, len(keys))

    def _unpatched(self, role: str) -> Mapping[str, Float64[np.ndarray, " item"]]:
        """Return the metrics of a whole run on the items, as the study keeps them.

        Where the scores were made elsewhere, the study keeps no log-probability, and it is measured here.
        """
        kept = self.runs[role].items
        if kept["reference_logprob"].notna().all():
            return {metric: kept[metric].to_numpy() for metric in ("score", "reference_logprob")}
        model = self.base.fresh(self.weights[role], device=self.device)
        logprobs = evaluate(model, self.base.prompts, self.task, self.items, self.recipe).reference_logprob
        return {"reference_logprob": np.asarray(logprobs, np.float64)}

    def _measure_activations(
        self, keys: Sequence[PatchKey], component: PatchComponent, on_progress: OnProgress | None
    ) -> Measured:
        """Patch all keys in the same pass over the items, so that the donor's activations are computed once."""
        bridges = {
            role: boot(self.base.fresh(weights, device=self.device), self.base.tokenizer)
            for role, weights in self.weights.items()
        }
        # One patch per key, or one per head of its layer.
        heads = range(bridges["into"].cfg.n_heads) if component == "head" else [None]
        patches = {key: [Patch(key.layers, head) for head in heads] for key in keys}
        into, donor, patched = patch_activations(
            bridges["into"], bridges["donor"], self.base.prompts, self.items,
            [patch for each in patches.values() for patch in each], component,
            on_batch=(lambda done, of: on_progress("activations", done, of)) if on_progress else None,
        )  # fmt: skip
        names = [*PATCHED] if component != "head" else [f"head-{head}" for head in heads]
        for key in keys:
            values = np.stack([into, donor, *(patched[patch] for patch in patches[key])])  # (model, metric, item)
            yield key, {metric: values[:, i] for i, metric in enumerate(FORCED_METRICS)}, names
