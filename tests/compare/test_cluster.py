"""Patches and rivals on a real Ray cluster of two nodes: the results are those of one process, also after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from lensrl import base_rivals, open_study, patch
from lensrl.compare import cluster as clusters
from lensrl.compare.cluster import Cluster
from lensrl.compare.rivals import RIVALS_FILE, stored_rivals
from lensrl.errors import LensrlError
from lensrl.store.names import PATCH_FOLDER
from tests.cli.typed import lensrl

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]


@pytest.fixture(scope="module")
def alone(finished_study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The patches as one process measures them."""
    with open_study(copy(finished_study_folder, tmp_path_factory.mktemp("alone"))) as study:
        return patch(study, layers="0,3,7", metric="both")


def copy(study: Path, place: Path) -> Path:
    return Path(shutil.copytree(study, place / "small", ignore=shutil.ignore_patterns(PATCH_FOLDER)))


def measuring() -> list[psutil.Process]:
    """The processes of the cluster that measure; Ray names them after the function."""
    return [p for p in psutil.process_iter(["cmdline"]) if "ray::_work_here" in " ".join(p.info["cmdline"] or [])]


def test_the_nodes_measure_what_one_process_measures_and_a_killed_worker_costs_nothing(
    cluster: Any, finished_study_folder: Path, alone: pd.DataFrame, tmp_path: Path
) -> None:
    folder, killed, steps = copy(finished_study_folder, tmp_path), [], []

    def kill() -> None:
        while not (found := measuring()):
            time.sleep(0.05)
        os.kill(found[0].pid, signal.SIGKILL)
        killed.append(found[0].pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with open_study(folder) as study:
        spread = patch(
            study, layers="0,3,7", metric="both", cluster=Cluster(cluster.address),
            on_progress=lambda step, done, total: steps.append((step, done, total)),
        )  # fmt: skip
    killer.join(timeout=60)
    assert killed
    pd.testing.assert_frame_equal(spread, alone, check_exact=False, atol=1e-5)
    assert steps[-1] == ("patches", 6, 6)
    assert len([*(folder / PATCH_FOLDER).iterdir()]) == 6
    assert not [*folder.glob("**/.*")], "nothing is left"


def test_the_command_measures_on_the_cluster(
    cluster: Any, finished_study_folder: Path, alone: pd.DataFrame, tmp_path: Path
) -> None:
    folder = copy(finished_study_folder, tmp_path)
    typed = ["patch", folder, "--layer", "3", "--what", "weights", "--engine", "ray", "--address", cluster.address]
    done = lensrl(*typed, "--num-cpus", "0.5")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "sampled scores of the grafts: no estimate on Ray; --metric logprob leaves them out\n"
    assert lensrl(*typed).stderr == "", "all is stored"
    with open_study(folder) as study:
        table = study.patches()
    stored = table[table["metric"] == "score"]["patched_value"].item()
    expected = alone[(alone["layer"] == 3) & (alone["metric"] == "score")]["patched_value"].item()
    assert stored == expected


def test_the_nodes_leave_out_the_layers_that_one_process_leaves_out(
    cluster: Any, finished_study_folder: Path, tmp_path: Path
) -> None:
    folder = copy(finished_study_folder, tmp_path)
    (folder / RIVALS_FILE).unlink(missing_ok=True)
    done = lensrl("correlate", folder, "--engine", "ray", "--address", cluster.address)
    assert (done.returncode, done.stderr) == (0, "")
    with open_study(folder) as study:
        spread = stored_rivals(study)
        assert spread is not None, "the command kept them"
        (folder / RIVALS_FILE).unlink()
        pd.testing.assert_frame_equal(spread, base_rivals(study), check_exact=False, atol=1e-5)


def test_what_cannot_be_measured_there_is_one_line(
    cluster: Any, finished_study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(finished_study_folder, tmp_path)
    with open_study(folder) as study, pytest.raises(LensrlError, match="a worker needs num_cpus = 64"):
        patch(study, layers="3", cluster=Cluster(cluster.address, num_cpus=64.0))
    done = lensrl("patch", folder, "--layer", "3", "--engine", "ray", "--workers", "2")
    assert done.returncode == 2
    assert "--workers is for processes on this machine" in done.stderr
    # The path means another folder to each process, so no node sees this one.
    monkeypatch.setattr(clusters, "PATIENCE", 0.0)
    monkeypatch.chdir(tmp_path)
    with (
        open_study("/proc/self/cwd/small") as study,
        pytest.raises(LensrlError, match=r"does not see /proc/self/cwd/small: a measurement on Ray needs a folder"),
    ):
        patch(study, layers="3", cluster=Cluster(cluster.address))
