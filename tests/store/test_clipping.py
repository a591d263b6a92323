"""Clipped steps of a study's runs, against the gradients before and after torch clips them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lensrl import Study
from lensrl.models.base import Base
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.trainer import train
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
