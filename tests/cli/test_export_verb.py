"""`lensrl export` as it is typed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lensrl_cli.export import export
from safetensors.torch import load_file

from lensrl import open_study
from lensrl.compare.patching.graft import graft, run_weights
from lensrl.models.base import Base
from tests.cli.typed import lensrl
from tests.reseal import resealed


def test_the_example_in_the_help_runs_as_typed(small_study_folder: Path, tmp_path: Path) -> None:
    example = (export.__doc__ or "").split("Example: lensrl ")[1].split()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(small_study_folder)
    done = lensrl(*example, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"model: {tmp_path / 'my-model'}\n"
    assert (tmp_path / "my-model" / "model.safetensors").exists()


def test_a_graft_in_bfloat16(base: Base, small_study_folder: Path, tmp_path: Path) -> None:
    done = lensrl(
        "export", small_study_folder, "full-rl", tmp_path / "g", "--layers", "3", "--into", "layer-7", "--seed", 0,
        "--dtype", "bfloat16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with open_study(small_study_folder) as study:
        donor, into = (run_weights(study[name], base) for name in ("full-rl", "layer-7"))
    stored = load_file(tmp_path / "g" / "model.safetensors")
    for name, weight in graft(base, into, donor, [3]).items():
        assert torch.equal(stored[name], weight.to(torch.bfloat16)), name


def test_a_seed_is_chosen(base: Base, finished_study_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    shutil.copytree(finished_study_folder, folder)
    shutil.copy(folder / "layer-7.seed-0.h5", folder / "full-rl.seed-1.h5")
    with resealed(folder / "full-rl.seed-1.h5") as file:
        file.attrs["run"], file.attrs["seed"], file.attrs["run_id"] = "full-rl", 1, "full-rl-1"
    for seed in ((), ("--seed", 1)):
        out = tmp_path / f"out{len(seed)}"
        assert lensrl("export", folder, "full-rl", out, *seed).returncode == 0
        with open_study(folder) as study:
            weights = run_weights(study["full-rl", 1 if seed else 0], base)
        stored = load_file(out / "model.safetensors")
        assert all(torch.equal(stored[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["full-rl", "x", "--seed", "7"], "has no full-rl with seed 7; it has seeds [0]"),
        (["layer-4", "x"], "has no run 'layer-4'; did you mean"),
        (["full-rl", "x", "--layers", "99"], "layer 99 is out of range: this model has 8 layers, 0 to 7"),
        (["full-rl", "x", "--layers", "3-x"], "'3-x' is not a layer"),
        (["full-rl", "x", "--layers", "3", "--into", "layer-5"], "has no run 'layer-5'; did you mean"),
        (["full-rl", "x", "--layers", "3", "--into", "full-rl"], "choose another run with --into"),
        (["full-rl", "x", "--into", "base"], "needs the layers to put there: add --layers"),
        (["layer-7", "x", "--layers", "3"], "the graft would be 'base'; 'layer-7' changed layer 7"),
        (["full-rl", "x", "--dtype", "int8"], "'int8' is not one of"),
        (["full-rl", "x", "--peft", "--dtype", "bfloat16"], "leave out --dtype bfloat16"),
        (["layer-3", "x", "--peft"], "an adapter would be no smaller than the change"),
        (["full-rl"], "Missing argument 'DIR'"),
        (["full-rl", "taken"], "is not empty: name a new folder"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, small_study_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    done = lensrl("export", small_study_folder, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(tmp_path) == ["taken"]


def test_a_full_disk_is_one_line_and_leaves_nothing(small_study_folder: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\nfrom lensrl_cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        f"sys.argv = ['lensrl', 'export', {str(small_study_folder)!r}, 'full-rl', {str(tmp_path / 'out')!r}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "out could not be written" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(tmp_path) == []


def test_a_damaged_delta_is_not_exported(finished_study_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_study_folder, tmp_path / "s")
    path = tmp_path / "s" / "layer-3.seed-0.h5"
    with open_study(tmp_path / "s") as study:
        offset = study["layer-3"].file["deltas/3/mlp.up_proj.weight"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset + 100] ^= 1
    path.write_bytes(data)
    done = lensrl("export", tmp_path / "s", "layer-3", tmp_path / "out")
    assert done.returncode == 2
    assert "deltas/3" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(tmp_path) == ["s"]
