"""Models whose difference is known because it was put there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from lensrl.models.base import Base
from lensrl.models.blocks import find_blocks
from lensrl.models.bridge import capture, probe_set
from lensrl.models.evaluate import evaluate
from lensrl.models.references import answer_logprobs, references
from lensrl.store.file.atomic import new_file
from lensrl.store.write import Header, write_run
from lensrl.tasks import evaluation_items, load_task
from lensrl.train.materials import parameter_table, probe_items
from tests.conftest import SMALL
from tests.store.synthetic import training

TASK = load_task(SMALL)
ITEMS = evaluation_items(TASK, SMALL)
Weights = dict[str, torch.Tensor]


def helpful_delta(base: Base, layer: int, norm: float) -> Weights:
    """A change of one layer along the gradient of the references' log-probability: it helps, as RL would."""
    model = base.fresh()
    parameters = {n: p for n, p in model.named_parameters() if base.blocks.layer(n) == layer}
    gain = answer_logprobs(model, references(base.prompts, ITEMS)).mean()
    return scaled(dict(zip(parameters, torch.autograd.grad(gain, list(parameters.values())), strict=True)), norm)


def random_delta(base: Base, layer: int, norm: float) -> Weights:
    generator = torch.Generator().manual_seed(7)
    weights = {n: w for n, w in base.weights.items() if base.blocks.layer(n) == layer}
    return scaled({n: torch.randn(w.shape, generator=generator) for n, w in weights.items()}, norm)


def scaled(delta: Weights, norm: float) -> Weights:
    length = math.sqrt(sum(float(d.square().sum()) for d in delta.values()))
    return {name: d * (norm / length) for name, d in delta.items()}


def plus(base: Base, *deltas: Weights) -> Weights:
    """The base's weights with the deltas added."""
    weights = dict(base.weights)
    for delta in deltas:
        weights |= {name: weights[name] + d for name, d in delta.items()}
    return weights


def plant(folder: Path, run: str, base: Base, weights: Weights, layers: Sequence[int]) -> None:
    """Write a run file with these weights, scored and probed as a study does it."""
    chosen = probe_items(ITEMS, SMALL.store.probe_items)
    scores = evaluate(base.fresh(weights), base.prompts, TASK, ITEMS, SMALL)
    before, after = ({name: w.numpy() for name, w in each.items()} for each in (base.weights, weights))
    header = Header(
        study="planted", run=run, seed=0, layers=list(layers), status="completed", reason="", base=SMALL.model,
        fingerprint=base.fingerprint, n_layers=base.blocks.n_layers, recipe=SMALL.model_dump_json(), provenance={},
    )  # fmt: skip
    with new_file(folder / f"{run}.seed-0.h5") as partial:
        write_run(
            partial, header, parameter_table(base), before, after=after, scores=scores,
            training=training(base.blocks.n_layers), probe=probe_set(base.prompts, chosen),
            activations=capture(base.fresh(weights), base.prompts, chosen, base.blocks.n_layers),
        )  # fmt: skip


def random_base(base: Base, layers: int) -> Base:
    """A random model of the base's architecture, with an `lm_head` of its own."""
    config = type(base.model.config)(**base.model.config.to_dict() | {
        "num_hidden_layers": layers, "hidden_size": 32, "intermediate_size": 48, "tie_word_embeddings": False,
        "layer_types": None,
    })  # fmt: skip
    torch.manual_seed(0)
    model = type(base.model)(config).eval()
    with torch.no_grad():  # as initialised, the layers would hardly matter
        for weight in (w for w in model.parameters() if w.ndim > 1):
            weight.copy_(0.3 * torch.randn_like(weight))
    return Base("random", model, base.tokenizer, find_blocks(model))
