"""Scores where a path first reaches a distance, against numpy's interpolation and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lensrl.measures.equal_distance import scores_at


def test_on_a_path_that_only_goes_away_it_is_linear_interpolation() -> None:
    rng = np.random.default_rng(0)
    distance = np.concatenate([[0.0], np.cumsum(rng.random(5))])
    scores = rng.random((6, 3))
    for x in [*distance, *rng.uniform(0, distance[-1], 20)]:
        expected = [np.interp(x, distance, item) for item in scores.T]
        np.testing.assert_allclose(scores_at(distance, scores, float(x)), expected, atol=1e-12)


def test_on_a_path_that_turns_back_the_first_time_counts() -> None:
    distance, scores = np.array([0.0, 2.0, 1.0, 3.0]), np.array([[0.0], [4.0], [0.0], [8.0]])
    assert scores_at(distance, scores, 1.5) == 3.0  # on the way out, and not on the way to 3
    assert scores_at(distance, scores, 2.0) == 4.0
    assert scores_at(distance, scores, 2.5) == 6.0


@pytest.mark.parametrize(("distance", "x"), [([0.0, 1.0], 1.5), ([0.0, 1.0], -0.5), ([0.5, 1.0], 0.7)])
def test_a_distance_that_no_path_from_the_base_reaches_is_refused(distance: list[float], x: float) -> None:
    with pytest.raises(ValueError, match="path"):
        scores_at(np.array(distance), np.zeros((2, 1)), x)
