"""Checkpoints of training frameworks, adapters, pickles and broken copies: refused by name, with what to type."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from lensrl.models.base import load_base
from tests.families import FAMILIES, TOKENIZER, opened
from tests.models.test_loading import command, model_folder, refusal


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"shard")


def bare(folder: Path) -> Path:
    """A model folder without its weights."""
    model_folder("llama", folder)
    (folder / "model.safetensors").unlink()
    return folder


VERL = "python -m verl.model_merger merge --backend"
ZERO = "python {}/zero_to_fp32.py {} OUT --safe_serialization"


@pytest.mark.parametrize(
    ("shards", "given", "words"),
    [
        (["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"], ".", VERL + " fsdp --local_dir {}"),
        (["actor/model_world_size_8_rank_0.pt"], ".", VERL + " fsdp --local_dir {}/actor --target_dir OUT"),
        (["actor/dist_ckpt/__0_0.distcp"], "actor", VERL + " megatron --local_dir {}/actor --target_dir OUT"),
        (["__0_0.distcp", "__1_0.distcp", ".metadata"], ".", "accelerate merge-weights {} OUT"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], ".", "accelerate merge-weights {}/pytorch_model_fsdp_0 OUT"),
        (["global_step9/mp_rank_00_model_states.pt", "zero_to_fp32.py"], ".", ZERO),
        (["global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt"], "global_step9", ZERO),
    ],
)
def test_shards_are_refused_with_the_command_that_merges_them(
    shards: list[str], given: str, words: str, tmp_path: Path
) -> None:
    folder = bare(tmp_path / "run 1")
    touched(*(folder / shard for shard in shards))
    line = refusal(folder / given)
    said = shlex.split(line[line.index(words.partition(" ")[0] + " ") :])  # paths with spaces are quoted
    assert said[: len(words.split())] == [word.replace("{}", str(folder)) for word in words.split()]


def test_the_configuration_that_verl_keeps_beside_its_shards_leads_to_them(tmp_path: Path) -> None:
    touched(tmp_path / "actor" / "model_world_size_1_rank_0.pt")
    assert "verl.model_merger" in refusal(bare(tmp_path / "actor" / "huggingface"))


def test_a_complete_model_beside_shards_is_named(tmp_path: Path) -> None:
    touched(tmp_path / "actor" / "model_world_size_1_rank_0.pt")
    complete = model_folder("llama", tmp_path / "actor" / "huggingface")
    line = refusal(tmp_path / "actor")
    assert f"give {complete}" in line
    load_base(complete)


def test_optimizer_shards_below_complete_weights_are_no_matter(tmp_path: Path) -> None:
    """The Trainer with DeepSpeed's ZeRO-2, or with FSDP and a full state dict."""
    folder = Path(model_folder("llama", tmp_path / "checkpoint-100"))
    touched(folder / "global_step100" / "mp_rank_00_model_states.pt", folder / "optimizer_0" / "__0_0.distcp")
    touched(folder / "zero_to_fp32.py", folder / "optimizer.pt", folder / "rng_state.pth", folder / "training_args.bin")
    load_base(str(folder))


def test_model_shards_beside_weights_are_refused_as_either_may_be_meant(tmp_path: Path) -> None:
    folder = Path(model_folder("llama", tmp_path / "model"))
    touched(folder / "model_world_size_2_rank_0.pt")
    assert "verl" in refusal(folder)


@pytest.mark.slow
def test_dcp_shards_load_after_the_command_of_the_refusal(tmp_path: Path) -> None:
    base = opened(FAMILIES["llama"], tmp_path / "original")
    folder = bare(tmp_path / "sharded")
    save_distributed({"model": base.model.state_dict()}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
    line = refusal(folder)
    merge = shlex.split(line[line.index("accelerate ") : line.index(" ; then copy")])
    assert merge[:2] == ["accelerate", "merge-weights"]
    subprocess.run(
        [Path(sys.executable).with_name("accelerate"), *merge[1:-1], str(tmp_path / "OUT")],
        check=True, capture_output=True,
    )  # fmt: skip
    base.model.config.save_pretrained(tmp_path / "OUT")
    TOKENIZER.save_pretrained(tmp_path / "OUT")
    assert load_base(str(tmp_path / "OUT")).fingerprint == base.fingerprint


@pytest.mark.parametrize("parts", [1, 2])
def test_pickled_weights_load_after_the_command_of_the_refusal(parts: int, tmp_path: Path) -> None:
    base = opened(FAMILIES["llama"], tmp_path / "original")
    folder = bare(tmp_path / "it's pickle")
    names = [*base.model.state_dict()]
    for part in range(parts):
        file = "pytorch_model.bin" if parts == 1 else f"pytorch_model-{part + 1:05}-of-{parts:05}.bin"
        torch.save({n: base.model.state_dict()[n] for n in names[part::parts]}, folder / file)
    line = refusal(folder)
    assert "pickle (pytorch_model" in line
    subprocess.run([sys.executable, *command(line)[1:]], check=True, capture_output=True)
    assert load_base(str(folder)).fingerprint == base.fingerprint


@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_is_refused_alone_and_beside_a_model(beside: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if beside:
        model_folder("llama", folder)
    touched(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/x"}))
    line = refusal(folder)
    assert ("beside a full model" if beside else "is an adapter") in line
    assert "merge_and_unload" in line
    compile(command(line)[2], "command", "exec")


def sharded(folder: Path) -> list[Path]:
    """A model folder of several shards."""
    opened(FAMILIES["llama"], folder / "whole").fresh().save_pretrained(folder, max_shard_size="4KB")
    TOKENIZER.save_pretrained(folder)
    return sorted(folder.glob("model-*.safetensors"))


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    shard = sharded(tmp_path)[1]
    shard.unlink()
    line = refusal(tmp_path)
    assert f"model.safetensors.index.json names {shard.name}, which is not in the folder" in line


def test_a_shard_that_was_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    shard = sharded(tmp_path)[-1]
    shard.write_bytes(shard.read_bytes()[:-8])
    assert f"{shard.name} is damaged or cut short" in refusal(tmp_path)


def test_shards_without_their_index_are_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert "shards without model.safetensors.index.json" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json cannot be read" in refusal(tmp_path)


def test_gguf_is_refused(tmp_path: Path) -> None:
    touched(bare(tmp_path / "model") / "model-Q4_K_M.gguf")
    assert "GGUF" in refusal(tmp_path / "model")


def test_a_pointer_of_git_lfs_is_refused(tmp_path: Path) -> None:
    folder = Path(model_folder("llama", tmp_path / "model"))
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in refusal(folder)


def test_a_folder_of_nothing_is_one_clear_line(tmp_path: Path) -> None:
    assert "has no config.json; give a folder with config.json" in refusal(tmp_path)


def test_the_output_folder_of_a_trainer_is_refused_with_one_of_its_checkpoints(tmp_path: Path) -> None:
    complete = model_folder("llama", tmp_path / "checkpoint-20")
    assert f"such as {complete}" in refusal(tmp_path)
