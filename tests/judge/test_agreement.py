"""Studies and tables side by side: planted profiles, what they share, and why there is sometimes no agreement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lensrl import LensrlError, agree, open_study
from lensrl.judge import agreement
from lensrl.judge.agreement import others_beside
from lensrl.judge.profiles import PairedGains, Profile, read_profile
from lensrl.measures.gains import Gains
from tests.judge.test_verdict_of_studies import write_study

PUBLISHED = Path(__file__).parents[2] / "runs" / "published" / "qwen3-1.7b-grpo-math.csv"
RISE = np.linspace(0.2, 1.0, 8)


def table(path: Path, contribution: np.ndarray) -> Path:
    pd.DataFrame({"layer": range(len(contribution)), "contribution": contribution}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("studies")
    return {
        "rise": write_study(root / "rise", RISE, 3),
        "again": write_study(root / "again", RISE, 2),
        "longer": write_study(root / "longer", np.interp(np.linspace(0, 1, 12), np.linspace(0, 1, 8), RISE), 1),
        "fall": write_study(root / "fall", RISE[::-1].copy(), 1),
        "nothing": write_study(root / "nothing", RISE, 2, gain=0.0),
    }


def test_every_two_studies_agree_as_planted(folders: dict[str, Path]) -> None:
    found = agree(*(folders[name] for name in ("rise", "again", "longer", "fall")))
    assert found.studies["study"].tolist() == ["rise", "again", "longer", "fall"]
    assert found.studies["errors"].tolist() == ["seeds and items", "seeds and items", "items", "items"]
    assert (found.studies["reliability"] > 0.8).all()
    assert len(found.pairs) == 6
    for pair in found.pairs.to_dict("records"):
        sign = -1 if pair["second"] == "fall" else 1
        for name in ("spearman", "kendall"):
            assert pair[f"{name}_low"] <= sign <= pair[f"{name}_high"]
        assert sign * pair["spearman"] > 0.7
        assert 0.8 < pair["ceiling"] < 1
        assert (pair["layers"], pair["status"], pair["interval"]) == (8, "defined", "errors of both")
    matrix = found.matrix().to_numpy()
    assert matrix[0, 3] == matrix[3, 0] < 0
    assert np.isnan(np.diag(matrix)).all()


def test_open_studies_folders_and_tables_give_the_same_numbers(folders: dict[str, Path]) -> None:
    with open_study(folders["rise"]) as study:
        one = agree(study, PUBLISHED).pairs
    pd.testing.assert_frame_equal(one, agree(str(folders["rise"]), str(PUBLISHED)).pairs)
    assert one["interval"].tolist() == ["errors of both"]
    assert one["spearman_low"][0] < one["spearman"][0] < one["spearman_high"][0]


def test_tables_have_the_errors_of_their_roughness_or_of_their_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.6, 0.2, (2, 12))
    found = agree(table(tmp_path / "x.csv", x), table(tmp_path / "y.csv", y))
    (pair,) = found.pairs.to_dict("records")
    assert pair["spearman"] == pytest.approx(stats.spearmanr(x, y)[0])
    assert pair["kendall"] == pytest.approx(stats.kendalltau(x, y)[0])
    assert pair["spearman_low"] < pair["spearman"] < pair["spearman_high"]
    assert found.studies["errors"].tolist() == ["roughness of the table"] * 2
    rows = pd.read_csv(tmp_path / "x.csv")
    known = rows.assign(low=rows["contribution"] - 0.0196, high=rows["contribution"] + 0.0196)
    known.to_csv(tmp_path / "known.csv", index=False)
    profile = read_profile(tmp_path / "known.csv")
    assert profile.errors == "intervals of the table"
    assert float(profile.gains.contrast(np.eye(13)[3]).error) == pytest.approx(0.01, rel=1e-4)
    exact = agree(tmp_path / "known.csv", tmp_path / "y.csv")
    assert exact.studies["reliability"][0] > 0.99
    assert exact.pairs["ceiling"][0] <= 1


def test_an_interval_with_a_table_that_has_errors_holds_the_truth(tmp_path: Path) -> None:
    """Taken as exact, a table with errors of 0.15 would be held in far fewer."""
    rng, held, x = np.random.default_rng(1), 0, np.linspace(0, 1, 28)
    for trial in range(20):
        one, other = 0.3 + 0.6 * x, 0.3 + 0.6 * np.sin(np.pi * x / 1.4)
        seen = [profile + rng.normal(0, 0.15, 28) for profile in (one, other)]
        found = agree(*(table(tmp_path / f"{trial}-{i}.csv", values) for i, values in enumerate(seen))).pairs
        held += found["spearman_low"][0] <= stats.spearmanr(one, other)[0] <= found["spearman_high"][0]
    assert held >= 17


def test_a_study_without_a_gain_says_so_and_costs_the_others_nothing(folders: dict[str, Path]) -> None:
    found = agree(folders["rise"], folders["nothing"], folders["again"])
    status = found.pairs.set_index(["first", "second"])["status"].to_dict()
    assert status == {
        ("rise", "nothing"): "undefined",
        ("rise", "again"): "defined",
        ("nothing", "again"): "undefined",
    }
    assert "nothing: undefined: the interval of S_full - S_base contains 0" in found.pairs["reason"][0]
    assert json.loads(json.dumps(found.as_dict()))["studies"][1]["reason"].startswith("undefined: ")


def test_three_common_depths_are_too_few_and_a_constant_has_no_order(tmp_path: Path) -> None:
    short, flat, rise = (
        table(tmp_path / f"{name}.csv", values)
        for name, values in (("short", RISE[:3]), ("flat", np.full(8, 0.5)), ("rise", RISE))
    )
    reasons = agree(short, flat, rise).pairs.set_index(["first", "second"])["reason"]
    assert reasons["short", "rise"] == "3 layers at depths that both have: at least 4 are needed"
    assert reasons["flat", "rise"] == "one of the two profiles is constant over depth"


def test_the_same_items_are_the_same_in_another_order_and_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that both were scored on bring both the same luck: none has a part in both sides of a pair."""
    rng, ids = np.random.default_rng(0), [f"q{i}" for i in range(60)]
    luck = rng.normal(size=(13, 1, 60))
    mine, theirs = (luck + rng.normal(0, 0.2, (13, 1, 60)) + 1 for _ in range(2))

    def made(name: str, gains: np.ndarray, items: list[str]) -> Profile:
        paired = PairedGains(gains, np.arange(12), [0], items, ["only"] * len(items))
        return Profile(name, Path(name), np.arange(12), 12, Gains.from_items(gains, paired.benchmark), paired)

    order = rng.permutation(60)
    first, same = made("first", mine, ids), made("other", theirs, ids)
    turned = made("other", theirs[..., order], [ids[i] for i in order])
    more = made("other", np.concatenate([theirs, theirs[..., :1]], axis=2), [*ids, "new"])
    monkeypatch.setattr(agreement, "read_profile", lambda profile: profile)
    expected, pair = others_beside(first, [same])[0], agree(first, same).pairs  # pyright: ignore[reportArgumentType]
    found = others_beside(first, [turned])[0]  # pyright: ignore[reportArgumentType]
    assert set(found) == set(expected) == {"other, first half of the items", "other, second half"}
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name])
    pd.testing.assert_frame_equal(agree(first, turned).pairs, pair)  # pyright: ignore[reportArgumentType]
    beside_more = others_beside(first, [more])[0]  # pyright: ignore[reportArgumentType]
    for name in expected:
        assert np.corrcoef(*found[name][1:])[0, 1] < 0.6
        assert np.corrcoef(*beside_more[name][1:])[0, 1] < 0.6
    assert np.corrcoef(first.gains.contributions, same.gains.contributions)[0, 1] > 0.8, "with the luck in both"
    low = agree(first, more).pairs["spearman_low"][0]  # pyright: ignore[reportArgumentType]
    assert low == pytest.approx(pair["spearman_low"][0], abs=0.15)


