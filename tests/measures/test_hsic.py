"""HSIC by sequence and by token: against sums over all distinct units, deleted sequences, and planted truths."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensrl.measures.hsic import Features, Pairs, Sequences, hsic, hsic_value
from lensrl.measures.similarity import StreamingCka, cka_interval, cka_map, linear_cka

SIZES = [1, 5, 4, 9, 2, 3]


def sample(p: int = 7, q: int = 9, sizes: list[int] = SIZES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two representations that share a feature, with means, and the sequences of their tokens in any order."""
    rng = np.random.default_rng(p)
    sequence = rng.permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    x = rng.normal(size=(len(sequence), p)) + 3
    return x, x[:, :1] + rng.normal(size=(len(sequence), q)) - 2, sequence


def over_distinct_units(x: np.ndarray, y: np.ndarray, unit: np.ndarray) -> float:
    """The definition: means over distinct units, of means over the tokens in them."""
    k, l = (z @ z.T for z in (x - x.mean(0), y - y.mean(0)))  # noqa: E741
    members = [np.flatnonzero(unit == name) for name in np.unique(unit)]
    n = range(len(members))

    def mean(table: np.ndarray, a: int, b: int) -> float:
        return float(table[np.ix_(members[a], members[b])].mean())

    def fork(a: int, b: int, c: int) -> float:
        one, other = k[np.ix_(members[a], members[b])], l[np.ix_(members[a], members[c])]
        return float((one.mean(1) * other.mean(1)).mean())

    first = np.mean([mean(k * l, a, b) for a, b in permutations(n, 2)])
    second = np.mean([mean(k, a, b) * mean(l, c, d) for a, b, c, d in permutations(n, 4)])
    return float(first + second - 2 * np.mean([fork(*three) for three in permutations(n, 3)]))


def prepared(x: np.ndarray, y: np.ndarray, sequence: np.ndarray) -> tuple[Features, Features]:
    sequences = Sequences(sequence)
    return Features(x, sequences), Features(y, sequences)


# More features than tokens, fewer, and so few that tokens are the larger side.
@pytest.mark.parametrize(("p", "q"), [(7, 9), (40, 60), (3, 2), (2, 40)])
def test_hsic_by_sequence_is_the_mean_over_distinct_sequences(p: int, q: int) -> None:
    x, y, sequence = sample(p, q)
    a, b = prepared(x, y, sequence)
    found = hsic(a, b, "sequence")
    assert found.whole == pytest.approx(over_distinct_units(x, y, sequence), rel=1e-9)
    assert hsic_value(a, b, "sequence") == pytest.approx(found.whole, rel=1e-9)
    for number, name in enumerate(np.unique(sequence)):
        rest = sequence != name
        assert found.without[number] == pytest.approx(
            over_distinct_units(x[rest], y[rest], sequence[rest]), rel=1e-8, abs=1e-9
        )


@pytest.mark.parametrize(("p", "q"), [(7, 9), (40, 60), (3, 2)])
def test_hsic_by_token_is_that_of_sequences_of_one_token(p: int, q: int) -> None:
    x, y, sequence = sample(p, q, [1, 2, 1, 3, 2])
    tokens = np.arange(len(x))
    found = hsic(*prepared(x, y, sequence), "token")
    assert found.whole == pytest.approx(over_distinct_units(x, y, tokens), rel=1e-9)
    assert hsic(*prepared(x, y, tokens), "sequence").whole == pytest.approx(found.whole, rel=1e-9)
    for number, name in enumerate(np.unique(sequence)):
        rest = sequence != name
        assert found.without[number] == pytest.approx(
            over_distinct_units(x[rest], y[rest], tokens[rest]), rel=1e-8, abs=1e-9
        )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=5, max_size=9), st.integers(1, 60), st.floats(-100, 100))
