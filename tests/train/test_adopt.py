"""Checkpoints as runs: a study trained here comes back bit for bit from folders, and wrong folders are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from lensrl import Study, along_training, load_recipe, open_study, patch, run_study, verify
from lensrl.compare.patching.graft import run_weights
from lensrl.compare.rivals import base_rivals
from lensrl.errors import LensrlError, StoreError
from lensrl.models import checkpoint
from lensrl.models.base import Base, load_base
from lensrl.models.blocks import find_blocks
from lensrl.recipe import Checkpoint, Recipe
from lensrl.recipe.runs import RunSpec, plan
from lensrl.train.adopt import open_checkpoint, record_of
from lensrl.train.watch import NoWatcher
from tests.conftest import SMALL
from tests.families import FAMILIES, TOKENIZER

MATRIX = "model.layers.1.mlp.up_proj.weight"
EMBED = "model.embed_tokens.weight"


def checkpoints(**named: Any) -> Recipe:
    """The small recipe without training."""
    bare = SMALL.model_dump(exclude={"rl"}) | {"layers": [], "sets": {}, "rl": {"max_completion_tokens": 5}}
    return Recipe.model_validate(bare | {"checkpoints": {name.replace("_", "-"): c for name, c in named.items()}})


def full(folder: Path | str, **more: Any) -> RunSpec:
    return RunSpec("full-rl", None, 0, checkpoint=Checkpoint.model_validate({"model": str(folder)} | more))


def layer(number: int, folder: Path, *allow: Any) -> RunSpec:
    return RunSpec(f"layer-{number}", (number,), 0, checkpoint=Checkpoint(model=str(folder)), allow=allow)


@pytest.fixture(scope="module")
def folders(finished_study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the trained study as folders, as transformers saves models."""
    out, base = tmp_path_factory.mktemp("models"), load_base("tiny:qwen3")
    with open_study(finished_study_folder) as study:
        for (name, _), run in study.runs.items():
            if name != "base":
                base.fresh(run_weights(run, base)).save_pretrained(out / name)
        full_rl = study["full-rl"]
        halfway = dict(base.weights)
        for part in full_rl.snapshots[2]:
            for name, change in full_rl.snapshots[2].exact(part).values():
                halfway[name] = torch.from_numpy(base.weights[name].numpy() + change.delta)
                halfway[name].view(-1)[torch.from_numpy(change.where)] = torch.from_numpy(change.value)
        base.fresh(halfway).save_pretrained(out / "halfway")
    return out