def test_studies_of_one_name_are_told_apart_by_their_paths(folders: dict[str, Path], tmp_path: Path) -> None:
    other = table(tmp_path / "rise.csv", RISE)
    assert agree(folders["rise"], other).studies["study"].tolist() == [str(folders["rise"]), str(other)]


def test_one_alone_twice_the_same_or_none_is_one_clear_line(folders: dict[str, Path], tmp_path: Path) -> None:
    for sources, expected in (
        ((folders["rise"],), "1 profile given, agreement needs at least two"),
        ((), "0 profiles given"),
        ((folders["rise"], folders["rise"] / ".." / "rise"), "is given twice"),
        ((folders["rise"], tmp_path / "gone.csv"), "gone.csv cannot be read as a table"),
        ((folders["rise"], tmp_path), "is not a study"),
    ):
        with pytest.raises(LensrlError, match=expected) as error:
            agree(*sources)
        assert "\n" not in str(error.value)


def test_no_item_has_a_part_in_both_of_two_studies_side_by_side(folders: dict[str, Path]) -> None:
    """Planted studies have items of the same names: each half of the one stands beside the other half."""
    beside, limits = others_beside(folders["rise"], [folders["again"], PUBLISHED, folders["nothing"]])
    assert list(beside) == ["again, first half of the items", "again, second half", "qwen3-1.7b-grpo-math"]
    assert [limit.split(":")[0] for limit in limits] == ["Not compared, nothing"]
    paired = read_profile(folders["rise"]).paired
    assert paired is not None
    halves = [beside[name].own for name in list(beside)[:2]]
    whole = paired.gains[:-1].mean(axis=(1, 2)) / paired.gains[-1].mean()
    assert np.mean(halves, axis=0) == pytest.approx(whole, rel=0.05)
    assert not np.allclose(halves[0], halves[1])
