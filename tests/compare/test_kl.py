"""KL to the base, against the same number by hand: from unpadded logits, and from sampled log-ratios."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lensrl import Study, kl_to_base, load_model
from lensrl.compare.kl import divergences
from lensrl.models.base import Base
from lensrl.tasks import Item
from lensrl.tasks.arithmetic import Arithmetic

ITEMS = Arithmetic().items("test")[:24]


def measured(model: PreTrainedModel, base: Base, items: list[Item], tokens: int) -> np.ndarray:
    found = divergences(
        model, base.fresh().eval(), base, items,
        max_tokens={"arithmetic": tokens}, seed=1, generation="pieces", batch=16,
    )  # fmt: skip
    return np.array(found)


def logprobs(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def test_a_model_is_no_further_from_itself_than_nothing(base: Base) -> None:
    found = measured(base.fresh().eval(), base, ITEMS, 5)
    assert (found[:, 0] == 0).all()
    np.testing.assert_array_equal(found[:, 1], found[:, 2])


def test_one_token_is_the_sum_over_the_vocabulary(small_study: Study, base: Base) -> None:
    model = load_model(small_study["full-rl"]).model
    for item, (kl, entropy, old_entropy) in zip(ITEMS, measured(model, base, ITEMS, 1), strict=True):
        new, old = (logprobs(m, base.prompts.ids(item))[-1] for m in (model, base.model))
        assert kl == pytest.approx(float(sum(q.exp() * (q - p) for q, p in zip(new, old, strict=True))), abs=1e-5)
        for values, here in ((new, entropy), (old, old_entropy)):
            assert here == pytest.approx(-float((values.exp() * values).sum()), abs=1e-5)


@pytest.mark.slow
def test_it_is_the_mean_log_ratio_of_completions_that_transformers_samples(small_study: Study, base: Base) -> None:
    torch.manual_seed(0)
    model, ratios = load_model(small_study["full-rl"]).model, []
    for item in ITEMS:
        prompt = base.prompts.ids(item)
        written = model.generate(  # pyright: ignore[reportCallIssue]
            torch.tensor([prompt] * 64), do_sample=True, temperature=1.0, top_k=0, max_new_tokens=5,
            pad_token_id=base.tokenizer.pad_token_id,
        )  # fmt: skip
        for row in written.tolist():
            said = [*row[len(prompt) :], base.tokenizer.eos_token_id]
            said = said[: min(said.index(base.tokenizer.eos_token_id) + 1, 5)]
            new, old = (logprobs(m, prompt + said) for m in (model, base.model))
            ratios.append(sum(float((new - old)[len(prompt) - 1 + t, token]) for t, token in enumerate(said)))
    kl = measured(model, base, ITEMS, 5)[:, 0]
    error = np.hypot(np.std(ratios) / len(ratios) ** 0.5, kl.std() / len(kl) ** 0.5)
    assert kl.mean() == pytest.approx(np.mean(ratios), abs=4 * error)
    assert kl.mean() > 3 * np.std(ratios) / len(ratios) ** 0.5, "too near to zero to show anything"


def test_every_run_has_a_row(small_study: Study) -> None:
    table = kl_to_base(small_study, items=8).set_index("run")
    assert table.index.tolist() == ["full-rl", "layer-0", "layer-3", "layer-7", "ends"]
    assert (table["low"] <= table["kl"]).all()
    assert (table["kl"] > 0).all()
    assert table["kl"].idxmax() != "layer-0", "one layer goes less far than all"
    assert table.loc["full-rl", "gain"] == pytest.approx(small_study["full-rl"].score - small_study["base"].score)
