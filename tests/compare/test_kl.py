"""KL to the base, against the same number by hand: from unpadded logits, and from sampled log-ratios."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lensrl import LensrlError, Study, kl_to_base, load_model
from lensrl.compare import kl
from lensrl.compare.kl import divergences
from lensrl.compare.patching.graft import run_weights
from lensrl.models.base import Base
from lensrl.store.run import Run
from lensrl.tasks import Item, evaluation_items, load_task
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
    for item, (one, entropy, old_entropy) in zip(ITEMS, measured(model, base, ITEMS, 1), strict=True):
        new, old = (logprobs(m, base.prompts.ids(item))[-1] for m in (model, base.model))
        assert one == pytest.approx(float(sum(q.exp() * (q - p) for q, p in zip(new, old, strict=True))), abs=1e-5)
        for values, here in ((new, entropy), (old, old_entropy)):
            assert here == pytest.approx(-float((values.exp() * values).sum()), abs=1e-5)


def test_logits_are_taken_where_they_predict_a_completion(
    small_study: Study, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of prompts of several lengths, and with as few logits in memory as asked."""
    model, before = load_model(small_study["full-rl"]).model, base.fresh().eval()
    items = [Item(str(n), "1" * n + "+2=", "3", "arithmetic") for n in (1, 6, 3)]
    shapes: list[torch.Size] = []

    def compared() -> np.ndarray:
        found = divergences(
            model, before, base, items, max_tokens={"arithmetic": 4}, seed=1, generation="pieces", batch=16
        )
        return np.array(found)

    before.get_submodule("lm_head").register_forward_hook(lambda *given: shapes.append(given[1][0].shape[:2]))
    found = compared()
    lengths = [len(base.prompts.ids(item)) for item in items]
    assert shapes == [(3, shapes[0][1])]
    assert max(lengths) - min(lengths) < shapes[0][1] <= max(lengths) - min(lengths) + 4
    monkeypatch.setattr(kl, "LOGITS", 1)
    np.testing.assert_allclose(compared(), found, rtol=0, atol=1e-5)
    assert [rows for rows, _ in shapes[1:]] == [1, 1, 1]
    assert all(1 <= width <= 4 for _, width in shapes[1:]), "a completion's own positions"


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
    exact = measured(model, base, ITEMS, 5)[:, 0]
    error = np.hypot(np.std(ratios) / len(ratios) ** 0.5, exact.std() / len(exact) ** 0.5)
    assert exact.mean() == pytest.approx(np.mean(ratios), abs=4 * error)
    assert exact.mean() > 3 * np.std(ratios) / len(ratios) ** 0.5, "too near to zero to show anything"


def test_every_run_has_a_row(small_study: Study) -> None:
    table = kl_to_base(small_study, items=8, draws=0).set_index("run")
    assert table["random"].isna().all()
    assert table.index.tolist() == ["full-rl", "layer-0", "layer-3", "layer-7", "ends"]
    assert (table["low"] <= table["kl"]).all()
    assert (table["kl"] > 0).all()
    assert table["kl"].idxmax() != "layer-0", "one layer goes less far than all"
    assert table.loc["full-rl", "gain"] == pytest.approx(small_study["full-rl"].score - small_study["base"].score)


def test_the_null_of_a_run_is_a_random_direction_with_the_norms_of_its_deltas(
    small_study: Study, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def far(run: Run, base: Base) -> dict[str, torch.Tensor]:  # 100 times as far: the KL of few steps is near rounding
        own, weights = base.weights, run_weights(run, base)
        return {n: w if w is own[n] else own[n] + 100 * (w - own[n]) for n, w in weights.items()}

    monkeypatch.setattr(kl, "run_weights", far)
    recipe, by_hand = small_study.recipe, []
    items = evaluation_items(load_task(recipe), recipe)[:8]
    limits = {item.benchmark: recipe.evaluation_tokens(item.benchmark) for item in items}
    for draw in (0, 1):
        moved = {}
        for name, weight in far(small_study["layer-7"], base).items():
            if weight is not base.weights[name]:
                noise = np.random.default_rng([draw, zlib.crc32(name.encode())]).standard_normal(weight.shape, "f4")
                scale = float((weight - base.weights[name]).norm()) / float(np.linalg.norm(noise))
                moved[name] = base.weights[name] + scale * torch.from_numpy(noise)
        assert {base.blocks.layer(name) for name in moved} == {7}
        found = divergences(
            base.reading(moved).eval(), base.fresh().eval(), base, items, max_tokens=limits,
            seed=recipe.evaluation.seed, generation=recipe.generation, batch=8,
        )  # fmt: skip
        by_hand.append(np.mean([one.kl for one in found]))
    table = kl_to_base(small_study, items=8, draws=2).set_index("run")
    assert table.loc["layer-7", "random"] == pytest.approx(np.mean(by_hand), rel=1e-3)
    assert by_hand[0] != pytest.approx(by_hand[1], rel=1e-2), "two draws are two directions"
    without = kl_to_base(small_study, items=8, draws=0).set_index("run")
    assert table.drop(columns="random").equals(without.drop(columns="random"))


def test_fewer_draws_than_none_are_refused(small_study: Study) -> None:
    with pytest.raises(LensrlError, match="draws is -1; it may not be negative"):
        kl_to_base(small_study, draws=-1)
