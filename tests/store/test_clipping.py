"""Clipped steps of a study's runs, against the gradients before and after torch clips them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lensrl import Study
from lensrl.models.base import Base
from lensrl.recipe import Recipe, Rl
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.training import train
from tests.conftest import SMALL


def test_the_share_and_the_factor_are_those_of_the_gradients_that_torch_clips(
    small_study: Study, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def measured(parameters: Any, *given: Any, **named: Any) -> torch.Tensor:
        held = [p for p in parameters if p.grad is not None]
        before = torch.stack([p.grad.norm() for p in held]).norm()
        norm = clip(held, *given, **named)
        factors.append(float(torch.stack([p.grad.norm() for p in held]).norm() / before))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", measured)
    train(base, Arithmetic(), SMALL, layers=None, seed=0)
    table = small_study.clipped_steps().set_index("run")
    assert len(factors) == SMALL.rl.steps
    assert table.loc["full-rl", "mean_factor"] == pytest.approx(np.mean(factors), rel=1e-4)
    assert table.loc["full-rl", "clipped_share"] == np.mean([factor < 0.999 for factor in factors])
    assert 0 < np.mean(factors) < 1, "a test without clipping would show nothing"
    assert table["layer"].dropna().tolist() == [0, 3, 7]


def changed(**settings: Any) -> Recipe:
    return SMALL.model_copy(update={"rl": Rl.model_validate(SMALL.rl.model_dump() | settings)})


@pytest.mark.parametrize(("layers", "share"), [(None, 1.0), ([3], 1 / 9)])
def test_the_limit_grows_with_the_root_of_the_trained_parameters(
    base: Base, layers: list[int] | None, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def seen(parameters: Any, max_norm: float, *given: Any, **named: Any) -> torch.Tensor:
        limits.append(max_norm)
        return clip(parameters, max_norm, *given, **named)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", seen)
    train(base, Arithmetic(), changed(steps=1, max_grad_norm="per-parameter-count"), layers=layers, seed=0)
    sizes = {name: weights.numel() for name, weights in base.weights.items()}
    counted = sum(size for name, size in sizes.items() if layers is None or name.startswith("model.layers.3."))
    assert limits == [pytest.approx(np.sqrt(counted / sum(sizes.values())))]
    assert limits[0] == pytest.approx(np.sqrt(share), rel=0.2)


def test_none_never_clips(base: Base) -> None:
    """To the bit as with a limit that no gradient meets."""
    free, wide, narrow = (
        train(base, Arithmetic(), changed(steps=2, max_grad_norm=limit), layers=[0, 3], seed=0).weights
        for limit in ("none", 1e9, 1e-3)
    )
    assert all(torch.equal(free[name], wide[name]) for name in free)
    assert not all(torch.equal(free[name], narrow[name]) for name in free)


def test_clipped_steps_count_by_the_limit_of_each_run(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked as if the same runs had been made with the other limits."""
    for word in ("none", "per-parameter-count"):
        monkeypatch.setattr(small_study.runs, "recipe", changed(max_grad_norm=word))
        table = small_study.clipped_steps().set_index("run")
        for name in ("full-rl", "layer-3"):
            run = small_study[name]
            sizes = run.delta_norms().set_index("part")["size"]
            limit = np.inf if word == "none" else np.sqrt((sizes["3"] if "3" in name else sizes).sum() / sizes.sum())
            norms = run.training()["grad_norm"]
            assert table.loc[name, "clipped_share"] == np.mean(norms > limit)
            assert table.loc[name, "mean_factor"] == pytest.approx(np.mean(np.minimum(limit / norms, 1)), rel=1e-5)
