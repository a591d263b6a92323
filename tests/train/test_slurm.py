"""A study on Slurm: the script, and what it does under a stand-in for sbatch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lensrl_cli.run import run
from transformers import AutoConfig

from lensrl.errors import LensrlError
from lensrl.recipe import Recipe, load_recipe
from lensrl.train.slurm import run_paths
from tests.cli.typed import lensrl

RECIPE = """\
model = "tiny:qwen3"
layers = [3]
seeds = [0, 4]
sets = ["mid-2"]
[task]
name = "arithmetic"
[rl]
steps = 1
max_completion_tokens = 5
[evaluation]
items = 8
samples = 1
[store]
probe_items = 2
"""
RUNS = ["base", *(f"{name}.seed-{seed}" for seed in (0, 4) for name in ("full-rl", "layer-3", "mid-2"))]

# Runs the tasks 0 and 2 of the array as Slurm does, one after the other.
SBATCH = """\
#!/bin/bash
grep -q '^#SBATCH --array=0-6%3$' "$1" || exit 1
for task in 0 2; do SLURM_ARRAY_TASK_ID=$task bash "$1" || exit 1; done
echo "Submitted batch job 17"
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "study.toml").write_text(RECIPE)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "study.toml"


@pytest.mark.slow
def test_each_task_of_the_array_makes_one_run(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recipe.with_suffix("")
    words = [recipe, Path("--gpus=1"), Path("--time"), Path("8:00:00")]  # after -- in the shell
    run(words, slurm=True, submit=True, array_limit=3)
    shown = capsys.readouterr().out
    assert "Submitted batch job 17" in shown
    script = (folder / "slurm.sh").read_text()
    assert script in shown
    assert "#SBATCH --gpus=1\n#SBATCH --time 8:00:00\n" in script
    assert f"runs=({' '.join(RUNS)})" in script
    assert {path.name for path in folder.glob("*.h5")} == {"base.h5", "layer-3.seed-0.h5"}
    # The same command goes on with what is missing, and without --submit, nothing is started.
    run([recipe], slurm=True)
    shown = capsys.readouterr().out
    assert f"runs=({' '.join(name for name in RUNS if name not in ('base', 'layer-3.seed-0'))})" in shown
    assert "submit it with: sbatch" in shown
    assert len([*folder.glob("*.h5")]) == 2


def test_the_runs_are_known_without_weights(tmp_path: Path, recipe: Path) -> None:
    def names(recipe: Recipe, only: list[str] | None = None) -> list[str]:
        return [path.stem for path in run_paths(recipe, tmp_path / "none", only)]

    loaded = load_recipe(recipe)
    assert names(loaded) == RUNS
    everywhere = loaded.model_copy(update={"layers": "all", "seeds": [0], "sets": {}})
    assert names(everywhere) == [
        "base", "full-rl.seed-0", *(f"layer-{layer}.seed-0" for layer in range(8)),
    ]  # fmt: skip
    assert names(loaded, ["mid-2"]) == ["mid-2.seed-0", "mid-2.seed-4"]
    with pytest.raises(LensrlError, match="no run 'layer-4'"):
        names(loaded, ["layer-4"])


def test_a_model_whose_folder_was_not_made_is_one_line(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    lost = load_recipe(recipe).model_copy(update={"model": "data/lost"})
    with pytest.raises(
        LensrlError, match=r"'data/lost' .* no such folder, .* \(.*no network\); a recipe in runs/ says"
    ):
        run_paths(lost, tmp_path / "none")


def test_bash_accepts_the_script_of_a_folder_with_a_space(tmp_path: Path, recipe: Path) -> None:
    folder = tmp_path / "my studies"
    run([recipe], out=folder, slurm=True)
    assert subprocess.run(["bash", "-n", folder / "slurm.sh"]).returncode == 0
    assert f"'{folder}'" in (folder / "slurm.sh").read_text()


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["--gpus=1"], {}, "--gpus=1 is an option of sbatch: it needs --slurm"),
        ([], {"submit": True}, "belong to --slurm"),
        ([], {"array_limit": 2}, "belong to --slurm"),
        ([], {"slurm": True, "workers": 2}, "leave out --workers"),
        ([], {"workers": 2, "devices": "0", "per_device": 2}, "leave one of them out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    recipe: Path, words: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(LensrlError, match=message):
        run([recipe, *map(Path, words)], **options)  # type: ignore[arg-type]
    assert not recipe.with_suffix("").exists()


@pytest.mark.parametrize("words", ["--array=0-3", "--array 0-3", "-a 0-3", "-a0-3", "--arr=0-3", "--gpus=1 --array=0"])
def test_an_array_that_would_leave_runs_out_is_refused(recipe: Path, words: str) -> None:
    done = lensrl("run", recipe, "--slurm", "--", *words.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert next(word for word in words.split() if word.startswith(("--a", "-a"))) in done.stderr
    assert "--array-limit N" in done.stderr
    assert not recipe.with_suffix("").exists()


def test_options_that_only_begin_like_an_array_are_handed_on(recipe: Path) -> None:
    done = lensrl("run", recipe, "--slurm", "--", "--account=lab", "-A", "lab", "--acctg-freq=30")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --account=lab\n#SBATCH -A lab\n#SBATCH --acctg-freq=30\n" in done.stdout


def test_a_dry_run_writes_and_submits_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run([recipe], slurm=True, submit=True, dry_run=True)
    assert "disk" in capsys.readouterr().out
    assert not recipe.with_suffix("").exists()


def test_a_machine_without_sbatch_says_so(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nowhere"))
    with pytest.raises(LensrlError, match="this machine has no sbatch"):
        run([recipe], slurm=True, submit=True)
