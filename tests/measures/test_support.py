"""The overlap of the largest entries of two arrays, by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensrl.measures.support import top_overlap


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.1, 0.5]), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=30, deadline=None)
def test_without_ties_it_is_the_overlap_of_two_sorted_lists(seed: int, share: float, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    one, other = (rng.standard_normal(300).astype(dtype) for _ in range(2))
    other[:150] = one[:150]
    count = round(share * 300)
    tops = [set(np.argsort(-np.abs(x))[:count].tolist()) for x in (one, other)]
    assert top_overlap(one, other, share) == pytest.approx(len(tops[0] & tops[1]) / count)


def test_tied_entries_count_as_the_mean_over_their_orders() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 4, 40).astype(np.float32) for _ in range(2))
    found = []
    for _ in range(4000):
        tops = [set(np.lexsort((rng.random(40), -x))[:12].tolist()) for x in (one, other)]
        found.append(len(tops[0] & tops[1]) / 12)
    assert top_overlap(one, other, 0.3) == pytest.approx(np.mean(found), abs=4 * np.std(found) / np.sqrt(4000))


def test_chance_is_the_share_itself_and_the_same_array_overlaps_in_full() -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.standard_normal(200_000) for _ in range(2))
    assert top_overlap(one, -2 * one, 0.01) == 1
    assert top_overlap(one, other, 0.1) == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 * 0.9 / 20_000))


def test_too_few_entries_have_no_overlap() -> None:
    assert np.isnan(top_overlap(np.ones(4), np.ones(4), 0.1))
