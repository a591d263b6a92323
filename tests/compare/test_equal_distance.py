"""Layers and full RL at an equal distance from the base, in a study that really ran."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lensrl import LensrlError, Study, contributions_at_equal, kl_to_base
from lensrl.compare import equal_distance


def norm(study: Study, run: str, step: int | None = None) -> float:
    """The norm of all deltas, from the deltas themselves."""
    deltas = study[run].deltas if step is None else study[run].snapshots[step]
    entries = [np.ravel(change) for part in deltas for change in deltas[part].values()]
    return float(np.linalg.norm(np.concatenate(entries).astype(np.float64)))


def test_at_equal_norm_each_run_is_taken_where_it_first_is_so_far(small_study: Study) -> None:
    table = contributions_at_equal(small_study, "norm").set_index("layer")
    full = {step: norm(small_study, "full-rl", step) for step in (2, 4)}
    base = small_study["base"].score
    ordinary = {row["layer"]: row["contribution"] for row in small_study.contributions(0).to_dict("records")}
    for layer, row in table.iterrows():
        far = norm(small_study, f"layer-{layer}")
        assert row["distance"] == pytest.approx(min(far, full[4]), rel=1e-6)
        assert row["full_distance"] == pytest.approx(full[4], rel=1e-6)
        assert far < full[4], "a layer alone is nearer"
        assert row["gain"] == pytest.approx(small_study[f"layer-{layer}"].score - base), "at its own end"
        assert row["at_end"] == pytest.approx(ordinary[layer], nan_ok=True)
    whole = small_study["full-rl"].score - base
    half = (table["full_gain"] * full[2] / table["distance"]).to_numpy(float)  # before step 2: a line from the base
    assert (table["distance"] < full[2]).all()
    assert half == pytest.approx(np.full(len(table), half[0]))
    assert not np.allclose(table["full_gain"].to_numpy(float), whole)


def test_at_equal_kl_the_distance_is_that_of_kl_to_base(small_study: Study) -> None:
    table = contributions_at_equal(small_study, "kl").set_index("layer")
    kl = kl_to_base(small_study).set_index("run")["kl"]
    assert table["full_distance"].to_numpy(float).min() >= kl["full-rl"] - 1e-9
    for layer, row in table.iterrows():
        assert row["distance"] >= min(kl[f"layer-{layer}"], kl["full-rl"]) - 1e-9
        assert (row["status"] == "defined") == bool(np.isfinite(row["contribution"]))


def test_a_planted_path_gives_the_ratio_by_hand(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    items = len(small_study["base"].scores_by_item())
    own = small_study["base"].scores_by_item()["score"].to_numpy()
    rise = 0.2 + 0.01 * np.arange(items)
    paths = {
        "full-rl": equal_distance.Path(np.array([0.0, 1.0, 4.0]), np.stack([own, own + rise, own + 2 * rise])),
        "layer-3": equal_distance.Path(np.array([0.0, 0.5, 2.5]), np.stack([own, own, own + 0.6 * rise])),
    }
    monkeypatch.setattr(equal_distance._Paths, "measure", lambda *_: dict(paths))
    (row,) = contributions_at_equal(small_study).to_dict("records")
    # Full RL is at 2.5 half way between its points: 1.5 times the rise. The layer ends there with 0.6 of it.
    assert (row["layer"], row["distance"]) == (3, 2.5)
    assert row["contribution"] == pytest.approx(0.6 / 1.5)
    assert row["low"] <= row["contribution"] <= row["high"]


def test_without_snapshots_it_says_what_to_write(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(small_study["full-rl"]), "snapshots", property(lambda _: {}))
    with pytest.raises(LensrlError, match=r"no snapshots before its end: put snapshots = \[0.1, 0.25, 0.5\]"):
        contributions_at_equal(small_study)
    with pytest.raises(LensrlError, match=r"there is no distance 'k1'.*known: kl, norm"):
        contributions_at_equal(small_study, "k1")  # type: ignore[arg-type]


def test_the_columns_are_the_documented_ones(small_study: Study) -> None:
    assert [*contributions_at_equal(small_study, "norm").columns] == equal_distance.EQUAL_COLUMNS
    assert isinstance(contributions_at_equal(small_study, "norm"), pd.DataFrame)
