"""Runs and studies made of a few numbers, without a model: what the tests of the store share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, run_layer
from lensrl.store.completions import Completions, TrainingCompletion
from lensrl.store.file.atomic import new_file
from lensrl.store.file.deltas import Parameter
from lensrl.store.names import RECIPE_FILE, run_path
from lensrl.store.write import Header, Probe, Scores
from lensrl.store.write import write_run as write_partial
from tests.reseal import resealed as resealed

N_LAYERS = 2
PLACES = (
    ("model.embed.weight", "embed", "model.embed.weight", "", (7, 4)),
    ("model.layers.0.attn.q.weight", "0", "attn.q.weight", "attn", (4, 4)),
    ("model.layers.0.mlp.conv.weight", "0", "mlp.conv.weight", "mlp", (2, 3, 4)),
    ("model.layers.1.norm.weight", "1", "norm.weight", "norm", (4,)),
    ("model.layers.1.scale", "1", "scale", "attn", ()),
    ("model.norm.weight", "final_norm", "model.norm.weight", "", (4,)),
)

Weights = dict[str, np.ndarray]


def write_run(path: Path, *arguments: Any, **named: Any) -> None:
    """A run file at `path`, as a study writes it."""
    with new_file(path) as partial:
        write_partial(partial, *arguments, **named)


def before_weights() -> Weights:
    rng = np.random.default_rng(0)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, *_, shape in PLACES}


def parameter(name: str, part: str, inner: str, component: str, weights: np.ndarray) -> Parameter:
    return Parameter(name, part, inner, component, weights.size, float(np.linalg.norm(weights.astype(np.float64))))


PARAMETERS = tuple(parameter(*place[:4], before_weights()[place[0]]) for place in PLACES)


def after_weights(changed: Sequence[str]) -> Weights:
    """`before_weights` with the named parameters moved, one entry of each so far that the delta needs a repair."""
    rng = np.random.default_rng(1)
    after = before_weights()
    for name in changed:
        after[name] += np.asarray(rng.normal(scale=1e-3, size=after[name].shape), np.float32)
        after[name].reshape(-1)[-1] *= np.float32(3e-9)
    return after


def header(
    run: str,
    seed: int = 0,
    *,
    status: str = "completed",
    reason: str = "",
    n_layers: int = N_LAYERS,
) -> Header:
    """The header of a run that trained the layers in its name; all layers where the name is of a set."""
    layer = run_layer(run.partition("@")[0])
    return Header(
        study="synthetic",
        run=run,
        seed=seed,
        layers=() if run == BASE else range(n_layers) if layer is None else (layer,),
        status=status,
        reason=reason,
        base="tiny:none",
        fingerprint="0123",
        n_layers=n_layers,
        recipe='{"model": "tiny:none"}',
        provenance={"device": "none"},
    )


def score_arrays(
    score: np.ndarray, benchmark: Sequence[str] | None = None, item: Sequence[str] | None = None
) -> Scores:
    """Scores of shape (item, sample); lengths count up from 1, and every second completion is truncated."""
    n_items = len(score)
    length = np.arange(1, score.size + 1, dtype=np.int32).reshape(score.shape)
    return Scores(
        item=item or [f"item-{i}" for i in range(n_items)],
        benchmark=benchmark or ["only"] * n_items,
        score=score.astype(np.float32),
        length=length,
        truncated=length % 2 == 0,
        reference_logprob=-np.arange(n_items, dtype=np.float32),
        completions=texts(n_items, score.shape[1]),
    )


def texts(items: int, samples: int) -> Completions:
    """Prompts, references and completions, of one byte a character and of several; the first completion is empty."""
    completions = [["é" * (row * samples + sample) for sample in range(samples)] for row in range(items)]
    return Completions([f"{row}+1=" for row in range(items)], [str(row + 1) for row in range(items)], completions)


def training_texts() -> list[TrainingCompletion]:
    """Two completions of the first step, and one of the third."""
    return [
        TrainingCompletion(1, "item-7", "1+1=", "2", 1.0, 2, truncated=False),
        TrainingCompletion(1, "item-8", "1+2=", "語", 0.0, 5, truncated=True),
        TrainingCompletion(3, "item-7", "1+1=", "", 0.0, 1, truncated=False),
    ]


def probe() -> Probe:
    counts = np.arange(3, dtype=np.int32)
    return Probe(token_id=counts + 5, prompt=counts // 2, position=counts % 2, text=["a", "é", "語"])


def activations(n_layers: int = N_LAYERS) -> Weights:
    values = np.random.default_rng(2).normal(size=(n_layers, 3, 5)).astype(np.float32)
    return {"block_out": values, "attn_out": -values, "mlp_out": 2 * values}


def training(n_layers: int = N_LAYERS) -> Weights:
    """The curve of three steps; the last step diverged before it had a loss."""
    return {
        "reward_mean": np.array([0.1, 0.2, 0.4]),
        "reward_std": np.array([0.3, 0.4, 0.5]),
        "loss": np.array([1.0, 0.5]),
        "grad_norm": np.array([2.0, 3.0, 4.0]),
        "layer_grad_norm": np.arange(3.0 * n_layers).reshape(3, n_layers),
        "outside_grad_norm": np.arange(9.0).reshape(3, 3),
        "completion_length": np.array([5.0, 6.0, 7.0]),
        "truncated_share": np.array([0.0, 0.25, 0.5]),
        "zero_spread_share": np.array([1.0, 0.5, 0.0]),
        "step_time": np.array([0.125, 0.25]),
        "peak_memory": np.array([1e6, 2e6]),
    }


def write_full_run(path: Path) -> None:
    """A run file that has everything."""
    write_run(
        path,
        header("full-rl", seed=3),
        PARAMETERS,
        before_weights(),
        after=after_weights([p.name for p in PARAMETERS[:5]]),
        training=training(),
        training_completions=training_texts(),
        scores=score_arrays(np.array([[0.0, 1.0], [1.0, 1.0], [0.25, 0.5]]), ["easy", "easy", "hard"]),
        probe=probe(),
        activations=activations(),
    )


def make_study(folder: Path) -> Path:
    """A study folder with a recipe and no run."""
    folder.mkdir()
    recipe = Recipe.model_validate({"model": "tiny:none", "task": {"name": "arithmetic"}})
    (folder / RECIPE_FILE).write_text(recipe.model_dump_json(), encoding="utf-8")
    return folder


def add_run(
    folder: Path,
    run: str,
    scores: Mapping[str, Sequence[float]] | None,
    seed: int = 0,
    *,
    status: str = "completed",
    reason: str = "",
    n_layers: int = N_LAYERS,
    prefix: str = "",
    probed: bool = True,
) -> Path:
    """Write a run with one score per item, given per benchmark; a run that diverged has none.

    A run that is not `probed` has no activations: `verify` calls it damaged, and what reads scores alone takes it.
    """
    path = run_path(folder, run, seed)
    arrays = None
    if scores is not None:
        values = np.array([value for part in scores.values() for value in part])
        benchmark = [name for name, part in scores.items() for _ in part]
        arrays = score_arrays(values[:, None], benchmark, [f"{prefix}{i}" for i in range(len(values))])
    about = header(run, seed, status=status, reason=reason, n_layers=n_layers)
    measured: dict[str, Any] = {"scores": arrays}
    if scores is not None and probed:
        measured |= {"probe": probe(), "activations": activations(n_layers)}
    curve = None if run == BASE else training(n_layers)
    write_run(path, about, PARAMETERS, before_weights(), training=curve, **measured)
    return path


def solved_by_half(first: int, other: int) -> dict[str, list[float]]:
    """40 items, of which so many are solved of those at even places (the first half) and at odd ones."""
    even, odd = ([1.0] * count + [0.0] * (20 - count) for count in (first, other))
    return {"only": [score for pair in zip(even, odd, strict=True) for score in pair]}
