"""Tokenizers and ids as people's folders have them: refused in one line, or loaded as they are meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lensrl.models.base import load_base
from lensrl.models.generation import token_ids
from lensrl.models.references import references
from lensrl.models.tokenizer import drop_final_end
from lensrl.tasks import Item
from tests.families import TOKENIZER, TOKENS
from tests.models.test_loading import model_folder, refusal


@pytest.mark.parametrize("key", ["pad_token_id", "eos_token_id"])
def test_an_id_outside_the_vocabulary_is_refused(key: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {key: 99}
    line = refusal(model_folder("llama", tmp_path / "model", **config))
    assert f"{key} 99 in its config.json is outside the vocabulary of 99" in line


def test_no_pad_id_is_what_older_configurations_write_as_minus_one(tmp_path: Path) -> None:
    assert load_base(model_folder("llama", tmp_path / "model", pad_token_id=-1)).tokenizer.pad_token_id == 0


def test_an_end_of_generation_outside_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = model_folder("llama", tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 120]}))
    assert "eos_token_id 120" in refusal(folder)


def test_a_pad_token_that_was_added_without_a_row_is_refused(tmp_path: Path) -> None:
    folder = model_folder("llama", tmp_path / "model")
    tokenizer = load_base(folder).tokenizer
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert "the pad token '[PAD]' of its tokenizer has id 99, outside the embedding of 99 rows" in refusal(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused_and_a_smaller_one_is_not(tmp_path: Path) -> None:
    folder = model_folder("llama", tmp_path / "model")
    tokenizer = load_base(folder).tokenizer
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(folder)
    assert "token '</think>' has id 100, the embedding has 99 rows" in refusal(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(128)  # padded, as many published models are
    model.save_pretrained(folder)
    assert load_base(folder).notes == ()


def test_the_image_token_of_a_text_model_needs_no_row(tmp_path: Path) -> None:
    """Gemma 3 1B: its tokenizer is that of the models with images."""
    folder = model_folder("gemma3", tmp_path / "model")
    PreTrainedTokenizerFast(
        tokenizer_object=load_base(folder).tokenizer.backend_tokenizer,  # pyright: ignore[reportAttributeAccessIssue]
        pad_token="<pad>", eos_token="<eos>", extra_special_tokens={"image_token": "<image_soft_token>"},
    ).save_pretrained(folder)  # fmt: skip
    assert load_base(folder).tokenizer.convert_tokens_to_ids("<image_soft_token>") == 99


EOS_ID = int(TOKENS["eos_token_id"])


@pytest.mark.parametrize("start", [[], ["<eos>"], ["<pad>", "<eos>"]])  # one token may start and end a text
def test_a_tokenizer_that_appends_its_end_stops_and_keeps_its_start(start: list[str], tmp_path: Path) -> None:
    folder = model_folder("llama", tmp_path / "model")
    tokenizer = load_base(folder).tokenizer
    template = " ".join([*start, "$A", "<eos>"])
    backend: Any = tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<eos>", EOS_ID), ("<pad>", 0)]
    )
    tokenizer.save_pretrained(folder)
    plain: Any = tokenizer("1+2=", add_special_tokens=False)["input_ids"]
    base = load_base(folder)
    prompt = [*(TOKENIZER.get_vocab()[token] for token in start), *plain]
    assert token_ids(base.tokenizer, "1+2=") == prompt
    assert base.tokenizer(["1+2="])["input_ids"] == [prompt], "TRL tokenises with the object itself"
    assert token_ids(base.tokenizer, "") == prompt[: len(start)]
    teacher = references(base.prompts, [Item("1", "1+2=", "3", "sums")])
    assert teacher.ids[0].tolist().count(EOS_ID) == 1 + start.count("<eos>")
    assert "appends <eos>" in base.notes[0]
    base.tokenizer.save_pretrained(tmp_path / "again")
    assert not drop_final_end("again", PreTrainedTokenizerFast.from_pretrained(tmp_path / "again"))


def test_a_tokenizer_that_was_made_to_append_its_end_stops(tmp_path: Path) -> None:
    made = PreTrainedTokenizerFast(
        tokenizer_object=load_base("tiny:qwen3").tokenizer.backend_tokenizer,  # pyright: ignore[reportAttributeAccessIssue]
        eos_token="<eos>", bos_token="<pad>", add_bos_token=True, add_eos_token=True,
    )  # fmt: skip
    made.save_pretrained(model_folder("llama", tmp_path / "model"))
    for tokenizer in (made, load_base(str(tmp_path / "model")).tokenizer):
        drop_final_end("model", tokenizer)
        assert tokenizer("1")["input_ids"] == [0, *tokenizer("1", add_special_tokens=False)["input_ids"]]
    assert not made.add_eos_token