def test_a_shift_a_rotation_and_the_order_of_tokens_change_nothing(sizes: list[int], p: int, shift: float) -> None:
    x, y, sequence = sample(p, 5, sizes)
    rng = np.random.default_rng(0)
    turned, order = np.linalg.qr(rng.normal(size=(p, p)))[0], rng.permutation(len(x))
    size = float(np.square(x - x.mean(0)).sum(1).mean() * np.square(y - y.mean(0)).sum(1).mean())
    for pairs in ("sequence", "token"):
        value = hsic(*prepared(x, y, sequence), pairs).whole
        for other in (x + shift, x @ turned):
            assert hsic(*prepared(other, y, sequence), pairs).whole == pytest.approx(value, abs=1e-10 * size)
        again = hsic(*prepared(x[order], y[order], sequence[order]), pairs).whole
        assert again == pytest.approx(value, abs=1e-10 * size)


@pytest.mark.parametrize("features", [30, 300])
def test_all_tokens_give_the_cka_of_other_tools(features: int) -> None:
    x, y, sequence = sample(features, features, [40, 30, 20, 25, 10])
    for found in (cka_interval(x, y, sequence, pairs="token").value, cka_map([x], [y], sequence, pairs="token")[0, 0]):
        assert found == pytest.approx(linear_cka(x, y), abs=1e-12)
    # The interval, with every sequence really deleted.
    left_out = []
    for name in np.unique(sequence):
        streaming = StreamingCka()
        streaming.add(x[sequence != name], y[sequence != name])
        left_out.append(streaming.value())
    error = np.sqrt(4 / 5 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    value, low, high = cka_interval(x, y, sequence, pairs="token")
    assert (value - low, high - value) == pytest.approx((2.7764451 * error, 2.7764451 * error), rel=1e-6)


def correlated(
    truth: float, rng: np.random.Generator, *, sequences: int = 32, tokens: int = 20, features: int = 16
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two representations with this CKA, whose tokens have an intra-sequence correlation of 0.2."""
    sequence = np.repeat(np.arange(sequences), tokens)

    def draw() -> np.ndarray:
        shared = rng.normal(size=(sequences, features))[sequence]
        return np.sqrt(0.2) * shared + np.sqrt(0.8) * rng.normal(size=(len(sequence), features))

    x = draw()
    return x, np.sqrt(truth) * x + np.sqrt(1 - truth) * draw(), sequence


@pytest.mark.parametrize("truth", [0.0, 0.5, 0.9])
def test_by_sequence_likeness_within_texts_is_no_similarity_and_intervals_hold_the_truth(truth: float) -> None:
    rng = np.random.default_rng(0)
    found: dict[Pairs, np.ndarray] = {}
    samples = [correlated(truth, rng) for _ in range(150)]
    for pairs in ("sequence", "token"):
        found[pairs] = np.array([cka_interval(*one, pairs=pairs) for one in samples])
    mean, error = found["sequence"][:, 0].mean(), found["sequence"][:, 0].std() / np.sqrt(150)
    assert abs(mean - truth) < 4 * error < 0.004
    holds = {pairs: np.mean((low <= truth) & (truth <= high)) for pairs, (_, low, high) in
             ((pairs, table.T) for pairs, table in found.items())}  # fmt: skip
    assert holds["sequence"] >= 0.91
    if truth == 0:
        assert found["token"][:, 0].mean() > 0.015
        assert holds["token"] < 0.2


def test_few_sequences_have_no_value_and_four_have_no_interval() -> None:
    for count, known in ((3, [False] * 3), (4, [True, False, False]), (5, [True] * 3)):
        x, y, sequence = sample(7, 9, [6] * count)
        y = y + 3 * x[:, :1]
        assert np.isfinite(cka_interval(x, y, sequence)).tolist() == known
        assert np.isfinite(cka_interval(x, y, sequence, pairs="token")).all()
    with pytest.raises(ValueError, match="needs two"):
        cka_interval(x, y, np.zeros(len(x), int))
