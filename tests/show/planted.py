"""A study as deep as real ones, made of planted numbers and no model: what the page has to hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.file.deltas import Parameter
from lensrl.store.names import PATCH_FOLDER, RECIPE_FILE, run_path
from lensrl.store.patch import PatchKey, PatchResult, What, write_patch
from lensrl.store.run import Run
from lensrl.store.write import Probe, Scores
from tests.store.synthetic import header, parameter, write_run

MATRICES = {"q": "attn", "k": "attn", "v": "attn", "o": "attn", "gate": "mlp", "up": "mlp", "down": "mlp"}
METRICS: dict[What, tuple[str, ...]] = {
    "weights": ("score", "reference_logprob"),
    "activations": ("reference_logprob", "logit_difference"),
}
PROVENANCE = {"created": "a day", "device": "none", "git": "none", "versions": {}}
SAMPLES, STEPS = 4, 120


def planted_profile(n_layers: int) -> np.ndarray:
    """Contributions that rise to 0.9 in the middle third and fall to 0.4."""
    depth = np.linspace(0, 1, n_layers)
    return 0.4 + 0.5 * np.exp(-(((depth - 0.45) / 0.3) ** 2))


def make_planted_study(
    folder: Path,
    n_layers: int = 36,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    items: int = 160,
    benchmarks: Sequence[str] = ("additions", "words"),
    reason: str = "",
) -> Path:
    """Write a study whose layers recover `planted_profile`, with curves, deltas, activations and patches of full RL.

    With a `reason`, layer 0 collapsed for it.
    """
    folder.mkdir()
    recipe = Recipe.model_validate({
        "model": "tiny:none", "task": {"name": "arithmetic"}, "seeds": [*seeds],
        "evaluation": {"items": items, "samples": SAMPLES},
    })  # fmt: skip
    (folder / RECIPE_FILE).write_text(recipe.model_dump_json(), encoding="utf-8")
    rng = np.random.default_rng(0)
    weights, parameters = _weights(n_layers, rng)
    hard = rng.uniform(0.2, 0.8, items)
    share = planted_profile(n_layers)
    probe = Probe(np.arange(32, dtype=np.int32), np.arange(32, dtype=np.int32) // 4,
                  np.arange(32, dtype=np.int32) % 4, ["é"] * 32)  # fmt: skip
    states = rng.normal(size=(n_layers, 32, 12)).cumsum(axis=0)

    def write(run: str, seed: int, trained: Sequence[int], gain: float) -> None:
        noise = np.random.default_rng([seed, len(run), *trained][:40])
        after = dict(weights)
        for layer in trained:
            for name in MATRICES:
                place = f"model.layers.{layer}.{MATRICES[name]}.{name}.weight"
                size = 1e-3 * (1 + layer / n_layers) * (2 if name == "down" else 1)
                after[place] = weights[place] + np.asarray(noise.normal(scale=size, size=(4, 4)), np.float32)
        moved = states + 0.15 * bool(trained) * noise.normal(size=states.shape).cumsum(axis=0)
        block = moved.astype(np.float32)
        solved = noise.random((items, SAMPLES)) < np.clip(hard + gain * 0.3, 0, 1)[:, None]
        length = noise.integers(20, 90, (items, SAMPLES)).astype(np.int32)
        fell = {"status": "collapsed", "reason": reason} if reason and run == layer_run(0) else {}
        about = replace(header(run, seed, n_layers=n_layers), provenance=PROVENANCE, **fell)
        write_run(
            run_path(folder, run, seed), about, parameters, weights,
            after=after if trained else None, training=_curve(n_layers, gain, noise) if trained else None,
            scores=Scores(
                item=[f"item-{i}" for i in range(items)],
                benchmark=[benchmarks[i % len(benchmarks)] for i in range(items)],
                score=solved.astype(np.float32), length=length, truncated=length > 85,
                reference_logprob=np.asarray(noise.normal(-2 + gain, 0.2, items), np.float32),
                answer=np.where(solved, 0, noise.integers(1, 9, solved.shape)),
            ),
            probe=probe, activations={"block_out": block, "attn_out": 0.5 * block, "mlp_out": 0.5 * block},
        )  # fmt: skip

    write(BASE, 0, (), 0.0)
    for seed in seeds:
        write(FULL, seed, range(n_layers), 1.0)
        for layer in range(n_layers):
            write(layer_run(layer), seed, (layer,), float(share[layer]))
    _patches(folder, n_layers, seeds, share, [benchmarks[i % len(benchmarks)] for i in range(items)])
    return folder


def _weights(n_layers: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], tuple[Parameter, ...]]:
    weights, parameters = {}, []
    for layer in range(n_layers):
        for name, component in MATRICES.items():
            place = f"model.layers.{layer}.{component}.{name}.weight"
            weights[place] = np.asarray(rng.normal(size=(4, 4)), np.float32)
            parameters.append(parameter(place, str(layer), f"{component}.{name}.weight", component, weights[place]))
    return weights, tuple(parameters)


def _curve(n_layers: int, gain: float, noise: np.random.Generator) -> dict[str, np.ndarray]:
    steps = np.arange(STEPS)
    reward = 0.3 + 0.4 * gain * (1 - np.exp(-steps / 40)) + noise.normal(0, 0.03, STEPS)
    return {
        "reward_mean": reward, "reward_std": np.full(STEPS, 0.4), "loss": noise.normal(0, 0.01, STEPS),
        "grad_norm": noise.uniform(0.5, 1.5, STEPS), "layer_grad_norm": noise.uniform(size=(STEPS, n_layers)),
        "outside_grad_norm": noise.uniform(size=(STEPS, 3)), "completion_length": 60 - 0.1 * steps,
        "truncated_share": np.full(STEPS, 0.1), "zero_spread_share": np.full(STEPS, 0.2),
        "step_time": np.full(STEPS, 0.1), "peak_memory": np.full(STEPS, 1e6),
    }  # fmt: skip


def _patches(folder: Path, n_layers: int, seeds: Sequence[int], share: np.ndarray, benchmark: Sequence[str]) -> None:
    (folder / PATCH_FOLDER).mkdir()
    rng = np.random.default_rng(3)
    for seed in seeds:
        sources = {}
        for name in (BASE, FULL):
            with Run(run_path(folder, name, seed)) as run:
                sources[name] = run.run_id
        for layer in range(n_layers):
            for what, metrics in METRICS.items():
                for donor, into in ((FULL, BASE), (BASE, FULL)):
                    start, end = (0.0, 1.0) if into == BASE else (1.0, 0.0)
                    value = start + (end - start) * float(share[layer]) / 3
                    result = PatchResult(
                        key=PatchKey(what, "block", (layer,), donor, into, seed),
                        metrics={
                            metric: np.stack([at + rng.normal(0, 0.2, len(benchmark)) for at in (start, end, value)])
                            for metric in metrics
                        },
                        benchmark=benchmark, sources=sources, provenance={},
                    )  # fmt: skip
                    write_patch(folder / PATCH_FOLDER, result)
