"""The model card of an exported model: where its weights come from, and how to load them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import PreTrainedModel

import lensrl
from lensrl import Run, Study, open_study
from lensrl.compare.model_card import Exported, model_card
from lensrl.models.base import Base, load_base
from tests.compare.test_export import card_of, planted_study, same
from tests.reseal import resealed


def test_the_card_tells_where_the_weights_come_from(base: Base, small_study: Study, tmp_path: Path) -> None:
    run = small_study["layer-3"]
    folder = lensrl.save_pretrained(small_study, "layer-3", tmp_path / "out")
    front, text = card_of(folder)
    assert front == {
        "base_model": "tiny:qwen3",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lensrl", "reinforcement-learning", "grpo"],
    }
    assert "Run `layer-3`, seed 0, of the study `small`." in text
    for line in (
        f"- `base`: {small_study['base'].score:.4f}",
        f"- `layer-3`: {run.score:.4f} (gain over the base {run.score - small_study['base'].score:+.4f})",
        "- `trained`: `layer 3`",
        "- differ from the base in: layer 3",
        "- `algorithm`: `grpo`",
        "- `learning_rate`: `0.0002`",
        "- `status`: `completed`",
        f"- `run id`: `{run.run_id}`",
        f"- `versions.torch`: `{torch.__version__}`",
        f"- base model: `tiny:qwen3`, fingerprint `{base.fingerprint}`",
    ):
        assert line in text.splitlines(), line
    assert "gigpo" not in text, "no settings of another algorithm"


@pytest.mark.parametrize("family", ["tiny:qwen3", "tiny:qwen2.5"])
def test_the_lines_of_the_card_load_the_model(family: str, tmp_path: Path) -> None:
    base = load_base(family)
    study, moved = planted_study(tmp_path, base)
    with study:
        folder = lensrl.save_pretrained(study, "full-rl", tmp_path / "out")
    code = card_of(folder)[1].split("```python\n")[1].split("```")[0].replace('"."', repr(str(folder)))
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["model"], PreTrainedModel)
    assert same(names["model"], moved)
    text = "1:5 4:11 x:2*x+3\n@3 k1 d5>left"
    assert names["tokenizer"](text)["input_ids"] == base.tokenizer(text)["input_ids"]  # pyright: ignore


def test_text_from_files_adds_no_markup_to_the_card(tmp_path: Path, base: Base) -> None:
    study, _ = planted_study(tmp_path, base)
    study.close()
    with resealed(tmp_path / "planted" / "full-rl.seed-0.h5") as file:
        recipe = {"rl": {"algorithm": "x`\n---\n# <script>alert(1)</script>\x1b[31m", "note": "`<b>|"}, "task": 3}
        file.attrs["recipe"] = json.dumps(recipe)
        file.attrs["base"] = "a: b\n- c # `d`"
        file.attrs["reason"] = "no\n\n# heading"
    with Run(tmp_path / "planted" / "full-rl.seed-0.h5") as run:
        about = Exported(
            study="s`\n## x", run=run, into=None, parts=(), base=None, dtype="float32", fingerprint="f",
            kept_share=None, changed=[0], tokenizer_class="AutoTokenizer", generation_config=True,
        )  # fmt: skip
        for card in (model_card(about), model_card(replace(about, into=run, parts=(0,)))):
            _, front, text = card.split("---\n", 2)
            data = yaml.safe_load(front)
            assert data["base_model"] == "a: b - c # `d`"
            assert data["tags"][-1] == "x` --- # <script>alert(1)</script>\N{REPLACEMENT CHARACTER}[31m"
            headings = [line for line in text.splitlines() if line.startswith("#")]
            assert not [h for h in headings if "heading" in h or "script" in h or h == "## x"]
            outside_of_code = "".join(text.split("`")[::2])
            assert "<" not in outside_of_code
            assert "\x1b" not in text


def test_a_run_from_a_checkpoint_has_no_settings_of_training(tmp_path: Path, base: Base) -> None:
    study, _ = planted_study(tmp_path, base)
    study.close()
    record = {"checkpoint": {"source": "/home/me/rl/step-200", "revision": None, "dtype": "bfloat16"}}
    with resealed(tmp_path / "planted" / "full-rl.seed-0.h5") as file:
        file.attrs["provenance"] = json.dumps(record)
    with open_study(tmp_path / "planted") as study:
        front, text = card_of(lensrl.save_pretrained(study, "full-rl", tmp_path / "out"))
    assert front["tags"] == ["lensrl"]
    assert "trained elsewhere" in text
    assert "- `checkpoint.source`: `step-200`" in text
    assert "- `checkpoint.dtype`: `bfloat16`" in text
    assert "algorithm" not in text
    assert "/home" not in text
