"""Overlaps by brute force over pairs of samples, planted relations, and unions against pass@k."""

from __future__ import annotations

import numpy as np
import pytest

from lensrl.errors import LensrlError
from lensrl.measures.item_scores import Samples, pass_at_k
from lensrl.measures.overlap import overlap, same_model, union, vote_of

N = 400


def model(chance: np.ndarray, seed: int, samples: int = 4) -> Samples:
    score = (np.random.default_rng(seed).random((len(chance), samples)) < chance[:, None]).astype(float)
    return Samples(np.array(["a"] * len(chance)), score, answer=np.where(score == 1, 0, seed + 1))


def brute(a: Samples, b: Samples) -> float:
    """All pairs of samples with different numbers, item by item."""
    both = either = 0.0
    for row_a, row_b in zip(a.score, b.score, strict=True):
        for i, x in enumerate(row_a):
            for j, y in enumerate(row_b):
                if i != j:
                    both += x * y
                    either += max(x, y)
    return both / either


def test_overlap_is_the_mean_over_pairs_of_samples() -> None:
    chance = np.random.default_rng(0).random(N)
    a, b = model(chance, 1), model(chance[::-1].copy(), 2)
    for x, y in ((a, b), (a, a), (b, a)):
        assert overlap(x, y).value == pytest.approx(brute(x, y))


def test_a_second_model_with_the_same_chances_overlaps_as_the_model_with_itself() -> None:
    chance = np.random.default_rng(0).random(N)
    a, b = model(chance, 1), model(chance, 2)
    assert overlap(a, b).value == pytest.approx(overlap(a, a).value, abs=0.04)
    # Other items at the same score: half of them certain for one, the other half for the other.
    one = (np.arange(N) < N / 2).astype(float)
    assert overlap(model(one, 1), model(1 - one, 2)).value == 0.0
    assert overlap(model(one, 1), model(one, 2)) == (1.0, 1.0, 1.0)


def test_shared_random_numbers_do_not_make_models_alike() -> None:
    """Both runs of a study sample with the same keys: pairs of one number would overlap by construction."""
    chance = np.full(N, 0.5)
    assert overlap(model(chance, 1), model(chance, 1)).value == pytest.approx(1 / 3, abs=0.04)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth = 0.0
    found = []
    rng = np.random.default_rng(3)
    for seed in range(300):
        chance = rng.beta(1, 1, 60)
        a, b = model(chance, 2 * seed), model(chance, 2 * seed + 1)
        found.append(overlap(a, b))
    truth = (1 / 3) / (2 * 1 / 2 - 1 / 3)  # E[p^2] / (2 E[p] - E[p^2]) of a uniform p
    assert np.mean([truth in interval for interval in found]) == pytest.approx(0.95, abs=0.04)


def test_one_sample_per_item_has_no_baseline() -> None:
    a, b = model(np.full(N, 0.5), 1, 1), model(np.full(N, 0.5), 2, 1)
    assert np.isnan(overlap(a, a).value)
    both, either = (a.score * b.score).sum(), np.maximum(a.score, b.score).sum()
    assert overlap(a, b).value == pytest.approx(both / either)


def test_the_union_of_samples_of_one_run_is_pass_at_k() -> None:
    chance = np.random.default_rng(0).random(4000)
    one = model(chance, 1, 6)
    assert union(same_model(one, 3)).mean() == pytest.approx(pass_at_k(one, 3).mean(), abs=0.01)
    assert union(same_model(one, 6)).mean() == pytest.approx(pass_at_k(one, 6).mean())
    with pytest.raises(LensrlError, match="7 samples of one run are needed, and an item has 6"):
        same_model(one, 7)


def test_three_voters_of_whom_two_are_right_are_right() -> None:
    sure, wrong = np.ones(10), np.zeros(10)
    voters = [model(sure, 1), model(sure, 2), model(wrong, 3)]
    assert (vote_of(voters) == 1).all()
    assert (vote_of([model(sure, 1), model(wrong, 2)]) == 0.5).all()
    assert (union([model(sure, 1), model(wrong, 2)]) == 1).all()
