"""One uniform number for each row and step: the token that it chooses has the model's probability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

from lensrl.models.noise import Chooser, Noise


def drawn(logits: torch.Tensor, rows: int, **settings: float) -> tuple[np.ndarray, torch.Tensor]:
    """The tokens and log-probabilities that `rows` rows choose in one step, each from the same logits."""
    chosen = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} | settings
    chooser = Chooser(GenerationConfig(do_sample=True, **chosen), Noise([(7, row) for row in range(rows)]).uniform(1))
    scores = chooser(torch.zeros(rows, 1, dtype=torch.long), logits.expand(rows, -1).clone())
    assert (scores.isfinite().sum(-1) == 1).all()
    return scores.argmax(-1).numpy(), chooser.logprobs[0]


def test_a_row_reads_the_same_numbers_in_pieces_and_beside_other_rows() -> None:
    whole = Noise([(0, 3), (0, 4)]).uniform(10)
    parts = Noise([(0, 9), (0, 3), (0, 4)])
    first = parts.uniform(4)
    parts.keep([1, 2])
    assert torch.equal(torch.cat([first[1:], parts.uniform(6)], 1), whole)


def test_rows_steps_and_seeds_have_numbers_of_their_own() -> None:
    keys = [(seed, step, row) for seed in (0, 1, -1) for step in range(3) for row in range(3)]
    found = Noise(keys).uniform(5).numpy()
    assert len(np.unique(found)) == found.size
    assert found.min() >= 0
    assert found.max() < 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_have_the_probabilities_of_the_softmax(temperature: float) -> None:
    logits = torch.tensor([0.0, 1.0, -2.0, 2.0, 0.5])
    tokens, logprobs = drawn(logits, 20_000, temperature=temperature)
    expected = (logits / temperature).softmax(-1).double().numpy()
    assert chisquare(np.bincount(tokens, minlength=5), 20_000 * expected / expected.sum()).pvalue > 1e-3
    np.testing.assert_allclose(logprobs, (logits / temperature).log_softmax(-1)[tokens], atol=1e-6)


def test_a_token_with_probability_zero_is_never_chosen() -> None:
    """Tokens at both ends and in the middle have no mass. The sum of the others ends below the last of them."""
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.3, -torch.inf, -torch.inf])
    assert {*drawn(logits, 5_000)[0].tolist()} == {1, 3}
    edge = Chooser(GenerationConfig(do_sample=True, temperature=1.0, top_p=1.0, top_k=0), torch.tensor([[0.0]] * 2))
    assert edge(torch.zeros(2, 1, dtype=torch.long), logits.expand(2, -1)).argmax(-1).tolist() == [1, 1]


def test_the_cuts_leave_out_improbable_tokens() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0])  # probabilities 0.03, 0.64, 0.09, 0.24
    assert {*drawn(logits, 2_000, top_k=2)[0].tolist()} == {1, 3}
    assert {*drawn(logits, 2_000, top_p=0.7)[0].tolist()} == {1, 3}
    tokens, logprobs = drawn(logits, 2_000, top_k=2)  # the policy's own probabilities, not those after the cut
    np.testing.assert_allclose(logprobs, logits.log_softmax(-1)[tokens], atol=1e-6)


def test_logits_that_are_no_numbers_choose_some_token() -> None:
    tokens, _ = drawn(torch.full((4,), torch.nan), 3)
    assert ((tokens >= 0) & (tokens < 4)).all()
