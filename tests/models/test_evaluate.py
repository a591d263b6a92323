from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lensrl.models.base import Base
from lensrl.models.evaluate import evaluate
from lensrl.models.generation import stop_tokens
from lensrl.models.references import reference_logprobs, references
from lensrl.recipe import CorridorTask, Evaluation, Recipe
from lensrl.tasks import Item, evaluation_items
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from tests.conftest import SMALL


def with_evaluation(**settings: float) -> Recipe:
    return SMALL.model_copy(update={"evaluation": Evaluation.model_validate({"items": 12, "samples": 3} | settings)})


def sampled(
    base: Base, model: PreTrainedModel | None = None, **settings: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, length and truncation of the base, or of another model, on the items of SMALL."""
    task, recipe = Arithmetic(), with_evaluation(**settings)
    found = evaluate(model or base.model, base.prompts, task, evaluation_items(task, recipe), recipe)
    assert found.score is not None
    assert found.length is not None
    assert found.truncated is not None
    return found.score, found.length, found.truncated


def test_reference_logprob_equals_a_pass_over_one_sequence_at_a_time(base: Base) -> None:
    items = [Item("a", "47+38=", "85", "b"), Item("b", "10+10=", "20", "b"), Item("c", "99+99=", "198", "b")]
    expected = []
    for item in items:
        prompt = base.tokenizer(item.prompt)["input_ids"]
        answer = [*base.tokenizer(item.written[0])["input_ids"], base.tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = base.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        expected.append(np.mean([float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]))
    np.testing.assert_allclose(reference_logprobs(base.model, base.prompts, items, batch=2), expected, atol=2e-6)


def test_references_mark_the_positions_that_predict_the_answer(base: Base) -> None:
    teacher = references(base.prompts, [Item("a", "47+38=", "85", "b")])
    predicted = [base.tokenizer.decode([i]) for i in teacher.ids[0, 1:][teacher.answer[0]].tolist()]
    assert predicted == ["8", "5", "<eos>"]


def test_sampling_is_seeded_and_does_not_depend_on_what_ran_before(base: Base) -> None:
    first = sampled(base)
    torch.manual_seed(123)
    second = sampled(base, model=base.fresh())
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))
    other = sampled(base, seed=1)
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_greedy_decoding_gives_every_sample_the_same_score(base: Base) -> None:
    score, _, _ = sampled(base, temperature=0)
    assert (score == score[:, :1]).all()


def test_a_completion_that_meets_the_limit_is_truncated(base: Base) -> None:
    _, length, truncated = sampled(base, max_completion_tokens=1)
    assert truncated.all()
    assert (length == 1).all()


def test_the_base_leaves_rl_something_to_do(base: Base) -> None:
    score, _, truncated = sampled(base, items=256, samples=4)
    assert 0.3 < score.mean() < 0.65
    assert truncated.mean() < 0.01


def test_held_out_items_are_capped_per_benchmark() -> None:
    class TwoBenchmarks:
        def items(self, split: str) -> list[Item]:
            return [Item(f"{name}-{i}", "", "", name) for i in range(20) for name in ("a", "b")]

        def reward(self, item: Item, completion: str) -> float:
            return 0.0

        score = reward

    kept = evaluation_items(TwoBenchmarks(), with_evaluation())
    assert [sum(item.benchmark == name for item in kept) for name in ("a", "b")] == [12, 12]


def test_stop_tokens_include_what_the_model_declares(base: Base) -> None:
    model = base.fresh()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [5, 7]
    assert stop_tokens(model, base.tokenizer) == [1, 5, 7]


@pytest.mark.parametrize("split", ["train", "test"])
def test_references_of_the_embedded_task_are_scored_right(split: str) -> None:
    task = Arithmetic()
    items = task.items("train" if split == "train" else "test")
    assert {task.score(item, item.written[0]) for item in items} == {1.0}
    assert {task.score(item, f"{int(item.written[0]) + 1}") for item in items} == {0.0}


def test_what_the_environment_says_is_read_and_not_predicted(base: Base) -> None:
    """The reference of a task in turns: the mean over the model's own tokens, one token at a time."""
    items = Corridor(CorridorTask(name="corridor")).items("test")[:3]
    expected = []
    for item in items:
        row = base.tokenizer(item.prompt)["input_ids"]
        means = []
        for turn, text in enumerate(item.written):
            for token in base.tokenizer(text)["input_ids"] + [1] * (turn == len(item.written) - 1):  # <eos>
                with torch.no_grad():
                    logprobs = base.model(torch.tensor([row])).logits[0, -1].log_softmax(-1)
                if turn % 2 == 0:
                    means.append(float(logprobs[token]))
                row = [*row, token]
        expected.append(sum(means) / len(means))
    found = reference_logprobs(base.fresh(), base.prompts, items, batch=2)
    assert found == pytest.approx(np.array(expected), abs=1e-5)
