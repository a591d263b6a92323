"""Models that leave a study: the weights bit for bit, the files of the base, the model card."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import lensrl
from lensrl import LensrlError, Study, open_study
from lensrl.compare.patching.graft import graft, run_weights
from lensrl.models.base import Base, load_base
from lensrl.recipe.layers import OUTSIDE
from lensrl.store.file.atomic import new_file
from lensrl.store.names import run_path
from lensrl.store.write import Header, write_run
from lensrl.train.materials import parameter_table
from tests.families import FAMILIES, N_LAYERS, save
from tests.store.synthetic import make_study, score_arrays, training

Weights = dict[str, torch.Tensor]
PROMPT = torch.tensor([[20, 21, 22, 23]])


def plant(folder: Path, base: Base, run: str, weights: Weights | None, layers: list[int]) -> None:
    """Write a run with these weights and made-up scores."""
    header = Header(
        study=folder.name, run=run, seed=0, layers=layers, status="completed", reason="", base=base.name,
        fingerprint=base.fingerprint, n_layers=base.blocks.n_layers,
        recipe='{"rl": {"algorithm": "grpo"}, "task": {"name": "sums"}}', provenance={"versions": {"torch": "2"}},
    )  # fmt: skip
    before, after = (None if w is None else {n: t.numpy() for n, t in w.items()} for w in (base.weights, weights))
    with new_file(run_path(folder, run, 0)) as partial:
        write_run(
            partial, header, parameter_table(base), before or {}, after=after,
            scores=score_arrays(np.array([[0.0, 1.0], [1.0, 1.0]])),
            training=None if weights is None else training(base.blocks.n_layers),
        )  # fmt: skip


def planted_study(tmp_path: Path, base: Base) -> tuple[Study, Weights]:
    """A study of two runs: the base, and `full-rl`, whose every weight is moved a little."""
    generator = torch.Generator().manual_seed(3)
    moved = {name: w + 1e-3 * torch.randn(w.shape, generator=generator) for name, w in base.weights.items()}
    folder = make_study(tmp_path / "planted")
    plant(folder, base, "base", None, [])
    plant(folder, base, "full-rl", moved, [*range(base.blocks.n_layers)])
    return open_study(folder), moved


def same(model: PreTrainedModel, weights: Weights) -> bool:
    """Whether a model has these weights, bit for bit."""
    found = dict(model.named_parameters())
    assert found.keys() == weights.keys()
    return all(torch.equal(found[n].view(torch.int32), weights[n].view(torch.int32)) for n in weights)


def greedy(model: PreTrainedModel) -> list[int]:
    mask = torch.ones_like(PROMPT)
    return model.generate(PROMPT, attention_mask=mask, do_sample=False, max_new_tokens=12)[0].tolist()  # pyright: ignore


def opened(folder: Path) -> PreTrainedModel:
    """The model as transformers opens it when nothing is said but its folder."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)  # pyright: ignore
    assert not any(report.values()), report
    return model


