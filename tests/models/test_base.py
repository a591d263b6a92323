from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lensrl.errors import LensrlError
from lensrl.models.base import EMBEDDED, Base, find_source, fingerprint, load_base
from lensrl.models.pair import open_base


def test_the_embedded_base_is_a_small_qwen3_in_fp32(base: Base) -> None:
    assert type(base.model).__name__ == "Qwen3ForCausalLM"
    assert base.blocks.n_layers == 8
    assert 0.8e6 < sum(w.numel() for w in base.weights.values()) < 1.2e6
    assert {w.dtype for w in base.weights.values()} == {torch.float32}
    assert "lm_head.weight" not in base.weights, "embeddings are tied"


def test_the_other_embedded_base_is_as_large_and_of_another_family() -> None:
    base = load_base("tiny:qwen2.5")
    assert type(base.model).__name__ == "Qwen2ForCausalLM"
    assert base.blocks.n_layers == 8
    assert 0.8e6 < sum(w.numel() for w in base.weights.values()) < 1.2e6
    assert base.blocks.part("lm_head.weight") == "lm_head", "embeddings are not tied"


def test_the_deep_embedded_base_has_three_times_the_layers_and_a_small_file() -> None:
    base = load_base("tiny:qwen3-deep")
    assert type(base.model).__name__ == "Qwen3ForCausalLM"
    assert base.blocks.n_layers == 24
    assert 1e6 < sum(w.numel() for w in base.weights.values()) < 1.6e6
    assert sum(path.stat().st_size for path in Path(find_source("tiny:qwen3-deep")).iterdir()) < 8e6


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_tokenizer_gives_one_token_per_character_and_back(name: str) -> None:
    base = load_base(name)
    text = "1:5 4:11 x:2*x+3\n@3 k1 d5>left"
    ids = base.tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert base.tokenizer.decode(ids) == text


def test_a_fresh_copy_shares_no_memory_with_the_base(base: Base) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    before = base.weights[name].clone()
    model = base.fresh({name: before + 1})
    assert torch.equal(dict(model.named_parameters())[name], before + 1)
    assert torch.equal(base.weights[name], before)


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_model_for_reading_is_a_fresh_one_without_copies(name: str) -> None:
    base, changed = load_base(name), "model.layers.3.mlp.up_proj.weight"
    given = {changed: base.weights[changed] + 1}
    model, ids = base.reading(given), torch.tensor([[20, 21, 22]])
    parameters = dict(model.named_parameters())
    assert parameters.keys() == base.weights.keys(), "tied weights are tied"
    for key, parameter in parameters.items():
        assert parameter.data_ptr() == (given | {k: w for k, w in base.weights.items() if k != changed})[key].data_ptr()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, base.fresh(given)(ids).logits)
        assert not torch.equal(model(ids).logits, base.model(ids).logits)
        parameters[changed].data = base.weights[changed]  # another tensor in its place: the base keeps its own
        assert torch.equal(model(ids).logits, base.model(ids).logits)


def test_the_fingerprint_is_that_of_the_weights_in_the_files(base: Base) -> None:
    stored, skeleton = open_base(base.name)
    assert fingerprint(stored) == base.fingerprint == digest_by_hand(base)
    assert [*skeleton.weights] == [*base.weights]


def digest_by_hand(base: Base) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(base.weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_a_weight_that_the_base_lacks_is_an_error(base: Base) -> None:
    with pytest.raises(KeyError, match=r"no parameter 'model\.layers\.8\.weight'"):
        base.reading({"model.layers.8.weight": torch.zeros(1)})


def test_a_fresh_copy_computes_with_its_own_weights(base: Base) -> None:
    ids = torch.tensor([[20, 21, 22]])
    changed = base.fresh(
        {"model.layers.3.mlp.up_proj.weight": torch.zeros_like(base.weights["model.layers.3.mlp.up_proj.weight"])}
    )
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, base.fresh()(ids).logits)
        assert not torch.allclose(base.model(ids).logits, changed(ids).logits)


def test_the_fingerprint_sees_one_bit(base: Base) -> None:
    other = Base(base.name, base.fresh(), base.tokenizer, base.blocks)
    assert other.fingerprint == base.fingerprint
    flipped = base.weights["model.norm.weight"].clone()
    flipped.view(torch.int32)[0] ^= 1
    changed = Base(base.name, base.fresh({"model.norm.weight": flipped}), base.tokenizer, base.blocks)
    assert changed.fingerprint != base.fingerprint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiny:qwen4", ["tiny:qwen4", "did you mean 'tiny:qwen3'"]),
        ("./no/such/folder", ["no model folder at ./no/such/folder", "config.json"]),
        ("no/such/folder", ["no model folder at no/such/folder; give a folder with config.json"]),
        ("data/random/base", ["no model folder at data/random/base; a recipe in runs/ says in its first comment what"]),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_line(name: str, words: list[str]) -> None:
    with pytest.raises(LensrlError) as caught:
        load_base(name)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (
            "nobody/nothing-0b",
            "); give a local folder, or a hub name that this machine can reach or has in its cache\n",
        ),
        ("data/random", "); a recipe in runs/ says in its first comment what makes the folder\n"),
    ],
)
def test_a_hub_name_without_network_is_one_clear_line(name: str, advice: str) -> None:
    code = (
        "from lensrl.models.base import load_base\nfrom lensrl import LensrlError\n"
        f"try: load_base({name!r})\nexcept LensrlError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"HF_HUB_OFFLINE": "1"})
    said = f"model {name!r} cannot be loaded: there is no such folder, and the hub gives no model ("
    assert done.stdout.startswith(said)
    assert done.stdout.endswith(advice)
    assert done.stdout.count("\n") == 1


def test_a_checkpoint_s_sampling_defaults_are_not_taken_over(base: Base, tmp_path: Path) -> None:
    model = base.fresh()
    assert model.generation_config is not None
    model.generation_config.update(do_sample=True, temperature=0.3, repetition_penalty=3.0, top_k=5)
    model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path)).model.generation_config
    assert loaded is not None
    assert (loaded.temperature, loaded.repetition_penalty, loaded.top_k) == (None, None, None)
    assert loaded.eos_token_id == base.tokenizer.eos_token_id


@pytest.mark.parametrize(("file", "content"), [("model.safetensors", b"broken"), ("tokenizer.json", None)])
def test_a_broken_model_folder_is_one_clear_line(base: Base, tmp_path: Path, file: str, content: bytes | None) -> None:
    base.fresh().save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(content) if content else (tmp_path / file).unlink()
    with pytest.raises(LensrlError) as caught:
        load_base(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_lensrl_imports_no_torch() -> None:
    code = "import sys, lensrl; lensrl.__dir__(); print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd())
    assert done.stdout.split() == ["False", "False"]
