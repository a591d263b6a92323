"""Ctrl-C while a study is being made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from lensrl_cli.run import run

from lensrl.recipe import Recipe
from lensrl.recipe.runs import RunSpec
from lensrl.store.run import Run
from lensrl.train.watch import Watcher

RECIPE = """\
model = "tiny:qwen3"
layers = [0]
on_no_gain = "go on"
[task]
name = "arithmetic"
[rl]
steps = 300
max_completion_tokens = 5
[evaluation]
items = 8
samples = 1
[store]
probe_items = 2
"""


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if happened():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_an_interrupted_study_says_so_in_one_line_and_keeps_only_whole_runs(tmp_path: Path) -> None:
    scratch, study = tmp_path / "scratch", tmp_path / "study"
    scratch.mkdir()
    (tmp_path / "study.toml").write_text(RECIPE)

    def temporary() -> list[Path]:
        return [path for path in scratch.iterdir() if not path.name.startswith("torchinductor")]  # torch's own cache

    process = subprocess.Popen(
        [sys.executable, "-m", "lensrl_cli.main", "run", "study.toml"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        process_group=0,  # a terminal sends Ctrl-C to the whole group
    )  # fmt: skip
    try:
        assert wait_until((study / "base.h5").exists, process, 120), process.poll()
        wait_until(lambda: bool(temporary()), process, 60)  # training has a temporary folder
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert errors == ""
    lines = [line for line in output.splitlines() if line]
    assert "Traceback" not in output
    assert [line for line in lines if "stop" in line] == [lines[-1]]
    assert lines[-1] == "stopped; the same command continues with the missing runs"
    assert {path.name for path in study.iterdir()} == {"base.h5", "recipe.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", "study", "study.toml"}
    assert temporary() == []
    with Run(study / "base.h5") as base:
        assert base.status == "completed"
        assert len(base.scores_by_item()) == 8


def test_an_interrupt_that_a_library_swallows_is_raised_again_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def swallowing(recipe: Recipe, folder: Path, watcher: Watcher, **options: object) -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        asked.append("step")
        watcher.scoring(RunSpec("base", (), 0))
        asked.append("went on")

    monkeypatch.setattr("lensrl.run_study", swallowing)
    (tmp_path / "study.toml").write_text(RECIPE)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(typer.Exit) as caught:
        run([tmp_path / "study.toml"])
    assert (caught.value.exit_code, asked) == (130, ["step"])
    assert signal.getsignal(signal.SIGINT) is handler