def card_of(folder: Path) -> tuple[dict[str, object], str]:
    """The YAML front matter of a model card, and the text below it."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_an_exported_run_opens_to_its_weights_bit_for_bit(base: Base, small_study: Study, tmp_path: Path) -> None:
    for name in ("full-rl", "layer-3", "ends", "base"):
        weights = run_weights(small_study[name], base)
        folder = lensrl.save_pretrained(small_study, name, tmp_path / name)
        model = opened(folder)
        assert model.dtype == torch.float32
        assert same(model, weights), name
        again = load_base(str(folder))
        assert all(torch.equal(again.weights[n], weights[n]) for n in weights)
        assert again.fingerprint in card_of(folder)[1]
        in_memory = base.fresh(weights)
        assert greedy(model) == greedy(in_memory) == greedy(again.model)
        assert len(greedy(model)) > PROMPT.shape[1]


def test_the_folder_has_the_files_of_the_base_and_nothing_else(base: Base, small_study: Study, tmp_path: Path) -> None:
    folder = lensrl.save_pretrained(small_study, "layer-3", tmp_path / "new" / "model")
    source = Path(str(base.model.name_or_path))
    copied = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    assert sorted(os.listdir(folder)) == sorted(["README.md", "config.json", "model.safetensors", *copied])
    for name in copied:
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert os.listdir(folder.parent) == ["model"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "the weights are as readable as the rest"
    assert str(tmp_path) not in "".join(p.read_text() for p in folder.iterdir() if p.suffix in (".json", ".md"))


@pytest.mark.parametrize(
    "family", ["qwen2.5", "qwen2.5-untied", "qwen3-untied", "llama", "gemma3", "gpt2", "phi3", "bloom", "opt-projected"]
)
def test_families_and_tied_embeddings(family: str, tmp_path: Path) -> None:
    base = load_base(save(FAMILIES[family], tmp_path / "base"))
    study, moved = planted_study(tmp_path, base)
    with study:
        model = opened(lensrl.save_pretrained(study, "full-rl", tmp_path / "out"))
    assert same(model, moved)
    assert greedy(model) == greedy(base.fresh(moved))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = bool(FAMILIES[family].tie_word_embeddings)
    assert (embedding.weight is head.weight) == tied  # pyright: ignore[reportOptionalMemberAccess]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert len(stored) == len(moved), "tied weights are stored once"


def test_a_run_writes_its_own_seed(base: Base, uneven_seeds: Study, tmp_path: Path) -> None:
    run = uneven_seeds["full-rl", 1]
    folder = run.save_pretrained(tmp_path / "whole")
    assert same(opened(folder), run_weights(run, base))
    assert not same(opened(folder), run_weights(uneven_seeds["full-rl", 0], base))
    grafted = run.save_pretrained(tmp_path / "graft", layers=7, into_run="base", dtype="bfloat16")
    assert card_of(grafted)[1].count("bfloat16")
    run.close()
    with lensrl.open_run(shutil.copy(run.path, tmp_path / "alone.h5")) as alone:
        assert same(lensrl.load_model(alone).model, run_weights(alone, base)), "a model needs the run's file alone"
        with pytest.raises(LensrlError, match=r"not a study: it has no recipe\.json"):
            alone.save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_load_model_is_ready_to_generate(base: Base, small_study: Study) -> None:
    run = small_study["full-rl"]
    loaded = lensrl.load_model(run)
    assert re.fullmatch(r"<LoadedModel: \w+ with [\d.e+]+ parameters; \w+>", repr(loaded))
    assert type(loaded.tokenizer).__name__ in loaded._repr_html_()
    assert len(loaded._repr_html_()) < 1000
    model, tokenizer = loaded
    assert same(model, run_weights(run, base))
    assert not model.training
    inputs = tokenizer(["12+34=", "5+6="], return_tensors="pt", padding=True)
    found = model.generate(**inputs, do_sample=False, max_new_tokens=5)  # pyright: ignore
    expected = base.fresh(run_weights(run, base)).generate(**inputs, do_sample=False, max_new_tokens=5)  # pyright: ignore
    assert torch.equal(found, expected)
    assert [text.replace(" ", "").startswith(f"{pad}{prompt}") for text, pad, prompt in zip(
        tokenizer.batch_decode(found), ("", "<pad><pad>"), ("12+34=", "5+6="), strict=True
    )] == [True, True]  # fmt: skip


def test_a_graft_of_all_layers_and_the_rest_is_the_donor(base: Base, small_study: Study, tmp_path: Path) -> None:
    rl = run_weights(small_study["full-rl"], base)
    everything = ["all", *OUTSIDE]
    assert same(lensrl.graft(small_study, everything).model, rl)
    folder = lensrl.save_pretrained(small_study, "full-rl", tmp_path / "all", layers="0-7,embed,final_norm,lm_head")
    assert same(opened(folder), rl)
    assert not same(lensrl.graft(small_study, "all").model, rl), "the embedding moved too"


def test_a_graft_puts_layers_into_another_run(base: Base, small_study: Study, tmp_path: Path) -> None:
    rl, seventh = (run_weights(small_study[name], base) for name in ("full-rl", "layer-7"))
    expected = graft(base, seventh, rl, [3, "embed"])
    folder = lensrl.save_pretrained(small_study, "full-rl", tmp_path / "g", layers=[3, "embed"], into_run="layer-7")
    assert same(opened(folder), expected)
    assert same(lensrl.graft(small_study, [3, "embed"], into_run="layer-7").model, expected)
    front, text = card_of(folder)
    assert text.splitlines()[1] == "# layer 3, embed of `full-rl` in `layer-7`"
    assert "differ from the base in: layers 3,7, embed" in text
    assert "The graft itself has no score" in text
    assert front["base_model"] == "tiny:qwen3"
    reverse = lensrl.graft(small_study, 3, from_run="base", into_run="full-rl").model
    assert same(reverse, graft(base, rl, base.weights, [3]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_torch_s_own_and_is_said(base: Base, small_study: Study, tmp_path: Path, dtype: str) -> None:
    narrow = getattr(torch, dtype)
    weights = run_weights(small_study["layer-3"], base)
    folder = lensrl.save_pretrained(small_study, "layer-3", tmp_path / dtype, dtype=dtype)  # pyright: ignore
    model = opened(folder)
    assert model.dtype == narrow
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name].to(narrow)), name
    layer = [name for name in weights if base.blocks.layer(name) == 3]
    changed = torch.cat([(weights[n] != base.weights[n]).flatten() for n in layer])
    left = torch.cat([(weights[n].to(narrow) != base.weights[n].to(narrow)).flatten() for n in layer])
    share = float(left.sum() / changed.sum())
    assert 0.1 < share < 1, "some of the change is lost"
    text = card_of(folder)[1]
    assert "**rounded**" in text
    assert f"{share:.1%} still differ when both are rounded" in text
    assert load_base(str(folder)).fingerprint in text


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    base = load_base(save(FAMILIES["qwen3"], tmp_path / "base"))
    large = dict(base.weights)
    large["model.norm.weight"] = large["model.norm.weight"] * 1e5
    folder = make_study(tmp_path / "planted")
    plant(folder, base, "base", None, [])
    plant(folder, base, "full-rl", large, [*range(N_LAYERS)])
    with open_study(folder) as study:
        with pytest.raises(LensrlError, match=r"model\.norm\.weight .* 1e\+05, too large for float16"):
            lensrl.save_pretrained(study, "full-rl", tmp_path / "out", dtype="float16")
        lensrl.save_pretrained(study, "full-rl", tmp_path / "out", dtype="bfloat16")


def test_the_base_s_own_files_travel_unchanged_and_its_code_stays(tmp_path: Path) -> None:
    """A base as people have it: bf16, sampling defaults that contradict each other, a chat template, its own code."""
    source = Path(save(FAMILIES["qwen2.5"], tmp_path / "base"))
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(source)
    defaults = {"do_sample": False, "temperature": 0.6, "top_k": 20, "eos_token_id": 1, "repetition_penalty": 1.1}
    (source / "generation_config.json").write_text(json.dumps(defaults))
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}")
    config = json.loads((source / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (source / "config.json").write_text(json.dumps(config))
    (source / "code.py").write_text("raise RuntimeError")
    study, moved = planted_study(tmp_path, load_base(str(source)))
    with study:
        folder = lensrl.save_pretrained(study, "full-rl", tmp_path / "out")
        model, _ = lensrl.load_model(study["full-rl"])
    assert same(opened(folder), moved), "fp32, also where the base was stored in bf16"
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert not (folder / "code.py").exists()
    assert "auto_map" not in (folder / "config.json").read_text()
    assert model.generation_config is not None
    assert (model.generation_config.repetition_penalty, model.generation_config.pad_token_id) == (1.1, 0)
    front, text = card_of(folder)
    assert front["base_model"] == "base", "no path of this machine"
    assert str(tmp_path) not in text


def test_without_sampling_defaults_the_card_says_so(tmp_path: Path) -> None:
    source = Path(save(FAMILIES["qwen3"], tmp_path / "base"))
    (source / "generation_config.json").unlink()
    study, moved = planted_study(tmp_path, load_base(str(source)))
    with study:
        folder = lensrl.save_pretrained(study, "full-rl", tmp_path / "out")
    assert same(opened(folder), moved)
    assert "The base model has no sampling defaults." in card_of(folder)[1]


def test_a_model_of_the_hub_is_read_from_its_cached_revision(tmp_path: Path) -> None:
    """A hub without a network: the cache has the snapshot, and `main` is known by its commit alone."""
    commit, cache = "0" * 39 + "1", tmp_path / "hf" / "hub" / "models--org--model"
    save(FAMILIES["qwen3"], cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    code = (
        "import sys; from pathlib import Path; from lensrl.models.base import load_base\n"
        "from tests.compare.test_export import planted_study, same, opened; import lensrl\n"
        "study, moved = planted_study(Path(sys.argv[1]), load_base('org/model'))\n"
        "assert same(opened(lensrl.save_pretrained(study, 'full-rl', Path(sys.argv[1]) / 'out')), moved)"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    snapshot = cache / "snapshots" / commit
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (snapshot / name).read_bytes()
    assert card_of(tmp_path / "out")[0]["base_model"] == "org/model"
