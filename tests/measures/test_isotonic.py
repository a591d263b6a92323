"""Isotonic and unimodal regression against SciPy's, peak by peak."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from lensrl.measures.isotonic import isotonic, unimodal


def scipys(values: np.ndarray, *, increasing: bool = True) -> np.ndarray:
    return optimize.isotonic_regression(values, increasing=increasing).x


@pytest.mark.parametrize("n", [1, 2, 7, 28])
def test_isotonic_is_scipys(n: int) -> None:
    profiles = np.random.default_rng(n).normal(size=(5, n))
    np.testing.assert_allclose(isotonic(profiles), [scipys(profile) for profile in profiles], atol=1e-12)


@pytest.mark.parametrize("n", [2, 6, 13])
def test_unimodal_is_the_best_of_a_rise_and_a_fall_at_every_peak(n: int) -> None:
    profiles = np.random.default_rng(n).normal(size=(6, n)).round(1)
    found = unimodal(profiles)
    for profile, curve, levels in zip(profiles, found.curve, found.levels, strict=True):
        fits = [
            np.append(scipys(profile[:peak]), scipys(profile[peak:], increasing=False) if peak < n else [])
            for peak in range(1, n + 1)
        ]
        least = min(float(((profile - fit) ** 2).sum()) for fit in fits)
        assert ((profile - curve) ** 2).sum() == pytest.approx(least)
        changes = np.sign(np.diff(curve)[np.abs(np.diff(curve)) > 1e-9])
        assert (np.diff(changes) <= 0).all(), "it rises and then falls"
        assert levels == 1 + len(changes)


def test_a_unimodal_profile_is_its_own_fit() -> None:
    hump = np.array([[0.1, 0.4, 0.4, 0.9, 0.7, 0.7, 0.2]])
    found = unimodal(hump)
    np.testing.assert_allclose(found.curve, hump)
    assert found.levels.tolist() == [5]