@pytest.fixture(scope="module")
def adopted(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    recipe = checkpoints(
        full_rl={"snapshots": {2: str(folders / "halfway"), 4: str(folders / "full-rl")}},
        layer_0=str(folders / "layer-0"), layer_3=str(folders / "layer-3"), layer_7=str(folders / "layer-7"),
        ends={"model": str(folders / "ends"), "layers": [0, 7]},
    )  # fmt: skip
    return run_study(recipe, tmp_path_factory.mktemp("adopted") / "study")


def test_a_study_that_was_trained_here_comes_back(adopted: Study, small_study: Study) -> None:
    assert [*adopted.runs] == [*small_study.runs]
    for key, run in adopted.runs.items():
        trained = small_study.runs[key]
        assert run.items.equals(trained.items)
        assert run.scores.equals(trained.scores)
        assert (run.layers, run.delta_norms().to_dict()) == (trained.layers, trained.delta_norms().to_dict())
        for part in trained.deltas:
            for name, delta in trained.deltas[part].items():
                assert run.deltas[part][name][...].tobytes() == delta[...].tobytes(), (key, name)
        for site, values in trained.activations.items():
            np.testing.assert_array_equal(run.activations[site][...], values[...])
    assert adopted.contributions().equals(small_study.contributions())
    assert adopted.set_contributions().equals(small_study.set_contributions())
    assert {check.status for check in verify(adopted.path)} == {"good"}


def test_a_run_says_that_it_was_not_trained_here(adopted: Study, folders: Path) -> None:
    run = adopted["layer-3"]
    assert (run.origin, run.has_training, adopted["base"].origin) == ("checkpoint", False, "training")
    assert run.checkpoint == {
        "source": str(folders / "layer-3"), "revision": None, "snapshots": {}, "dtype": "float32", "commit": "",
    }  # fmt: skip
    assert adopted["base"].checkpoint is None
    with pytest.raises(LensrlError, match="no training curve: it was taken from a checkpoint"):
        _ = run.training


def test_snapshots_are_the_path_of_the_weights(adopted: Study, small_study: Study) -> None:
    assert [*adopted["full-rl"].snapshots] == [2, 4]
    assert along_training(adopted).equals(along_training(small_study))
    with pytest.raises(LensrlError, match=r"no path to follow \(a checkpoint with 0 snapshots\)"):
        along_training(adopted, "layer-3")


def test_rivals_leave_out_the_gradient_of_the_first_step(adopted: Study, small_study: Study) -> None:
    found, trained = base_rivals(adopted), base_rivals(small_study)
    assert found["rl_gradient_norm"].isna().all()
    rest = found.columns.drop(["rl_gradient_norm", "bypass_score"])
    assert found[rest].equals(trained[rest])


def test_patches_are_those_of_the_trained_study(adopted: Study, small_study: Study) -> None:
    mine, theirs = (patch(study, layers=3, what="weights") for study in (adopted, small_study))
    assert mine["recovery"].tolist() == theirs["recovery"].tolist()


def test_what_is_missing_is_trained_and_a_study_goes_on(adopted: Study, folders: Path, tmp_path: Path) -> None:
    shutil.copytree(adopted.path, tmp_path / "study")
    made: list[str] = []

    class Names(NoWatcher):
        def finished(self, spec: RunSpec, run: Any) -> None:
            made.append(run.name)

    run_study(adopted.recipe, tmp_path / "study", Names()).close()
    assert made == []
    more = adopted.recipe.model_copy(update={"layers": [0, 1]})
    assert [s.name for s in plan(more, 8) if s.checkpoint is None] == ["base", "layer-1"]
    other = checkpoints(full_rl=str(folders / "halfway"))
    with pytest.raises(StoreError, match=r"was taken from .*full-rl with snapshots 2, 4, and .* taken from .*halfway"):
        run_study(other, tmp_path / "study")
    with pytest.raises(StoreError, match=r"layer-0\.seed-0\.h5 was taken from .*, and .* was trained by lensrl"):
        run_study(checkpoints(full_rl=adopted.recipe.checkpoints["full-rl"]).model_copy(
            update={"layers": [0]}), tmp_path / "study")  # fmt: skip


def test_layers_are_trained_beside_a_checkpoint(folders: Path, tmp_path: Path) -> None:
    recipe = checkpoints(full_rl={"seed-0": str(folders / "full-rl"), "seed-1": str(folders / "halfway")})
    recipe = recipe.model_copy(update={"layers": [3], "seeds": [1], "rl": SMALL.rl.model_copy(update={"steps": 1})})
    with run_study(recipe, tmp_path / "study") as study:
        assert {key: run.origin for key, run in study.runs.items()} == {
            ("base", 0): "training", ("full-rl", 0): "checkpoint", ("full-rl", 1): "checkpoint",
            ("layer-3", 1): "training",
        }  # fmt: skip
        assert study.contributions()["seeds"].tolist() == [1]


def test_a_wrong_checkpoint_stops_the_study_before_the_base(folders: Path, tmp_path: Path) -> None:
    recipe = checkpoints(full_rl=str(folders / "full-rl"), layer_3=str(folders / "ends"))
    with pytest.raises(LensrlError, match=r"layer-3: the run is said to train layer 3, and .* model\.layers\.0\."):
        run_study(recipe, tmp_path / "study")
    assert not list(tmp_path.rglob("*.h5"))


def test_no_settings_of_training_are_needed_where_nothing_is_trained(folders: Path, tmp_path: Path) -> None:
    recipe = checkpoints(full_rl=str(folders / "full-rl"))
    greedy = recipe.rl.model_copy(update={"prompts_per_step": 100_000})
    with run_study(recipe.model_copy(update={"rl": greedy}), tmp_path / "study") as study:
        assert [name for name, _ in study.runs] == ["base", "full-rl"]
        with pytest.raises(LensrlError, match="no single-layer runs"):
            study.contributions()


# Folders as people have them.


def written(
    base: Base, folder: Path, *, change: Callable[[dict[str, torch.Tensor]], object] = dict, **config: Any
) -> Path:
    """The base as a folder, with changed tensors and settings."""
    base.model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def renamed(prefix: str) -> Callable[[dict[str, torch.Tensor]], object]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [*tensors]:
            tensors[prefix + name] = tensors.pop(name)

    return change


WRONG: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], dict[str, Any], str]] = {
    "compiled": (renamed("_orig_mod."), {}, "lacks model.embed_tokens.weight, .*'_orig_mod.'.* torch.compile"),
    "parallel": (renamed("module."), {}, "lacks model.embed_tokens.weight, .*'module.'.* DataParallel"),
    "missing": (lambda t: t.pop(MATRIX), {}, f"lacks {MATRIX}; its weights are not whole"),
    "shape": (lambda t: t.update({MATRIX: t[MATRIX][:-1]}), {}, f"{MATRIX} has the shape .*, the base's has .*\\)$"),
    "padded": (lambda t: t.update({EMBED: torch.cat([t[EMBED]] * 2)}), {}, "vocabulary was resized or padded"),
    "nan": (lambda t: t.update({MATRIX: t[MATRIX] * torch.nan}), {}, f"{MATRIX} holds a NaN or an infinity"),
    "deeper": (dict, {"num_hidden_layers": 9}, "another model than tiny:qwen3: num_hidden_layers is 9 there and 8"),
    "other": (dict, {"model_type": "llama"}, "model_type is 'llama' there and 'qwen3' in the base"),
    "rope": (dict, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, "rope_parameters is .* there"),
    "heads": (dict, {"num_attention_heads": 2, "num_key_value_heads": 1}, "num_attention_heads is 2 there and 4"),
    "classifier": (lambda t: t.update({"score.weight": torch.zeros(2, 96)}), {}, "has a tensor score.weight"),
    "quantised": (dict, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"is quantised \(gptq\)"),
    "integers": (lambda t: t.update({MATRIX: t[MATRIX].to(torch.int8)}), {}, "is quantised .* stored as I8"),
    "no head": (dict, {"tie_word_embeddings": False}, "lacks lm_head.weight, .* tie_word_embeddings = false"),
    "two heads": (
        lambda t: t.update({"lm_head.weight": t[EMBED] * 1.01}),
        {},
        "lm_head.weight differ, and they are one parameter",
    ),
    "no type": (dict, {"model_type": "nothing"}, "model_type is 'nothing'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_model_is_refused_in_one_line(base: Base, kind: str, tmp_path: Path) -> None:
    change, config, complaint = WRONG[kind]
    folder = written(base, tmp_path / "model", change=change, **config)
    with pytest.raises(LensrlError, match=complaint) as caught:
        open_checkpoint(full(folder), base)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (["config.json"], r"has no model\.safetensors; give a folder"),
        (["model.safetensors"], r"has no config\.json"),
        (["config.json", "adapter_config.json"], r"holds an adapter .*merge_and_unload"),
        (["adapter_config.json", "adapter_model.safetensors"], r"holds an adapter .*merge_and_unload"),
        (["config.json", "pytorch_model.bin"], "pickled weights, which are not opened"),
        (["config.json", "model_world_size_8_rank_0.pt"], "shards of verl; merge them: python -m verl.model_merger"),
        (["huggingface/config.json", "model_world_size_8_rank_0.pt"], "shards of verl; merge them"),
        (["config.json", "pytorch_model_fsdp_0/__0_0.distcp"], "shards of FSDP; merge them: accelerate merge-weights"),
        (["config.json", "model-00001-of-00002.safetensors"], r"shards without model\.safetensors\.index\.json"),
        (["config.json", "model.safetensors"], "cannot be read"),
    ],
)
def test_other_folders_are_refused_in_one_line(base: Base, files: list[str], complaint: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    if "config.json" in files:
        base.model.config.save_pretrained(tmp_path)
    with pytest.raises(LensrlError, match=complaint) as caught:
        open_checkpoint(full(tmp_path), base)
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_not_there_is_named(base: Base, tmp_path: Path) -> None:
    base.model.save_pretrained(tmp_path, max_shard_size="200KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3
    weights, _ = open_checkpoint(full(tmp_path), base)
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in base.weights.items())
    shards[1].unlink()
    with pytest.raises(LensrlError, match=rf"has no {shards[1].name}, which model\.safetensors\.index\.json names"):
        open_checkpoint(full(tmp_path), base)


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_stored_types_are_widened_and_recorded(base: Base, dtype: torch.dtype, word: str, tmp_path: Path) -> None:
    model: Any = base.fresh()
    model.to(dtype).save_pretrained(tmp_path)
    weights, _ = open_checkpoint(full(tmp_path), base)
    assert weights.dtype == word
    assert all(np.array_equal(weights[n], t.to(dtype).float().numpy()) for n, t in base.weights.items())
    # Rounding moved the parameters that the layer is said to have left alone: a line that says so.
    with pytest.raises(LensrlError, match=rf"{EMBED} moved, too: it is the base's, rounded to {word}"):
        open_checkpoint(layer(3, tmp_path), base)


def moved(base: Base, folder: Path, *names: str) -> Path:
    base.fresh({name: base.weights[name] + 1e-3 for name in names}).save_pretrained(folder)
    return folder


def test_a_parameter_that_moved_elsewhere_is_refused_unless_it_is_allowed(base: Base, tmp_path: Path) -> None:
    here, norm = "model.layers.3.mlp.up_proj.weight", "model.norm.weight"
    folder = moved(base, tmp_path / "a", here, EMBED, norm)
    with pytest.raises(LensrlError, match=rf"layer-3: .* {EMBED} moved, too; allow it, allow = \['embed'\]"):
        open_checkpoint(layer(3, folder), base)
    with pytest.raises(LensrlError, match=rf"{norm} moved, too; allow it, allow = \['final_norm'\]"):
        open_checkpoint(layer(3, folder, "embed"), base)
    open_checkpoint(layer(3, folder, "embed", "final_norm"), base)
    with pytest.raises(LensrlError, match=r"layer-2: .* model\.layers\.3\.mlp\.up_proj\.weight moved, too; name the"):
        open_checkpoint(layer(2, folder, "embed", "final_norm"), base)
    every = RunSpec("my-sft", tuple(range(8)), 0, checkpoint=Checkpoint(model=str(folder)))
    open_checkpoint(every, base)


def test_an_allowed_part_is_stored_and_its_file_is_good(base: Base, tmp_path: Path) -> None:
    folder = moved(base, tmp_path / "a", "model.layers.3.mlp.up_proj.weight", EMBED)
    whole = moved(base, tmp_path / "b", *base.weights)
    recipe = checkpoints(
        full_rl=str(whole), layer_3={"model": str(folder), "allow": "embed"},
        my_sft={"model": str(whole), "layers": "all"},
    )  # fmt: skip
    with run_study(recipe, tmp_path / "study") as study:
        assert {*study["layer-3"].deltas} == {3, "embed"}
        assert study["my-sft"].layer_set is not None
        assert {*study["my-sft"].deltas} == {*study["full-rl"].deltas}
        assert study.set_contributions()["set"].tolist() == ["my-sft"]
    assert {check.status for check in verify(tmp_path / "study")} == {"good"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tensors_of_every_family_are_found(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    base = Base(family, model, TOKENIZER, find_blocks(model))
    model.save_pretrained(tmp_path)
    weights, _ = open_checkpoint(full(tmp_path), base)
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in base.weights.items())
    # The model inside the head alone, as some trainers save it: whole only where the head is tied.
    inner = getattr(model, model.base_model_prefix)
    inner.save_pretrained(tmp_path / "inner")
    if model.config.tie_word_embeddings:
        weights, _ = open_checkpoint(full(tmp_path / "inner"), base)
        assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in base.weights.items())
    else:
        with pytest.raises(LensrlError, match=r"lacks lm_head\.weight"):
            open_checkpoint(full(tmp_path / "inner"), base)


def test_experts_that_are_merged_when_they_are_loaded_are_refused(tmp_path: Path) -> None:
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "mlp_only_layers": []}
    values: dict[str, Any] = FAMILIES["qwen3"].to_dict() | experts | {"model_type": "qwen3_moe"}
    config = Qwen3MoeConfig(**values)
    model = Qwen3MoeForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(LensrlError, match=r"stores model\.layers\.0\.mlp\.experts\.0\..*, which transformers merges"):
        open_checkpoint(full(tmp_path), Base("experts", model, TOKENIZER, find_blocks(model)))


