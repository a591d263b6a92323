"""Measure how sensitive a base model's metric is to each layer: the cost of leaving it out, and the gradient in it.

The metric is the mean log-probability of the reference answers of the held-out items, in nats per token. Items have
the same weights as in the score:

    M(w) = sum_i a_i m_i(w),    a_i = 1 / (number of benchmarks x items of i's benchmark)

Three measures follow. Only the delta d in the last one needs RL:

    bypass        M(w) - M(w without block l)        the block adds nothing to the residual stream
    gradient      g_l = dM / dw_l
    first order   <g_l, d_l> = M(w + d_l) - M(w) + O(|d_l|^2)

M uses the held-out items, not the training items. Every run of the study stores M on them, so the first-order
prediction can be compared with the measured change. (Molchanov et al. 2019, arXiv 1906.10771, use the same expansion
for the importance of a weight.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from transformers import PreTrainedModel

from lensrl.compare.cluster import Cluster
from lensrl.compare.patching import OnProgress
from lensrl.errors import LensrlError
from lensrl.measures.score import item_weights, mean_score
from lensrl.models.base import Base, load_base, pick_device
from lensrl.models.blocks import Blocks, train_only
from lensrl.models.entry import TRIED, entering, enters, recording, stream_batch
from lensrl.models.evaluate import sampled_scores
from lensrl.models.prompts import Prompts
from lensrl.models.references import answer_batch, answer_logprobs, batches, references
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.file.deltas import frobenius
from lensrl.store.origin import check_base, check_items
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.tasks import Item, Texts, evaluation_items, load_task

Gradients = Mapping[str, torch.Tensor]  # parameter -> dM/dw, in the parameter's shape


@contextmanager
def bypass(model: PreTrainedModel, blocks: Blocks, layer: int) -> Iterator[None]:
    """Context in which `layer` passes the residual stream through unchanged. Its attention still fills its cache."""

    def hand_through(_: object, args: tuple, kwargs: dict, output: object) -> object:
        stream = args[0] if args else kwargs["hidden_states"]
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    block = model.get_submodule(f"{blocks.prefix}.{layer}")
    hook = block.register_forward_hook(hand_through, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def bypass_logprobs(
    model: PreTrainedModel,
    base: Base,
    items: Sequence[Item],
    *,
    batch: int,
    layers: Sequence[int] | None = None,
    on_layer: OnProgress | None = None,
) -> tuple[Float64[np.ndarray, " item"], Float64[np.ndarray, "layer item"]]:
    """Return log p of each item's reference, in nats per token, by the whole model and without each of `layers`.

    One pass for each batch of items records the streams, and the pass without block l starts at layer l
    (`lensrl.models.entry`).
    """
    blocks, prompts = base.blocks, base.prompts
    layers = range(blocks.n_layers) if layers is None else layers
    size = min(answer_batch(model, prompts, items, batch), stream_batch(model, base, items))
    can_enter = enters(model, blocks, references(prompts, items[:TRIED]).to(model.device))
    whole: list[torch.Tensor] = []
    without: list[list[torch.Tensor]] = [[] for _ in layers]
    for start in range(0, len(items), size):
        teacher = references(prompts, items[start : start + size]).to(model.device)
        with recording(model, blocks) as outputs:
            whole.append(answer_logprobs(model, teacher))
        for done, (layer, values) in enumerate(zip(layers, without, strict=True), start=1):
            with bypass(model, blocks, layer), entering(model, blocks, layer if can_enter else 0, outputs):
                values.append(answer_logprobs(model, teacher))
            if on_layer is not None:
                on_layer("bypass", start // size * len(layers) + done, -(-len(items) // size) * len(layers))
    return _joined(whole), np.stack([_joined(values) for values in without])


def _joined(chunks: Sequence[torch.Tensor]) -> Float64[np.ndarray, " item"]:
    return torch.cat(list(chunks)).double().cpu().numpy()


def metric_gradients(
    model: PreTrainedModel,
    blocks: Blocks,
    prompts: Prompts,
    items: Sequence[Item],
    *,
    batch: int,
    on_batch: Callable[[int, int], None] | None = None,
) -> Gradients:
    """Return dM/dw of every parameter in a layer, accumulated over batches of items.

    Parameters outside the layers are frozen and have no gradient. Changes `model`: its parameters keep the gradients
    as `.grad`.
    """
    train_only(model, blocks, range(blocks.n_layers))
    model.zero_grad()
    weights = item_weights([item.benchmark for item in items])
    done = 0
    for chunk in batches(items, answer_batch(model, prompts, items, batch)):
        means = answer_logprobs(model, references(prompts, chunk).to(model.device))
        (means * torch.from_numpy(weights[done : done + len(chunk)]).to(means)).sum().backward()
        done += len(chunk)
        if on_batch is not None:
            on_batch(done, len(items))
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def first_order(run: Run, layer: int, gradients: Gradients) -> float:
    """Return <g_l, d_l> for the run's delta of `layer`: the change of M if M were linear, in nats per token."""
    return sum(
        float(np.vdot(change.delta.astype(np.float64), gradients[name].double().cpu().numpy()))
        for name, change in run.deltas.exact(layer).values()
    )


@dataclass(frozen=True)
class Bypassed:
    """The layers that a worker leaves out, one after another. It can be pickled."""

    study: Path
    layers: Sequence[int]
    sampled: bool


