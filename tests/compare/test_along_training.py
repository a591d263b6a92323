"""The way of a run's weights through its snapshots, in a study that really ran."""

from __future__ import annotations

import numpy as np
import pytest

from lensrl.compare.weights import TRAJECTORY_COLUMNS, along_training
from lensrl.errors import LensrlError
from lensrl.store.file.lazy import Deltas
from lensrl.store.study import Study


def test_the_way_of_a_run_is_that_of_its_trained_weights(small_study: Study) -> None:
    table = along_training(small_study, "layer-3")
    assert list(table.columns) == TRAJECTORY_COLUMNS
    assert table["layer"].tolist() == list(range(8))
    assert (table["snapshots"] == 2).all(), "half way and the end, which is a snapshot of the recipe too"
    assert set(table.dropna()["layer"]) == {3}

    run = small_study["layer-3"]
    half, end = (
        np.concatenate([kept[3][name][...].reshape(-1) for name in kept[3]]).astype(float)
        for kept in (run.snapshots[2], run.deltas)
    )
    v = (2 * half + 4 * end) / (2**2 + 4**2)
    left = ((half - 2 * v) ** 2).sum() + ((end - 4 * v) ** 2).sum()
    first, second = np.linalg.norm(half), np.linalg.norm(end - half)
    expected = {
        "linearity": 1 - left / ((half**2).sum() + (end**2).sum()),
        "directness": np.linalg.norm(end) / (first + second),
        "directness_null": np.hypot(first, second) / (first + second),
    }
    assert table.loc[3, list(expected)].to_dict() == pytest.approx(expected, rel=1e-9)


def test_full_rl_has_a_way_in_every_layer(small_study: Study) -> None:
    table = along_training(small_study)
    assert table.notna().all(axis=None)
    for measure in ("linearity", "linearity_null", "directness", "directness_null"):
        assert table[measure].between(0, 1).all()


def test_a_parameter_that_moved_late_did_not_move_before(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = small_study["layer-3"].deltas.exact(3)
    early = {name: change for i, (name, change) in enumerate(kept.items()) if i % 2}
    points = {2: early, 4: kept}
    monkeypatch.setattr(Deltas, "exact", lambda self, layer: points[2 if "snapshots" in self._root else 4])
    table = along_training(small_study, "layer-3")
    sizes = {step: sum(float((d.delta.astype(float) ** 2).sum()) for _, d in points[step].values()) for step in points}
    # the early half stands still after the middle, the late half comes at once: orthogonal steps
    way = np.sqrt(sizes[2]) + np.sqrt(sizes[4] - sizes[2])
    assert table.loc[3, "directness"] == pytest.approx(np.sqrt(sizes[4]) / way)
    assert table.loc[3, "directness_null"] == pytest.approx(np.sqrt(sizes[4]) / way)


def test_a_run_whose_last_weights_alone_were_kept_says_what_to_put_into_the_recipe(small_study: Study) -> None:
    with pytest.raises(LensrlError, match=r"base.h5 has no path to follow \(the base is not trained\)"):
        along_training(small_study, "base")
    small_study["full-rl"]._snapshots = []
    with pytest.raises(
        LensrlError, match=r"only its last weights .*snapshots = \[0.25, 0.5, 0.75, 1.0\] under \[store\]"
    ):
        along_training(small_study)
    with pytest.raises(LensrlError, match="did you mean 'full-rl'"):
        along_training(small_study, "full-lr")
