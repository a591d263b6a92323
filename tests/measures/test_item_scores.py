"""Scores of items: pass@k and votes by brute force over all subsets, ratios by hand, and refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from lensrl.errors import LensrlError
from lensrl.measures.item_scores import NO_ANSWER, NOT_KEPT, Samples, item_scores, pass_at_k, possible

RNG = np.random.default_rng(5)


def ragged() -> Samples:
    """12 items with 6 samples, then 8 items with 3."""
    score = RNG.integers(0, 2, (20, 6)).astype(float)
    score[12:, 3:] = np.nan
    truncated = np.where(np.isfinite(score), RNG.random((20, 6)) < 0.4, False).astype(bool)
    return Samples(np.array(["a"] * 12 + ["b"] * 8), score, truncated)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    samples = ragged()
    for k in (1, 2, 3):
        expected = [
            np.mean([any(subset) for subset in combinations(row[np.isfinite(row)], k)]) for row in samples.score
        ]
        np.testing.assert_allclose(pass_at_k(samples, k), expected, atol=1e-12)
    np.testing.assert_allclose(item_scores(samples, "pass@1"), item_scores(samples), atol=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    score = np.zeros((1, 4000))
    score[0, 0] = 1.0
    assert pass_at_k(Samples(np.array(["a"]), score), 400)[0] == pytest.approx(0.1)  # k / n for one right sample


def test_more_samples_than_an_item_has_and_partial_scores_are_refused() -> None:
    with pytest.raises(LensrlError, match="pass@4 needs 4 samples of each item, and benchmark 'b' has 3"):
        item_scores(ragged(), "pass@4")
    with pytest.raises(LensrlError, match="not all 0 or 1"):
        item_scores(Samples(np.array(["a"]), np.array([[0.5, 1.0]])), "pass@1")
    for kind in ("pass@0", "pass@K", "pass@-1"):
        with pytest.raises(LensrlError, match=f"score '{kind}': K of pass@K is 1 or more, and at most .* here 3$"):
            item_scores(ragged(), kind)
    with pytest.raises(LensrlError, match=r"no score 'foo'; known: mean, pass@K, vote, [a-z, -]*logprob$"):
        item_scores(ragged(), "foo")
    with pytest.raises(LensrlError, match=r"no score 'finish'; did you mean 'finished'[?]$"):
        item_scores(ragged(), "finish")
    with pytest.raises(LensrlError, match="made elsewhere"):
        item_scores(Samples(np.array(["a"]), np.array([[1.0]])), "finished")


def test_the_vote_is_the_most_frequent_answer_and_ties_share() -> None:
    answers = np.array([[7, 7, 8], [7, 8, 9], [NO_ANSWER, NO_ANSWER, 9], [NO_ANSWER] * 3])
    score = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0] * 3])
    samples = Samples(np.array(["a"] * 4), score, answer=answers)
    np.testing.assert_allclose(item_scores(samples, "vote"), [0.0, 1 / 3, 1.0, 0.0])
    kept = np.where(score == 1, NOT_KEPT, answers)
    with pytest.raises(LensrlError, match="benchmark 'a' has none"):
        item_scores(Samples(samples.benchmark, score, answer=kept), "vote")


def test_right_given_finished_has_the_mean_of_the_ratio_and_the_error_of_the_jackknife() -> None:
    samples = ragged().chosen(np.arange(12))
    assert samples.truncated is not None
    ended = ~samples.truncated
    np.testing.assert_allclose(item_scores(samples, "finished"), (samples.score * ended).mean(axis=1))
    found = item_scores(samples, "right-given-finished")
    assert found.mean() == pytest.approx((samples.score * ended).sum() / ended.sum())
    # Independent: leave one item out, and take the spread of the ratio.
    left = []
    for item in range(12):
        rest = np.arange(12) != item
        left.append((samples.score * ended)[rest].sum() / ended[rest].sum())
    jackknife = np.sqrt(11 / 12 * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert found.std(ddof=1) / np.sqrt(12) == pytest.approx(jackknife, rel=0.1)


def test_a_model_that_only_ends_sooner_gains_nothing_given_that_it_finished() -> None:
    """Planted: the same chance of a right answer, once with half of the completions cut."""
    right = np.random.default_rng(0).random((4000, 4)) < 0.6
    cut = np.random.default_rng(1).random((4000, 4)) < 0.5
    names = np.array(["a"] * 4000)
    before = Samples(names, (right & ~cut).astype(float), cut)
    after = Samples(names, right.astype(float), np.zeros_like(cut))
    assert item_scores(after).mean() - item_scores(before).mean() > 0.25
    gain = item_scores(after, "right-given-finished") - item_scores(before, "right-given-finished")
    assert abs(gain.mean()) < 3 * gain.std() / np.sqrt(4000)


def test_a_benchmark_on_which_nothing_ended_is_refused() -> None:
    with pytest.raises(LensrlError, match="no completion on benchmark 'a' ended"):
        item_scores(Samples(np.array(["a"]), np.zeros((1, 2)), np.ones((1, 2), bool)), "right-given-finished")


def test_the_possible_scores_are_those_that_every_run_allows() -> None:
    whole = Samples(
        np.array(["a"]), np.array([[1.0, 0.0, 0.0]]), np.array([[False, True, False]]), answer=np.ones((1, 3), np.int64)
    )
    assert possible([whole]) == ("mean", "pass@3", "vote", "finished", "right-given-finished")
    ended = replace(whole, truncated=np.zeros((1, 3), bool))
    assert possible([ended]) == ("mean", "pass@3", "vote")
    assert possible([ended, replace(whole, answer=None)]) == ("mean", "pass@3", "finished", "right-given-finished")
    cut = replace(whole, truncated=np.ones((1, 3), bool))
    assert possible([whole, cut])[-1] == "finished"  # nothing ended: there is no share of it
    assert possible([whole, Samples(np.array(["a"]), np.array([[0.5, np.nan]]))]) == ("mean",)
    known = replace(whole, reference_logprob=np.array([-1.5]))
    assert possible([known])[-1] == "logprob"
    assert "logprob" not in possible([known, whole])


def test_logprob_is_that_of_each_reference_and_refused_where_an_item_has_none() -> None:
    samples = Samples(np.array(["a", "b", "b"]), np.ones((3, 2)), reference_logprob=np.array([-1.5, -0.25, -3.0]))
    np.testing.assert_array_equal(item_scores(samples.chosen(np.array([2, 0])), "logprob"), [-3.0, -1.5])
    for missing in (None, np.array([-1.5, np.nan, -3.0])):
        with pytest.raises(LensrlError, match=f"benchmark '{'a' if missing is None else 'b'}' has items without one"):
            item_scores(replace(samples, reference_logprob=missing), "logprob")
