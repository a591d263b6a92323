"""The verdict on a published profile, and on studies whose truth was planted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lensrl import LensrlError
from lensrl.judge.claims import CLAIMS
from lensrl.judge.findings import Finding
from lensrl.judge.verdict import Verdict, read_contributions, verdict
from lensrl.measures.gains import Interval
from lensrl.store.table import read_benchmarks

PUBLISHED = Path(__file__).parents[2] / "runs" / "published" / "qwen3-1.7b-grpo-math.csv"
NINE = np.arange(9)
HUMP = 0.2 + 0.8 * np.exp(-(((NINE - 4) / 1.3) ** 2) / 2)
CLIFF = np.where(np.arange(21) < 14, 0.9, 0.2)
ITEMS = 400


def claim_of(found: Verdict, name: str) -> Finding:
    return next(claim for claim in found.claims if claim.name == name)


def assert_readable(found: Verdict) -> None:
    """Every sentence is one, without a number that is none; and everything is JSON."""
    for sentence in found.sentences():
        assert "nan" not in sentence.lower().replace("sentence", "")
        assert sentence.endswith(".")
        assert "\n" not in sentence
    assert json.loads(json.dumps(found.as_dict()))["sentences"] == found.sentences()
    assert [claim.name for claim in found.claims] == [claim.name for claim in CLAIMS]


# The published table


@pytest.mark.parametrize(("error", "expected"), [(0.02, "supported"), (0.4, "undetermined")])
def test_the_errors_of_a_table_count_in_every_claim(error: float, expected: str, tmp_path: Path) -> None:
    """A smooth hump is as rough with large errors as with small ones: its columns low and high tell them apart."""
    profile = 0.3 + 0.6 * np.exp(-(((np.arange(28) - 14) / 6) ** 2) / 2)
    table = pd.DataFrame({"layer": np.arange(28), "contribution": profile})
    table.assign(low=profile - 1.96 * error, high=profile + 1.96 * error).to_csv(tmp_path / "own.csv", index=False)
    found = verdict(tmp_path / "own.csv")
    assert {claim_of(found, name).verdict for name in ("shape", "middle")} == {expected}


def test_the_published_contributions_are_those_of_its_scores() -> None:
    """C = (S_l - S_base) / (S_full - S_base); scores have one decimal, so each may be 0.05 off, and C 0.005."""
    table = pd.read_csv(PUBLISHED)
    base, full = (float(table.loc[table["setting"] == name, "math_avg"].iloc[0]) for name in ("Base", "Full"))
    layers = table[table["layer"].notna()]
    gain = full - base
    recomputed = (layers["math_avg"] - base) / gain
    off = 0.1 / gain + np.abs(recomputed) * 0.1 / gain + 0.005
    assert (np.abs(recomputed - layers["contribution"]) < off).all()
    assert len(layers) == 28
    benchmarks = layers[["math500", "gsm8k", "olympiad", "amc"]].mean(axis=1)
    assert (np.abs(benchmarks - layers["math_avg"]) <= 0.1 + 1e-9).all()
    read = read_contributions(PUBLISHED)
    assert read["contribution"].tolist() == layers["contribution"].tolist()
    assert read["layer"].tolist() == list(range(28))
    assert (read["low"] < read["contribution"]).all()
    assert (read["contribution"] < read["high"]).all()


def test_the_published_profile_falls_and_whether_it_rises_before_is_not_certain() -> None:
    start = time.process_time()
    found = verdict(PUBLISHED)
    assert time.process_time() - start < 10
    shape = claim_of(found, "shape")
    assert shape.verdict == "undetermined"
    rise, fall = shape.details["rise"], shape.details["fall"]
    assert isinstance(rise, Interval)
    assert isinstance(fall, Interval)
    assert rise.low < 0 < rise.value < 0.3
    assert fall.low > 0.3
    concentration = claim_of(found, "concentration")
    assert (concentration.verdict, concentration.value > 24) == ("contradicted", True)
    # what the shape depends on
    benchmarks, without, noise, families = found.robustness
    for name in ("math500", "gsm8k", "olympiad", "amc"):
        assert name in benchmarks
    assert benchmarks.count("undetermined") == 4
    assert without.endswith("; undetermined.")
    assert "with 0.06, 0.24" in noise
    assert noise.split(";")[0].endswith("(undetermined, with a valley at layers 3 to 8)")
    assert families.startswith("Error of families of curves on a left-out layer: asymmetric hump 0.112 (at layer 14.")
    assert found.shapes["step"].where == 19
    order = sorted(found.shapes.values(), key=lambda fit: fit.error)
    assert order[0].shape == "asymmetric hump"
    assert [fit.shape for fit in order[3:]] == ["hump", "monotone", "constant"]
    middle = claim_of(found, "middle")
    assert middle.verdict == "supported"
    over_last, over_first = middle.details["middle - last"], middle.details["middle - first"]
    assert isinstance(over_last, Interval)
    assert isinstance(over_first, Interval)
    assert over_last.low > 0.3
    assert 0 < over_first.low < 0.05
    c = read_contributions(PUBLISHED)["contribution"].to_numpy()
    thirds = [c[:9].mean(), c[9:19].mean(), c[19:].mean()]
    assert [middle.details[name] for name in ("first", "middle", "last")] == pytest.approx(thirds)
    assert over_last.value == pytest.approx(thirds[1] - thirds[2])
    untold = [claim.name for claim in found.claims if claim.reason]
    assert untold == ["not size", "representation", "causal", "convergence", "stability"]
    assert (found.name, found.n_layers, found.n_seeds, found.best) == ("qwen3-1.7b-grpo-math", 28, 0, [])
    assert_readable(found)


BAD = {
    "no file": (None, "cannot be read as a table"),
    "empty": (b"", "cannot be read as a table"),
    "binary": (b"\x89HDF\r\n\x1a\n\xff\xfe", "cannot be read as a table"),
    "ragged": (b"layer,contribution\n0,1\n1,2,3\n", "cannot be read as a table"),
    "other columns": (b"layer,c\n0,1\n1,2\n2,3\n", "has no column 'contribution', only layer, c"),
    "two layers": (b"layer,contribution\n0,1\n1,2\n2,\n", "needs at least three layers"),
    "half a layer": (b"layer,contribution\n0.5,1\n1,2\n2,3\n", "numbered from 0"),
    "from -1": (b"layer,contribution\n-1,1\n0,2\n1,3\n", "numbered from 0"),
    "twice": (b"layer,contribution\n0,1\n0,2\n1,2\n2,3\n", "each once"),
    "no numbers": (b"layer,contribution\na,b\nc,d\ne,f\n", "needs at least three layers"),
    "infinite": (b"layer,contribution\n0,inf\n1,2\n2,3\n", "needs at least three layers"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_file_that_is_no_table_of_contributions_is_refused_in_a_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LensrlError) as error:
        verdict(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tables_own_intervals_are_kept_and_rows_without_a_layer_left_out(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("layer,contribution,low,high\nFull,1,1,1\n2,0.5,0.4,0.7\n0,0.9,0.8,1.1\n1,0.7,0.6,\n3,,0,1\n")
    table = read_contributions(path)
    assert table["layer"].tolist() == [0, 1, 2, 3]
    assert np.isnan(table["contribution"].iloc[3]), "a layer of the model all the same"
    table = table.iloc[:3]
    assert table["low"].tolist() == [0.8, 0.6, 0.4]
    assert table["high"].tolist() == pytest.approx([1.1, np.nan, 0.7], nan_ok=True)
    assert_readable(verdict(path))
    reason = "3 layers have a contribution: a rise and a fall need at least 6"
    assert claim_of(verdict(path), "shape").reason == reason


CASES = {
    "percent": (lambda layer, c: f"{layer},{100 * c:.1f}", "taken as percent and divided by 100"),
    "from 1": (lambda layer, c: f"{layer + 1},{c:.3f}", "numbered from 1: layer 1 is shown as layer 0"),
    "a gap": (lambda layer, c: "" if layer == 7 else f"{layer},{c:.3f}", "Without a row in the table: layers 7."),
}


@pytest.mark.parametrize(("line", "said"), CASES.values(), ids=CASES)
def test_tables_as_people_write_them_are_read_and_what_was_changed_is_said(
    tmp_path: Path, line: Callable[[int, float], str], said: str
) -> None:
    c = 0.3 + 0.6 * np.exp(-(((np.arange(20) - 9) / 5) ** 2) / 2)
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["layer,contribution", *filter(None, (line(i, v) for i, v in enumerate(c)))]) + "\n")
    table = read_contributions(path)
    kept = np.delete(np.arange(20), 7) if "gap" in said or "row" in said else np.arange(20)
    assert table["layer"].tolist() == kept.tolist()
    assert table["contribution"].to_numpy() == pytest.approx(c[kept], abs=1e-3)
    found = verdict(path)
    assert any(said in limit for limit in found.limits)
    assert found.n_layers == 20
    assert_readable(found)


def test_a_table_from_layer_1_with_many_layers_missing_keeps_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("layer,contribution\n1,0.4\n3,0.5\n5,0.9\n7,0.4\n")
    assert read_contributions(path)["layer"].tolist() == [1, 3, 5, 7]


def test_benchmarks_are_read_where_base_and_full_have_scores(tmp_path: Path) -> None:
    found = read_benchmarks(PUBLISHED)
    assert list(found) == ["layer", "math500", "gsm8k", "olympiad", "amc"]
    assert found["math500"][10] == pytest.approx((68.6 - 57.4) / (64.0 - 57.4))
    path = tmp_path / "plain.csv"
    path.write_text("layer,contribution\n0,0.4\n1,0.5\n2,0.9\n")
    assert list(read_benchmarks(path)) == ["layer"]


# Planted studies
