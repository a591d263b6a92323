"""`lensrl run --devices-per-run 2`: the study of one process, made on two ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensrl.store.run import Run
from tests.train.test_engine import data
from tests.train.test_ranks import python

STUDY = """\
model = "tiny:qwen3"
layers = [3]
on_no_gain = "go on"
[task]
name = "arithmetic"
[rl]
steps = 4
max_completion_tokens = 5
learning_rate = 2e-4
[evaluation]
items = 47
samples = 2
[store]
probe_items = 6
snapshots = [0.5, 1.0]
"""


RUN = ["-m", "lensrl_cli.main", "run", "study.toml"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and its study by one process."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(STUDY)
    assert python(*RUN, "--out", "one", cwd=folder).returncode == 0
    return folder


@pytest.mark.cluster
@pytest.mark.parametrize("shard", [[], ["--shard"]])
def test_a_study_on_two_devices_a_run_is_that_of_one(study: Path, shard: list[str]) -> None:
    """Completions are sampled: a row has the same random numbers on every device."""
    made = study / f"two{''.join(shard)}"
    done = python(*RUN, "--devices-per-run", "2", *shard, "--out", made.name, cwd=study)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(f"study {made.name}") == 1, "rank 0 alone speaks"
    assert f"all 3 runs done in {made.name}" in done.stdout
    assert not [*made.glob(".*")]
    for path in sorted((study / "one").glob("*.h5")):
        with Run(made / path.name) as shared:
            device = str(shared.provenance["device"])
            assert device.startswith("2 x cpu")
            assert device.endswith(", weights in shards") == bool(shard)
        one, two = data(path), data(made / path.name)
        close = {"deltas/": 1e-5, "scores/reference_logprob": 1e-5, "activations/": 2e-3, "training/": 1e-4}
        for name, values in one.items():
            atol = next((atol for part, atol in close.items() if part in name), None)
            if atol is not None:
                np.testing.assert_allclose(two[name], values, atol=atol, err_msg=f"{path.name}: {name}")
            elif name.startswith(("scores/", "probe/", "item")):  # the same completions, judged in the same order
                np.testing.assert_array_equal(two[name], values, err_msg=f"{path.name}: {name}")


@pytest.mark.cluster
def test_a_number_of_devices_that_does_not_divide_a_step_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    wrong = python(*RUN, "--devices-per-run", "3", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout.count("\n")) == (2, 1)
    assert wrong.stderr.startswith("lensrl: rl.prompts_per_step is 8, and 3 ranks share the prompts")
    assert wrong.stderr.count("\n") == 1
