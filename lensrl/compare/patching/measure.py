"""Measure patched models: the part of patching that needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Float64

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.activations import FORCED_METRICS, Patch, patch_activations
from lensrl.compare.patching.graft import graft, graft_logprobs, holding, run_weights
from lensrl.models.base import load_base, pick_device
from lensrl.models.bridge import boot
from lensrl.models.evaluate import sampled_scores, seconds_to_sample
from lensrl.models.references import reference_logprobs
from lensrl.recipe.layers import OUTSIDE
from lensrl.store.origin import check_items
from lensrl.store.patch import METRICS, PATCHED, Metric, PatchComponent, PatchKey
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.tasks import AgentTask, Texts, evaluation_items, load_task

InHand = Callable[[PatchKey], AbstractContextManager[bool]]  # whether a patch is to be measured by this process
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

    def measure(
        self,
        keys: Sequence[PatchKey],
        on_progress: OnProgress | None,
        *,
        metric: Metric = "both",
        on_estimate: Callable[[float], None] | None = None,
        in_hand: InHand,
    ) -> Measured:
        """Measure keys of one kind and component.

        `metric` chooses the metrics of grafts. Before the first graft is measured, `on_estimate` is given about how
        many seconds the scores take at most. While a graft is scored, this process holds it `in_hand`; a graft that is
        in other hands is left out.

        Yields, for each key: the key, its metrics, and the names of its patched models. A metric is an array (model,
        item) with the models in the order into, donor, patched models.
        """
        if keys[0].what == "weights":
            return self._measure_grafts(keys, on_progress, metric, on_estimate, in_hand)
        return self._measure_activations(keys, keys[0].component, on_progress)

    def _measure_grafts(
        self,
        keys: Sequence[PatchKey],
        on_progress: OnProgress | None,
        metric: Metric,
        on_estimate: Callable[[float], None] | None,
        in_hand: InHand,
    ) -> Measured:
        """Graft the parts of each key into one model, measure it, and put the receiver's weights back.

        Log-probabilities come first, of all grafts on a batch of items at a time. Sampled scores take far longer: one
        graft at a time, so that an interruption loses one. Texts have no score.
        """
        into, donor = self._unpatched("into"), self._unpatched("donor")
        model = self.base.reading(self.weights["into"], device=self.device)
        grafts = [self._grafted(key) for key in keys]
        task = None if metric == "logprob" or isinstance(self.task, Texts) else self.task
        if task is not None and on_estimate is not None:
            turns = task.max_turns if isinstance(task, AgentTask) else 1
            on_estimate(len(keys) * turns * seconds_to_sample(model, self.base.prompts, self.items, self.recipe))
        logprobs = [None] * len(keys)
        if metric != "score":
            logprobs = graft_logprobs(
                model, self.base, self.items, grafts, batch=self.recipe.evaluation.batch,
                on_graft=(lambda done, of: on_progress("log p", done, of)) if on_progress else None,
            )  # fmt: skip
        for done, (key, grafted, logprob) in enumerate(zip(keys, grafts, logprobs, strict=True)):
            patched = {} if logprob is None else {"reference_logprob": logprob}
            with in_hand(key) if task is not None else nullcontext(True) as mine:  # until its file is written
                if not mine:
                    continue
                if task is not None:
                    with holding(model, grafted):
                        patched["score"] = sampled_scores(model, self.base.prompts, task, self.items, self.recipe)
                    if on_progress is not None:
                        on_progress("score", done + 1, len(keys))
                metrics = {
                    name: np.stack([into[name], donor[name], patched[name]]).astype(np.float64)
                    for name in METRICS
                    if name in patched
                }
                yield key, metrics, [*PATCHED]

    def _grafted(self, key: PatchKey) -> dict[str, torch.Tensor]:
        """Return the weights that a graft puts into the receiver: those of its parts that the donor has otherwise."""
        parts = [*key.layers, *(OUTSIDE if key.sets == "everything" else ())]
        into = self.weights["into"]
        grafted = graft(self.base, into, self.weights["donor"], parts, key.component)
        return {name: weight for name, weight in grafted.items() if weight is not into[name]}

    def _unpatched(self, role: str) -> Mapping[str, Float64[np.ndarray, " item"]]:
        """Return the metrics of a whole run on the items, as the study keeps them.

        Where the scores were made elsewhere, the study keeps no log-probability, and it is measured here.
        """
        kept = self.runs[role].scores_by_item()
        if kept["reference_logprob"].notna().all():
            return {metric: kept[metric].to_numpy() for metric in ("score", "reference_logprob")}
        model = self.base.reading(self.weights[role], device=self.device)
        logprobs = reference_logprobs(model, self.base.prompts, self.items, batch=self.recipe.evaluation.batch)
        return {"reference_logprob": logprobs.astype(np.float64)}

    def _measure_activations(
        self, keys: Sequence[PatchKey], component: PatchComponent, on_progress: OnProgress | None
    ) -> Measured:
        """Patch all keys in the same pass over the items, so that the donor's activations are computed once."""
        bridges = {
            role: boot(self.base.reading(weights, device=self.device), self.base.tokenizer)
            for role, weights in self.weights.items()
        }
        # One patch per key, or one per head of its layer.
        heads = range(bridges["into"].cfg.n_heads) if component == "head" else [None]
        patches = {key: [Patch(key.layers, head) for head in heads] for key in keys}
        into, donor, patched = patch_activations(
            bridges["into"], bridges["donor"], self.base, self.items,
            [patch for each in patches.values() for patch in each], component,
            on_batch=(lambda done, of: on_progress("activations", done, of)) if on_progress else None,
        )  # fmt: skip
        names = [*PATCHED] if component != "head" else [f"head-{head}" for head in heads]
        for key in keys:
            values = np.stack([into, donor, *(patched[patch] for patch in patches[key])])  # (model, metric, item)
            yield key, {metric: values[:, i] for i, metric in enumerate(FORCED_METRICS)}, names
