"""What arrives as a run of a study: a padded vocabulary, another tokenizer file, a LoRA adapter that TRL trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from lensrl import Study, compare_model_activations, compare_models, compare_weights, run_study, save_adapter, verify
from lensrl.compare.patching.graft import run_weights
from lensrl.errors import LensrlError
from lensrl.measures.low_rank import low_rank
from lensrl.models.base import Base, load_base
from lensrl.recipe import Checkpoint
from lensrl.recipe.runs import RunSpec
from lensrl.store.origin import checkpoint_note
from lensrl.train.adopt import open_checkpoint
from tests.train.test_adopt import checkpoints

EMBED = "model.embed_tokens.weight"
RANK = 3


def full(folder: Path) -> RunSpec:
    return RunSpec("full-rl", None, 0, checkpoint=Checkpoint(model=str(folder)))


def resized(base: Base, folder: Path, rows: int, *, tokenizer: bool = False) -> Path:
    """The base with another number of rows of embeddings, and with a small change in each weight."""
    model: Any = base.fresh({name: tensor * 1.001 for name, tensor in base.weights.items()})
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    if tokenizer:
        base.tokenizer.save_pretrained(folder)
    return folder


def padded(base: Base, folder: Path, rows: int) -> Base:
    """The base itself with more rows than its tokenizer has tokens."""
    model: Any = base.fresh()
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return load_base(str(folder))


@pytest.mark.parametrize(("base_rows", "rows"), [(99, 128), (128, 99), (128, 112), (112, 128)])
def test_rows_that_both_have_are_compared_and_stored(base: Base, base_rows: int, rows: int, tmp_path: Path) -> None:
    one = padded(base, tmp_path / "base", base_rows)
    folder = resized(base, tmp_path / "trained", rows, tokenizer=rows > base_rows)
    weights, _ = open_checkpoint(full(folder), one)
    stored = base.weights[EMBED] * 1.001
    common = min(base_rows, rows)
    assert weights[EMBED].shape == (base_rows, 96)
    np.testing.assert_array_equal(weights[EMBED][:99], stored.numpy())
    np.testing.assert_array_equal(weights[EMBED][common:], one.weights[EMBED][common:].numpy())
    table = compare_models(tmp_path / "base", folder, by="layer")
    assert (table.attrs["base_rows"], table.attrs["trained_rows"], table.attrs["common_rows"]) == (
        base_rows, rows, common,
    )  # fmt: skip
    said = table.set_index("component")["common_rows"]
    assert said["embed"] == common
    assert said.drop("embed").isna().all()


def test_padding_changes_no_activation(base: Base, tmp_path: Path) -> None:
    padded(base, tmp_path / "base", 128)
    for rows in (99, 112, 128):
        resized(base, tmp_path / f"{rows}", rows)
    plain = compare_model_activations("tiny:qwen3", tmp_path / "99")
    assert (plain["relative_l2"] > 0).all()
    for one, other in (("tiny:qwen3", "128"), (tmp_path / "base", "99"), (tmp_path / "base", "112")):
        table = compare_model_activations(one, tmp_path / other)
        np.testing.assert_allclose(table["relative_l2"], plain["relative_l2"], rtol=1e-4)
    resized(base, tmp_path / "cut", 90)
    with pytest.raises(LensrlError, match="uses a row that only one of them has"):
        compare_model_activations("tiny:qwen3", tmp_path / "cut")


def test_a_row_that_holds_a_token_is_not_left_out(base: Base, tmp_path: Path) -> None:
    cut = resized(base, tmp_path / "cut", 90)
    with pytest.raises(
        LensrlError, match=r"has 90 rows .* uses a row that only one of them has .* with all of its rows"
    ):
        open_checkpoint(full(cut), base)
    grown = resized(base, tmp_path / "grown", 101)
    base.tokenizer.save_pretrained(grown)
    file = grown / "tokenizer.json"
    tokens = json.loads(file.read_text())
    tokens["added_tokens"].append(tokens["added_tokens"][-1] | {"id": 99, "content": "<think>"})
    file.write_text(json.dumps(tokens))
    with pytest.raises(LensrlError, match=r"'<think>', 99.* resize the base, model\.resize_token_embeddings\(101\)"):
        open_checkpoint(full(grown), base)
    assert compare_models("tiny:qwen3", grown).attrs["common_rows"] == 99  # weights alone may be compared


def test_another_tokenizer_file_must_have_the_same_ids(base: Base, tmp_path: Path) -> None:
    folder = resized(base, tmp_path / "trained", 99, tokenizer=True)
    file = folder / "tokenizer.json"
    tokens = json.loads(file.read_text())
    file.write_text(json.dumps(tokens, indent=4) + "\n")
    open_checkpoint(full(folder), base)
    vocabulary = tokens["model"]["vocab"]
    first, second = [token for token in vocabulary if len(token) == 1][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tokens))
    with pytest.raises(
        LensrlError, match=r"has another tokenizer than tiny:qwen3: the token .* is \d+ there and \d+ in"
    ):
        open_checkpoint(full(folder), base)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    """An adapter of rank 3 that TRL trained on the embedded base for two steps, and the study of it."""
    folder, base = tmp_path_factory.mktemp("lora"), load_base("tiny:qwen3")
    settings = GRPOConfig(
        output_dir=str(folder / "out"), max_steps=2, per_device_train_batch_size=8, num_generations=8, use_cpu=True,
        max_completion_length=4, learning_rate=1e-2, report_to="none", save_strategy="no", disable_tqdm=True, beta=0.0,
        bf16=False, temperature=2.0,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = GRPOTrainer(
        base.fresh(), reward_funcs=lambda completions, **_: [float(sum(map(ord, text)) % 7) for text in completions],
        args=settings, train_dataset=Dataset.from_dict({"prompt": [f"{n}+{n + 9}=" for n in range(16, 50)]}),
        processing_class=base.tokenizer,
        peft_config=LoraConfig(r=RANK, lora_alpha=12, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(folder / "adapter"))
    return folder / "adapter", run_study(checkpoints(full_rl=str(folder / "adapter")), folder / "study")


def test_the_deltas_of_an_adapter_have_its_rank(adapted: tuple[Path, Study]) -> None:
    folder, study = adapted
    base = load_base("tiny:qwen3")
    table = compare_weights(study, "full-rl").set_index("parameter")
    assert {name.split(".")[-2] for name in table.index} == {"q_proj", "down_proj"}
    assert len(table) == 2 * 8
    weights = run_weights(study["full-rl"], base)
    for name, row in table.iterrows():
        assert low_rank(base.weights[str(name)].numpy(), weights[str(name)].numpy()).rank == RANK
        assert 1 <= row["stable_rank"] <= RANK + 1e-3
        assert row["effective_rank"] < RANK + 0.1
    assert (table["rounding_norm"] == 0).all()
    expected: Any = PeftModel.from_pretrained(base.fresh(), str(folder)).merge_and_unload()
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), rtol=1e-5, atol=1e-6)
    assert {check.status for check in verify(study.path)} == {"good"}


def test_a_run_says_that_it_was_merged(adapted: tuple[Path, Study]) -> None:
    record = adapted[1]["full-rl"].checkpoint
    assert record is not None
    assert record["merged"]["r"] == RANK
    assert record["merged"]["lora_alpha"] == 12
    assert (record["dtype"], record["rounding"]) == ("float32", {})
    assert checkpoint_note(adapted[1].runs.values()) == ""


def test_an_adapter_comes_out_as_it_went_in(adapted: tuple[Path, Study], tmp_path: Path) -> None:
    study, base = adapted[1], load_base("tiny:qwen3")
    folder = save_adapter(study, "full-rl", tmp_path / "out")
    weights = run_weights(study["full-rl"], base)
    back: Any = PeftModel.from_pretrained(base.fresh(), str(folder)).merge_and_unload()
    missed = moved = 0.0
    for name, parameter in back.named_parameters():
        missed += float(((parameter.detach() - weights[name]).double() ** 2).sum())
        moved += float(((weights[name] - base.weights[name]).double() ** 2).sum())
    assert (missed / moved) ** 0.5 < 1e-3
    assert {*json.loads((folder / "adapter_config.json").read_text())["rank_pattern"].values()} == {RANK}
    again, _ = open_checkpoint(full(folder), base)  # and back in
    name = "model.layers.3.mlp.down_proj.weight"
    np.testing.assert_allclose(again[name], weights[name].numpy(), atol=1e-6)
