"""What a change of weights looks like: planted changes, closed forms, chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lensrl.measures.rounding import round_to_bf16, rounding_norm
from lensrl.measures.support import SUPPORT, _borders
from lensrl.measures.weights import SPECTRAL, DeltaMetrics, delta_metrics


def weight(seed: int = 0, shape: tuple[int, ...] = (48, 32)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def exact(seed: int, shape: tuple[int, ...] = (48, 32)) -> np.ndarray:
    """The same in float64, for what must hold to the last digits."""
    return weight(seed, shape).astype(np.float64)


def test_sizes_are_those_of_the_difference() -> None:
    w, d = weight(), 0.01 * weight(1)
    found = delta_metrics(w, w + d)
    d = (w + d).astype(np.float64) - w
    assert found.frobenius == pytest.approx(np.linalg.norm(d))
    assert found.relative == pytest.approx(np.linalg.norm(d) / np.linalg.norm(w))
    assert found.spectral == pytest.approx(np.linalg.norm(d, 2))
    cosine = np.vdot(w, w + d) / np.linalg.norm(w) / np.linalg.norm(w + d)
    assert found.weight_cosine == pytest.approx(float(cosine))


def test_ranks_of_planted_deltas() -> None:
    w = np.zeros((48, 32))
    one = np.outer(exact(1)[:, 0], exact(2)[0])
    assert delta_metrics(w, one)[3:5] == pytest.approx((1, 1))
    left, right = np.linalg.qr(exact(3))[0][:, :5], np.linalg.qr(exact(4, (32, 32)))[0][:, :5]
    assert delta_metrics(w, left @ right.T)[3:5] == pytest.approx((5, 5))  # five equal singular values
    s = np.array([4.0, 2.0, 1.0, 0.5, 0.5])
    found = delta_metrics(w, (left * s) @ right.T)
    p = s / s.sum()
    assert found.stable_rank == pytest.approx((s**2).sum() / 16)
    assert found.effective_rank == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_a_turned_leading_space_is_found_and_leaves_the_spectrum() -> None:
    u, v = np.linalg.qr(exact(1, (48, 48)))[0], np.linalg.qr(exact(2, (32, 32)))[0]
    s = np.concatenate([np.full(16, 10.0), np.full(16, 1.0)])
    angle = math.radians(25)
    turned = u.copy()
    turned[:, 0] = math.cos(angle) * u[:, 0] + math.sin(angle) * u[:, 40]  # a leading direction towards one outside
    found = delta_metrics((u[:, :32] * s) @ v.T, (turned[:, :32] * s) @ v.T)
    assert found.left_angle == pytest.approx(25, abs=1e-6)
    assert found.right_angle == pytest.approx(0, abs=1e-5)
    assert found.spectral_shift == pytest.approx(0, abs=1e-12)
    stretched = delta_metrics((u[:, :32] * s) @ v.T, (u[:, :32] * (1.1 * s)) @ v.T)
    assert stretched.spectral_shift == pytest.approx(0.1)


def test_the_support_of_a_random_delta_falls_on_large_weights_by_chance() -> None:
    overlaps = []
    for seed in range(40):
        w, d = weight(seed, (60, 60)), 1e-3 * weight(1000 + seed, (60, 60))
        found = delta_metrics(w.astype(np.float64), w.astype(np.float64) + d)
        overlaps.append((found.overlap_largest, found.overlap_smallest))
    assert np.mean(overlaps, axis=0) == pytest.approx((SUPPORT, SUPPORT), abs=0.01)
    grown = delta_metrics(weight(), 2 * weight())
    assert (grown.overlap_largest, grown.overlap_smallest) == (1, 0)


def test_entries_tied_at_a_border_count_by_their_share() -> None:
    """As the mean over random orders of the tied entries, which a sort would have to choose from."""
    rng = np.random.default_rng(0)
    w, d = (rng.integers(1, 5, 200).astype(np.float32) for _ in range(2))
    found = delta_metrics(w, w + d)
    drawn = []
    for _ in range(4000):
        orders = rng.permuted(np.tile(np.arange(200), (3, 1)), axis=1)
        support, largest, smallest = (
            order[np.argsort(key[order], kind="stable")][:20] for order, key in zip(orders, (-d, -w, w), strict=True)
        )
        drawn.append([len({*support} & {*chosen}) / 20 for chosen in (largest, smallest)])
    assert (found.overlap_largest, found.overlap_smallest) == pytest.approx(tuple(np.mean(drawn, axis=0)), abs=0.01)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_border_of_the_support_is_found_by_counting_bits(dtype: type) -> None:
    """Weights of a narrow type tie in large groups, at zero and elsewhere: the number at a rank is that of a sort."""
    rng = np.random.default_rng(0)
    for values in (np.zeros(9), rng.standard_normal(1), np.exp(2 * rng.standard_normal(5000)).round(1)):
        w = np.abs(values).astype(dtype)
        ranks = [0, len(w) // 10, len(w) // 2, len(w) - 1]
        halves = w, w[::-1] / 2
        found = _borders(
            lambda x=halves: (tuple(y[i : i + 700] for y in x) for i in range(0, len(x[0]), 700)),
            *((array, rank) for array in (0, 1) for rank in ranks),
        )
        assert found == [number for half in halves for number in np.sort(half)[ranks].tolist()]


def test_the_experts_of_a_mixture_are_measured_one_by_one() -> None:
    w, d = weight(0, (5, 12, 8)), 0.01 * weight(1, (5, 12, 8))
    d[3] = 0  # an expert that no token reached
    found = delta_metrics(w, w + d)
    each = [delta_metrics(w[i], (w + d)[i]) for i in (0, 1, 2, 4)]
    for name in SPECTRAL:
        assert getattr(found, name) == pytest.approx(np.median([getattr(one, name) for one in each]))
    assert found.frobenius == pytest.approx(np.linalg.norm((w + d).astype(float) - w))
    kernel = weight(2, (6, 1, 4))  # of a convolution over positions: each has one row
    assert math.isnan(delta_metrics(kernel, 2 * kernel).spectral)
    assert math.isnan(delta_metrics(w, w).spectral)


def test_blocks_of_entries_give_the_measures_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    w, d = weight(), 0.01 * weight(1)
    whole = delta_metrics(w, w + d)
    for module in ("weights", "support"):
        monkeypatch.setattr(f"lensrl.measures.{module}.ENTRIES", 100)
    monkeypatch.setattr("lensrl.measures.support.LARGE", 70)
    assert delta_metrics(w, w + d) == pytest.approx(whole, rel=1e-12)
    sizes, support = np.abs(w.ravel()), np.abs((w + d) - w).ravel()
    chosen, largest = ({*np.argsort(key)[-154:].tolist()} for key in (support, sizes))
    assert whole.overlap_largest == pytest.approx(len(chosen & largest) / 154)


@given(hnp.arrays(np.float32, 30, elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_rounding_to_bfloat16_is_torchs(array: np.ndarray) -> None:
    expected = torch.from_numpy(array).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(round_to_bf16(array), expected)


def test_changes_that_bfloat16_hides_are_counted_apart() -> None:
    w = np.array([1.0, 1.0, 1.0, 0.0], np.float32)
    found = delta_metrics(w, np.array([1.0, 1.0001, 1.1, 1e-30], np.float32))
    assert (found.changed_share, found.changed_share_bf16) == (0.75, 0.5)


def test_no_change_is_all_zeros_and_a_vector_has_no_directions() -> None:
    w = weight()
    same = delta_metrics(w, w)
    assert same[:3] == (0, 0, 0)
    assert (same.changed_share, same.spectral_shift) == (0, 0)
    assert (same.weight_cosine, same.left_angle, same.right_angle) == pytest.approx((1, 0, 0), abs=1e-6)
    vector = delta_metrics(w[0], w[0] + 1)
    undefined = {name for name, value in vector._asdict().items() if math.isnan(value)}
    assert undefined == {"spectral", "stable_rank", "effective_rank", "spectral_shift", "left_angle", "right_angle"}
    assert isinstance(delta_metrics(np.array(1, np.float32), np.array(2, np.float32)), DeltaMetrics)


def test_bad_weights_are_refused() -> None:
    w = weight()
    with pytest.raises(ValueError, match="shapes differ"):
        delta_metrics(w, w.T)
    with pytest.raises(ValueError, match="NaN"):
        delta_metrics(w, np.full_like(w, np.nan))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("size", [1e-6, 0.02, 300.0])  # in float16, 1e-6 is below the normal numbers
def test_the_norm_of_rounding_is_that_of_a_simulation(dtype: str, size: float) -> None:
    def rounded(w: np.ndarray) -> np.ndarray:
        return torch.from_numpy(w).to(getattr(torch, dtype)).float().numpy()

    w, d = (size * weight(seed, (400, 500)) for seed in (0, 1))
    for one in (w, w + d):
        errors = np.linalg.norm(rounded(one).astype(np.float64) - one)
        assert rounding_norm(one, dtype) == pytest.approx(errors, rel=0.01)
    # Changes as large as the weights: the errors of the two are independent, and their squares add up.
    both = np.linalg.norm(rounded(w + d).astype(np.float64) - rounded(w) - ((w + d).astype(np.float64) - w))
    assert math.hypot(rounding_norm(w, dtype), rounding_norm(w + d, dtype)) == pytest.approx(both, rel=0.01)


def test_changes_far_below_the_spacing_fall_short_of_the_norm_of_rounding() -> None:
    w = 0.02 * weight(0, (400, 500))
    before, after = round_to_bf16(w), round_to_bf16(w + np.float32(1e-5) * weight(1, (400, 500)))
    d, truth = after.astype(np.float64) - before, 1e-5 * weight(1, (400, 500)).astype(np.float64)
    null = math.hypot(rounding_norm(before, "bfloat16"), rounding_norm(after, "bfloat16"))
    assert np.linalg.norm(truth) < np.linalg.norm(d) < null
    assert np.vdot(d, truth) / np.linalg.norm(d) / np.linalg.norm(truth) < 0.5


def test_no_rounding_counts_where_there_is_none() -> None:
    assert rounding_norm(weight(), "float32") == 0
    assert 0 < rounding_norm(np.zeros(5), "float16") == pytest.approx(math.sqrt(5 / 12) * 2.0**-24)
