"""trackio, where it is installed: one run of its own for each run of a study, with every step. Nothing goes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CODE = """
import json, sys
from pathlib import Path
from lensrl.train.trackers import Trackio
for run in ("full-rl.seed-0", "layer-3.seed-0"):
    tracker = Trackio(Path(sys.argv[1]), run, {"steps": 3}, 1)
    for step in (1, 2, 3):
        tracker.log(step, {"reward_mean": step / 10, "loss": -step})
    tracker.finish()
from trackio.sqlite_storage import SQLiteStorage
logs = {run: SQLiteStorage.get_logs("study", run) for run in SQLiteStorage.get_runs("study")}
print("LOGS", json.dumps(logs, default=str))
"""


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed: pip install trackio")
def test_trackio_gets_a_run_of_its_own_for_each_run_in_the_project_of_the_study(tmp_path: Path) -> None:
    there = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CODE, str(tmp_path / "study")]
    done = subprocess.run(command, env={**os.environ, **there}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    logs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("LOGS "))[5:])
    assert list(logs) == ["full-rl.seed-0", "layer-3.seed-0"]
    for rows in logs.values():
        assert [row["step"] for row in rows] == [1, 2, 3]
        assert [row["training/reward_mean"] for row in rows] == [0.1, 0.2, 0.3]
        assert [row["training/loss"] for row in rows] == [-1, -2, -3]
    assert (tmp_path / "trackio" / "study.db").is_file()