def measure_layers(
    study: Study, *, sampled: bool, cluster: Cluster | None = None, on_progress: OnProgress | None = None
) -> pd.DataFrame:
    """Measure the columns of `lensrl.compare.rivals.RIVALS` that need the model: one row per layer.

    A `cluster` measures the layers' bypass. The gradients, from one backward pass, are taken here.

    Raises LensrlError when the base model is not the study's.
    """
    base, items = _materials(study)
    model = base.reading(device=pick_device())
    # The bypass needs the model as it is; the gradients change it afterwards.
    if cluster is None:
        every = range(base.blocks.n_layers)
        table = _bypass_costs(study, base, model, items, every, sampled=sampled, on_progress=on_progress)
    else:
        table = _by_cluster(cluster, study, base.blocks.n_layers, sampled=sampled, on_progress=on_progress)
    gradients = metric_gradients(
        model, base.blocks, base.prompts, items, batch=_backward_batch(study.recipe),
        on_batch=(lambda done, of: on_progress("gradient", done, of)) if on_progress else None,
    )  # fmt: skip
    for layer in table["layer"]:
        inside = [name for name in base.weights if base.blocks.layer(name) == layer]
        norm = np.linalg.norm([frobenius(base.weights[name].numpy()) for name in inside])
        slope = np.linalg.norm([frobenius(gradients[name].cpu().numpy()) for name in inside])
        table.loc[layer, "weight_norm"] = norm
        table.loc[layer, "gradient_norm"] = slope / norm
        table.loc[layer, "parameters"] = sum(base.weights[name].numel() for name in inside)
        for column, run_name in (("first_order_single", layer_run(layer)), ("first_order_full", FULL)):
            runs = study.runs.of(run_name, scored=True).values()
            changes = [first_order(run, layer, gradients) for run in runs]
            table.loc[layer, column] = np.mean(changes) if changes else np.nan
    return table


def measure_bypass(asked: Bypassed) -> pd.DataFrame:
    """Measure what it costs to leave out each layer of a share: the columns of `_bypass_costs`."""
    with Study(asked.study) as study:
        base, items = _materials(study)
        model = base.reading(device=pick_device())
        return _bypass_costs(study, base, model, items, asked.layers, sampled=asked.sampled)


def _materials(study: Study) -> tuple[Base, list[Item]]:
    """Load the base model and the held-out items. Raises LensrlError when they are not the study's own."""
    recipe = study.recipe
    base = load_base(recipe.model, recipe.prompt)
    check_base(study[BASE], base.name, base.fingerprint)
    items = evaluation_items(load_task(recipe), recipe)
    check_items(study[BASE], base.prompts.digests("test", items))
    return base, items


def _by_cluster(
    cluster: Cluster, study: Study, n_layers: int, *, sampled: bool, on_progress: OnProgress | None
) -> pd.DataFrame:
    """Let a cluster measure the layers' bypass: a low layer takes longest, so each share has low and high ones."""

    def share(room: int) -> list[Bypassed]:
        count = min(room, n_layers)
        return [Bypassed(study.path.absolute(), range(start, n_layers, count), sampled) for start in range(count)]

    parts: list[pd.DataFrame] = []
    for part in cluster.each(study, measure_bypass, share):
        parts.append(part)
        if on_progress is not None:
            on_progress("bypass", sum(map(len, parts)), n_layers)
    return pd.concat(parts).sort_values("layer", ignore_index=True)


def _bypass_costs(
    study: Study,
    base: Base,
    model: PreTrainedModel,
    items: Sequence[Item],
    layers: Sequence[int],
    *,
    sampled: bool,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Return one row for each of `layers`: layer, bypass_logprob, bypass_score (NaN unless `sampled`)."""
    recipe, task = study.recipe, load_task(study.recipe)
    if sampled and isinstance(task, Texts):
        raise LensrlError(f"{study.path} samples no scores: its task is {recipe.task.name!r}; leave out sampled=True")
    if sampled and recipe.generation == "vllm":  # it would sample the whole model, with weights of its own
        raise LensrlError(f"{study.path} samples with vLLM, which cannot leave out a layer; leave out sampled=True")
    benchmark = [item.benchmark for item in items]

    # Measured here, not read: a bypassed model runs on the same kernels, the study perhaps did not.
    whole, without = bypass_logprobs(
        model, base, items, batch=recipe.evaluation.batch, layers=layers, on_layer=on_progress
    )
    rows = []
    for done, (layer, logprobs) in enumerate(zip(layers, without, strict=True), start=1):
        cost = mean_score(whole, benchmark) - mean_score(logprobs, benchmark)
        lost = {"layer": layer, "bypass_logprob": cost, "bypass_score": np.nan}
        if sampled:
            assert not isinstance(task, Texts)  # refused above
            with bypass(model, base.blocks, layer):
                scores = sampled_scores(model, base.prompts, task, items, recipe)
            lost["bypass_score"] = study[BASE].score - mean_score(scores.astype(np.float64), benchmark)
            if on_progress is not None:
                on_progress("bypass, sampled", done, len(layers))
        rows.append(lost)
    return pd.DataFrame(rows)


def _backward_batch(recipe: Recipe) -> int:
    """Return the items per backward pass: as in training, or 1 where training saved memory by checkpointing."""
    if recipe.rl.gradient_checkpointing:
        return 1
    return recipe.rl.micro_batch or recipe.rl.prompts_per_step * recipe.rl.completions_per_prompt
