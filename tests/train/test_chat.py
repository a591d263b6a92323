"""A study through a chat template of its own: training, scoring, references, probe and patching read the same text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lensrl
from lensrl import LensrlError, Study
from lensrl.models.base import find_source, load_base
from lensrl.models.noise import SCORING
from lensrl.models.sampler import Pieces
from lensrl.recipe import Recipe, load_recipe
from lensrl.store.origin import item_digests
from lensrl.tasks import load_task
from lensrl.train.sampling import Episodes
from lensrl.train.trainer import Trainer

# Every tag is text that the embedded tokenizers know. `}` ends a message, as <|im_end|> does elsewhere.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}}{% else %}[{{ m.role[0] }}]{{ m.content }}"
    "{% endif %}{% endfor %}"
)
RECIPE = """
model = "model"
layers = [7]
prompt = { chat = true }
task = "TASK"

[rl]
steps = 1
prompts_per_step = 8
completions_per_prompt = 8
max_completion_tokens = 4
learning_rate = 1e-4

[evaluation]
items = 8
samples = 1

[store]
probe_items = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the embedded Qwen3 whose tokenizer has the template, and in which `}` is a special token."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(find_source("tiny:qwen3"), folder / "model")
    tokenizer = load_base("tiny:qwen3").tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["}"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    (folder / "sums.toml").write_text(RECIPE.replace("TASK", "arithmetic"))
    (folder / "turns.toml").write_text(
        RECIPE.replace("TASK", "corridor").replace("chat = true", 'chat = true, system = "Walk."')
    )
    return folder


def text_of(prompt: str, system: str = "") -> str:
    return f"[s]{system}[u]{prompt}" if system else f"[u]{prompt}"


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return lensrl.run_study(load_recipe(folder / "sums.toml"), folder / "sums")


def test_training_and_scoring_read_what_the_template_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    trained: list[str] = []
    scored: list[str] = []
    decode: list[Any] = []
    loss, generate = Trainer._compute_loss, Pieces.generate

    def spy_on_loss(self: Trainer, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        decode.append((self.eos_token_ids, inputs["completion_ids"], inputs["completion_mask"]))
        for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True):
            trained.append(str(self.processing_class.decode(ids[mask.bool()])))  # pyright: ignore
        return loss(self, model, inputs)

    def spy_on_generate(self: Pieces, prompts: Any, settings: Any, rows: Any) -> Any:
        tokenizer = load_base(load_recipe(folder / "sums.toml").model).tokenizer
        if rows[0][1] == SCORING:
            scored.extend(str(tokenizer.decode(ids)) for ids in prompts)
        assert set(settings.eos_token_id) == {*tokenizer.encode("<eos>}")}
        return generate(self, prompts, settings, rows)

    monkeypatch.setattr(Trainer, "_compute_loss", spy_on_loss)
    monkeypatch.setattr(Pieces, "generate", spy_on_generate)
    study: Study = request.getfixturevalue("study")  # made under the spies
    task = load_task(study.recipe)
    assert set(trained) <= {text_of(item.prompt) for item in task.items("train")}
    assert scored == [text_of(item.prompt) for item in task.items("test")[:8]] * 3  # base, full RL, layer 7
    tokenizer = load_base(study.recipe.model).tokenizer
    end = tokenizer.encode("}")[0]
    for ends, completions, mask in decode:
        assert set(ends) == {*tokenizer.encode("<eos>"), end}
        for ids, kept in zip(completions, mask.bool(), strict=True):
            assert end not in ids[kept][:-1]
            assert not len(ids[kept]) < 4 or int(ids[kept][-1]) in ends


def test_references_and_probe_read_it_too_and_end_as_the_template_ends(study: Study) -> None:
    items = load_task(study.recipe).items("test")
    probe = study["base"].probe()
    for place, item in enumerate(items[:2]):
        text = "".join(probe["text"][probe["prompt"] == place])
        assert text == text_of(item.prompt) + item.written[0] + "}"
    assert study["full-rl"].activations["block_out"].shape[1] == len(probe)
    base = load_base(study.recipe.model, study.recipe.prompt)
    ids = torch.tensor([base.tokenizer.encode(text_of(items[0].prompt) + items[0].written[0] + "}")])
    with torch.no_grad():
        logprobs = base.model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
    length = len(items[0].written[0]) + 1
    assert study["base"].scores_by_item()["reference_logprob"][0] == pytest.approx(
        float(logprobs[-length:].mean()), abs=1e-5
    )


def test_patching_and_the_report_go_through_it(study: Study, folder: Path) -> None:
    rows = lensrl.patch(study, layers=[7])
    measured = rows[rows["metric"] == "reference_logprob"].set_index("what")
    expected = study["base"].scores_by_item()["reference_logprob"].mean()
    assert measured.loc["weights", "into_value"] == pytest.approx(expected, abs=1e-6)
    assert measured.loc["activations", "into_value"] == pytest.approx(expected, abs=1e-3)  # another kernel
    assert lensrl.base_rivals(study)["gradient_norm"].notna().all()
    assert "full-rl" in lensrl.write_report(study).read_text()
    assert lensrl.run_study(load_recipe(folder / "sums.toml"), folder / "sums").contributions() is not None


def test_another_template_is_noticed_and_plain_prompts_are_another_recipe(study: Study, folder: Path) -> None:
    assert {"test", "test prompts", "train", "train prompts"} <= item_digests(study["base"]).keys()
    shutil.copytree(folder, folder.parent / "other", dirs_exist_ok=True)
    other = folder.parent / "other"
    (other / "chat.jinja").write_text(TEMPLATE.replace("[{{", "<{{"))
    recipe = (folder / "sums.toml").read_text()
    for changed, says in (
        (recipe.replace("chat = true", "chat = true, template = 'chat.jinja'"), "prompt.template is None there"),
        (recipe.replace("chat = true", "chat = false"), "prompt.chat is True there and False here"),
    ):
        (folder / "changed.toml").write_text(changed)
        shutil.copy(other / "chat.jinja", folder / "chat.jinja")
        with pytest.raises(LensrlError, match=says):
            lensrl.run_study(load_recipe(folder / "changed.toml"), folder / "sums")
    config = folder / "model" / "chat_template.jinja"
    config.write_text(TEMPLATE.replace("[{{", "<{{"))
    try:
        with pytest.raises(LensrlError, match=r"other (train|test) prompts .*a chat template"):
            lensrl.patch(study, layers=[7], what="weights", reverse=True)
    finally:
        config.write_text(TEMPLATE)


@pytest.mark.slow
def test_an_observation_is_a_users_message_and_a_turn_the_assistants(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[Any] = []
    original = Episodes.rollout_func

    def spy(self: Episodes, ids: list[str], trainer: Any) -> dict[str, Any]:
        output = original(self, ids, trainer)
        played.extend(self._rollouts)
        return output

    monkeypatch.setattr(Episodes, "rollout_func", spy)
    recipe = load_recipe(folder / "turns.toml")
    with lensrl.run_study(recipe, folder / "turns", only=["base", "full-rl"]) as study:
        assert study["full-rl"].status == "completed"
        text = "".join(study["base"].probe()["text"][study["base"].probe()["prompt"] == 0])
    item = load_task(recipe).items("test")[0]
    expected = text_of(item.prompt, "Walk.")
    for turn, piece in enumerate(item.written):
        expected += f"[u]{piece}" if turn % 2 else piece.removesuffix("\n") + "}"
    assert text == expected

    decode = load_base(recipe.model).tokenizer.decode
    assert played
    for rollout in played:
        game = load_task(recipe).reset(rollout.item)  # pyright: ignore
        turn, theirs = np.array(rollout.turn), decode(rollout.tokens)
        assert decode(rollout.prompt) == text_of(rollout.item.prompt, "Walk.")
        rebuilt = ""
        for number in range(len(rollout.rewards)):
            said = str(decode(np.array(rollout.tokens)[turn == number].tolist()))
            rebuilt += said
            lines = [line.strip() for line in said.replace("}", "").replace("<eos>", "").split("\n") if line.strip()]
            answer = game.step(lines[-1] if lines else "")
            assert rollout.rewards[number] == answer.reward
            if not answer.done:
                rebuilt += ("" if said.endswith("}") else "}") + f"[u]{answer.text}"
        assert theirs == rebuilt


def test_a_base_without_a_template_is_refused_before_anything_runs(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"model": "tiny:qwen3", "task": "arithmetic", "prompt": {"chat": True}})
    with pytest.raises(LensrlError, match=r"tiny:qwen3 has no chat template.*prompt.template"):
        lensrl.run_study(recipe, tmp_path / "study")
    assert not (tmp_path / "study" / "base.h5").exists()
