"""A model folder and problem files of one's own: random weights, untied embeddings, GSM8K's format, two benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from lensrl import load_recipe, patch, run_study
from lensrl.models.base import load_base
from lensrl.store.study import Study

PROBLEMS = Path(__file__).parents[1] / "data" / "gsm8k-10.jsonl"
RECIPE = """
model = "model"
layers = [1]

[task]
name = "math"
train = "train.jsonl"
test = { one = "one.jsonl", two = "two.jsonl" }
prompt = "{question}\\nA: "

[rl]
steps = 2
prompts_per_step = 2
completions_per_prompt = 4
micro_batch = 4
max_completion_tokens = 6
learning_rate = 1e-3
kl_beta = 0.04
gradient_checkpointing = true

[evaluation]
items = 4
samples = 2
batch = 3

[store]
probe_items = 2
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("own")
    tokenizer = load_base("tiny:qwen3").tokenizer
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=False,
            pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip
    model.bfloat16().save_pretrained(folder / "model")  # as checkpoints are published
    tokenizer.save_pretrained(folder / "model")
    lines = PROBLEMS.read_text().splitlines(keepends=True)
    for name, part in (("train", lines), ("one", lines[:3]), ("two", lines[3:])):
        (folder / f"{name}.jsonl").write_text("".join(part))
    (folder / "recipe.toml").write_text(RECIPE)
    return run_study(load_recipe(folder / "recipe.toml"), folder / "study")


def test_a_random_model_learns_nothing_and_the_contribution_is_undefined_with_the_reason(study: Study) -> None:
    rows = study.contributions().set_index("layer")
    assert rows.loc[1, "status"] == "undefined"
    assert "the interval of S_full - S_base contains 0" in str(rows.loc[1, "reason"])


def test_items_are_capped_per_benchmark_and_both_are_scored(study: Study) -> None:
    assert study["base"].scores_by_item()["benchmark"].value_counts().to_dict() == {"two": 4, "one": 3}


def test_masters_are_fp32_though_the_checkpoint_is_bf16(study: Study) -> None:
    base = load_base(study.recipe.model)
    assert {w.dtype for w in base.weights.values()} == {torch.float32}
    assert study["base"].fingerprint == base.fingerprint


def test_an_untied_head_is_a_part_of_its_own(study: Study) -> None:
    parts = set(study["full-rl"].delta_norms()["part"])
    assert parts == {"0", "1", "2", "embed", "final_norm", "lm_head"}


def test_it_can_be_patched(study: Study) -> None:
    table = patch(study, layers="all")
    assert len(table) == 3 * 4
    assert table["patched_value"].notna().all()