def qwen3(*, tied: bool) -> Base:
    torch.manual_seed(0)
    values: dict[str, Any] = FAMILIES["qwen3"].to_dict() | {"tie_word_embeddings": tied}
    config = Qwen3Config(**values)
    model = Qwen3ForCausalLM(config).eval()
    return Base(f"tied {tied}", model, TOKENIZER, find_blocks(model))


def test_a_tied_checkpoint_of_an_untied_base_has_the_embeddings_as_its_head(tmp_path: Path) -> None:
    tied, untied = qwen3(tied=True), qwen3(tied=False)
    tied.model.save_pretrained(tmp_path / "tied")
    weights, _ = open_checkpoint(full(tmp_path / "tied"), untied)
    np.testing.assert_array_equal(weights["lm_head.weight"], weights[EMBED])
    untied.model.save_pretrained(tmp_path / "untied")
    with pytest.raises(LensrlError, match=r"model\.embed_tokens\.weight and lm_head\.weight differ"):
        open_checkpoint(full(tmp_path / "untied"), tied)


def test_a_hub_name_is_downloaded_at_its_revision(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = moved(base, tmp_path / "0123abc", MATRIX)
    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"], options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    spec = full("org/model-GRPO", revision="step-100")
    weights, _ = open_checkpoint(spec, base)
    assert asked == [("org/model-GRPO", "step-100", ["*.safetensors", "*.json"])]
    assert spec.checkpoint is not None
    record = record_of(spec.checkpoint, weights)
    assert (record["source"], record["revision"], record["commit"]) == ("org/model-GRPO", "step-100", "0123abc")


@pytest.mark.parametrize(
    ("model", "more", "complaint"),
    [
        ("./nowhere", {}, "no checkpoint folder at ./nowhere"),
        ("a/b/c", {}, "no checkpoint folder at a/b/c"),
        ("org/nothing", {}, "checkpoint org/nothing cannot be loaded"),
        (str(Path(__file__).parent), {"revision": "main"}, "is a folder, and revision = 'main' is of a hub name"),
    ],
)
def test_a_place_without_a_model_is_refused(
    base: Base, model: str, more: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def offline(*_: object, **__: object) -> str:
        raise OSError("offline")

    monkeypatch.setattr(checkpoint, "snapshot_download", offline)
    with pytest.raises(LensrlError, match=complaint):
        open_checkpoint(full(model, **more), base)


def test_a_recipe_names_its_folders_from_its_own_place(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "layer-3", tmp_path / "models" / "three")
    (tmp_path / "recipe.toml").write_text(
        'model = "tiny:qwen3"\ntask = "arithmetic"\nlayers = []\n'
        '[checkpoints]\nlayer-3 = "models/three"\nfull-rl = { snapshots = { 10 = "models/three", 20 = "org/x" } }\n'
    )
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.checkpoints["layer-3"].seeds[0].model == str(tmp_path / "models" / "three")
    assert recipe.checkpoints["full-rl"].seeds[0].snapshots[10].model == str(tmp_path / "models" / "three")
    assert recipe.checkpoints["full-rl"].seeds[0].model == "org/x"
