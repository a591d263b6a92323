"""Recoveries over seeds: the ratio of means, beside what is measured with fewer seeds."""

from pathlib import Path

import numpy as np
import pytest

from lensrl.compare.patching.over_seeds import ALL_SEEDS, over_seeds
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.patch import PatchKey, PatchResult, write_patch
from lensrl.store.study import open_study
from tests.store.synthetic import add_run, make_study

GAIN = {0: 1.0, 1: 1.02}  # of full RL, by seed
PART = {(0, 0): 0.25, (0, 1): 0.27, (1, 0): 0.5}  # of a layer with a seed: layer 1 is not patched with seed 1


def test_the_recovery_over_seeds_is_the_ratio_of_means(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    add_run(folder, BASE, {"only": [0.0, 1.0]})
    (folder / PATCH_FOLDER).mkdir()
    with open_study(folder) as study:
        sources = {BASE: study[BASE].run_id}
    items = np.linspace(-0.1, 0.1, 40)
    for stale in (True, False):  # results of a run that was made again do not count
        for (layer, seed), part in PART.items():
            values = [0.2 + items, 0.2 + GAIN[seed] + items[::-1], 0.2 + part + items]
            key = PatchKey("weights", "block", (layer,), FULL, BASE, seed + 2 * stale)
            run = {FULL: "of old"} if stale else {}
            write_patch(folder / PATCH_FOLDER, PatchResult(
                key, {"score": np.stack(values)}, ["only"] * 40, sources | run, {},
            ))  # fmt: skip
    with open_study(folder) as study:
        table = over_seeds(study).set_index("layer")
    assert table["recovery"].to_numpy() == pytest.approx([(0.25 + 0.27) / (1 + 1.02), 0.5 / 1])
    assert table["seeds"].tolist() == [2, 1]
    assert table["reason"].tolist()[1] == "1 of 2 seeds"
    assert set(table["seed"]) == {ALL_SEEDS}
    assert (table["from_value"] - table["into_value"]).tolist() == pytest.approx([1.01, 1])


def test_patches_of_one_seed_have_no_mean(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    add_run(folder, BASE, {"only": [0.0, 1.0]})
    with open_study(folder) as study:
        assert over_seeds(study).empty
