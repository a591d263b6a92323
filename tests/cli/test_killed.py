"""A study whose process is killed in the middle of a run, with SIGKILL and with SIGTERM, and then goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lensrl import load_recipe, open_study, run_study, verify
from lensrl.store.file.training import latest_step, training_folder
from lensrl.train.watch import NoWatcher
from tests.cli.test_interrupt import wait_until

RECIPE = """\
model = "tiny:qwen3"
layers = []
[task]
name = "arithmetic"
[rl]
steps = 60
prompts_per_step = 2
completions_per_prompt = 4
max_completion_tokens = 5
learning_rate = 2e-4
checkpoint_every = 3
[evaluation]
items = 8
samples = 1
[store]
probe_items = 2
snapshots = [0.05, 0.5]
"""
OF_A_PROCESS = {"training/step_time", "training/peak_memory"}  # the data that no two runs have in common


class Lines(NoWatcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def noted(self, line: str) -> None:
        self.lines.append(line)


def data(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def keep(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and name not in OF_A_PROCESS:
            found[name] = (str(node.dtype), node.shape, np.asarray(node[()]).tobytes())

    with h5py.File(path) as file:
        file.visititems(keep)
        found |= {name: str(file.attrs[name]) for name in ("status", "score", "snapshots", "layers", "fingerprint")}
    return found


@pytest.mark.slow
def test_full_rl_that_is_killed_twice_ends_in_the_file_of_a_run_that_was_not(tmp_path: Path) -> None:
    study, recipe = tmp_path / "study", tmp_path / "study.toml"
    recipe.write_text(RECIPE)
    folder = training_folder(study / "full-rl.seed-0.h5")

    def stop(after: int, number: signal.Signals) -> tuple[int, str, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "lensrl_cli.main", "run", "study.toml"], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        try:
            assert wait_until(lambda: (latest_step(folder) or 0) >= after, process, 120), process.communicate()
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, output, errors

    # 1. SIGKILL, when there is a snapshot and a checkpoint.
    assert stop(3, signal.SIGKILL)[0] == -signal.SIGKILL
    killed_at = latest_step(folder)
    assert killed_at is not None
    assert killed_at < 60
    # 2. SIGTERM, some steps later. The study can be looked at.
    code, output, errors = stop(killed_at + 3, signal.SIGTERM)
    assert (code, errors) == (143, "")
    stopped_at = latest_step(folder)
    assert stopped_at is not None
    lines = output.splitlines()
    assert f"full-rl seed 0: goes on from step {killed_at}" in lines
    assert lines[-2:] == [
        f"full-rl seed 0: a checkpoint keeps step {stopped_at}",
        "stopped by SIGTERM; the same command continues with the missing runs",
    ]
    assert {check.status for check in verify(study)} == {"good"}
    with open_study(study) as half:
        rows = {row["run"]: (row["status"], row["reason"]) for row in half.runs.rows()}
        assert rows["base"][0] == "completed"
        reason = f"a checkpoint keeps step {stopped_at}: lensrl run goes on from there"
        assert rows["full-rl"] == ("unfinished", reason)
    # 3. To the end, in this process; and once more without any interruption.
    watcher = Lines()
    run_study(load_recipe(recipe), study, watcher).close()
    going_on, *rest = watcher.lines
    assert going_on == f"full-rl seed 0: goes on from step {stopped_at}"
    assert all(line.startswith("full RL gained nothing certain") for line in rest)  # eight items tell little
    assert sorted(path.name for path in study.iterdir()) == ["base.h5", "full-rl.seed-0.h5", "recipe.json"]
    whole = load_recipe(recipe)
    whole = whole.model_copy(update={"rl": whole.rl.model_copy(update={"checkpoint_every": None})})
    run_study(whole, tmp_path / "whole").close()
    run_study(whole, study).close()  # the same study: it differs in checkpoint_every alone
    for name in ("base.h5", "full-rl.seed-0.h5"):
        one, other = data(study / name), data(tmp_path / "whole" / name)
        assert one.keys() == other.keys()
        assert [key for key in one if one[key] != other[key]] == []
    with open_study(study) as done, open_study(tmp_path / "whole") as never:
        assert done["full-rl"].provenance["resumed"] == [killed_at, stopped_at]
        assert "resumed" not in never["full-rl"].provenance
