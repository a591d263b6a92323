"""The smoke recipe of evaluation: benchmarks of their own kinds, a further task, a LoRA control, and the verbs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lensrl
from lensrl import LensrlError, Study
from lensrl.measures.item_scores import item_scores
from lensrl.recipe import Recipe, load_recipe
from lensrl.store.verify import check_file
from tests.cli.test_verbs import lensrl as typed

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[2] / "runs" / "smoke-evaluation.toml"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The recipe with two steps and few items."""
    given = load_recipe(RECIPE)
    fewer = {"items": 12, "expression": {"items": 4, "samples": 1, "max_completion_tokens": 6}}
    fewer |= {"carry": {"samples": 8}, "samples": 2}
    rl = given.rl.model_copy(update={"steps": 2})
    return Recipe.model_validate(given.model_dump() | {"rl": rl, "evaluation": fewer, "store": {"snapshots": [0.5]}})


@pytest.fixture(scope="module")
def study(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return lensrl.run_study(recipe, tmp_path_factory.mktemp("evaluation") / "study")


def test_each_benchmark_has_its_own_samples_and_the_further_task_is_not_in_the_score(study: Study) -> None:
    rows = study.benchmarks().set_index("benchmark")
    assert rows["samples"].to_dict() == {"no-carry": 2, "carry": 8, "expression": 1}
    assert rows["also"].to_dict() == {"no-carry": False, "carry": False, "expression": True}
    for run in study.runs.values():
        samples = run.samples()
        means = [np.nanmean(samples.score[samples.benchmark == name], axis=1).mean() for name in ("carry", "no-carry")]
        assert run.score == pytest.approx(np.mean(means))
        assert set(run.scores_by_item()["benchmark"]) == set(run.scores()["benchmark"]) == {"carry", "no-carry"}
        assert len(run.scores()) == 12 * (2 + 8)
        assert check_file(run.path).status == "good"


def test_contributions_of_a_benchmark_are_ratios_of_its_gains(study: Study) -> None:
    for benchmark in ("carry", "expression"):
        table = study.contributions(benchmark=benchmark)
        scores = study.scores(benchmark=benchmark).set_index("run")
        gains = [scores.loc[f"layer-{layer}", "gain"] for layer in table["layer"]]
        assert table["numerator"].to_numpy() == pytest.approx(np.array(gains))
    base = study["base"].samples()
    carry = base.chosen(base.benchmark == "carry")
    scores = study.scores(benchmark="carry", score="pass@8").set_index("run")
    assert scores.loc["base", "score"] == pytest.approx(item_scores(carry, "pass@8").mean())
    three = [study.scores(benchmark=name).set_index("run")["score"] for name in ("carry", "no-carry", "expression")]
    assert study.scores(benchmark="all").set_index("run")["score"].to_numpy() == pytest.approx(
        np.mean([score.to_numpy() for score in three], axis=0)
    )


def test_the_score_logprob_is_the_mean_log_probability_of_references(study: Study) -> None:
    scores = study.scores(score="logprob").set_index("run")["score"]
    for name in ("base", "layer-3"):
        items = study[name].scores_by_item()
        assert scores[name] == pytest.approx(items.groupby("benchmark")["reference_logprob"].mean().mean())
    contributions = study.contributions(score="logprob").set_index("layer")
    assert contributions.loc[3, "numerator"] == pytest.approx(scores["layer-3"] - scores["base"])


def test_contributions_by_score_are_those_of_each_possible_score(study: Study) -> None:
    assert study.possible_scores(benchmark="carry")[:3] == ("mean", "pass@8", "vote")
    assert study.possible_scores(benchmark="expression")[0] == "mean"
    table = study.contributions_by_score(benchmark="carry")
    assert tuple(table["score"].unique()) == study.possible_scores(benchmark="carry")
    for score, part in table.groupby("score"):
        alone = study.contributions(benchmark="carry", score=str(score))
        np.testing.assert_array_equal(part["numerator"].to_numpy(), alone["numerator"].to_numpy())


def test_lora_moves_every_layer_by_a_matrix_of_its_rank_and_nothing_else(study: Study) -> None:
    run = study["lora"]
    norms = run.delta_norms()
    moved = norms[norms["norm"] > 0]
    assert set(moved["layer"].dropna()) == set(range(8))
    assert moved["parameter"].str.contains("proj").all()
    assert len(moved) == norms["parameter"].str.contains("proj").sum()
    for name in ("self_attn.q_proj.weight", "mlp.down_proj.weight"):
        for deltas in (run.deltas, run.snapshots[1]):
            values = np.linalg.svd(deltas[4][name][:].astype(np.float64), compute_uv=False)
            assert values[8] < 1e-3 * values[0]  # rank 8; base + delta is rounded to fp32
    assert study.set_contributions()["trained"].tolist() == [
        "LoRA of rank 8 in layers 0-7, layers 0-7 at 10 x the learning rate"
    ]


def test_the_verbs_run_on_it(study: Study) -> None:
    for arguments in (("--benchmark", "each"), ("--score", "finished"), ("--benchmark", "carry", "--score", "pass@4")):
        done = typed("contribution", study.path, *arguments)
        assert done.returncode == 0, done.stderr
    done = typed("overlap", study.path, "--json")  # no-carry has two samples of each item
    found = json.loads(done.stdout)
    assert {row["kind"] for row in found["overlaps"]} == {"samples", "runs"}
    assert [row["team"] for row in found["teams"]] == ["union", "vote"]
    assert all(row["k"] == 2 and row["layer_score"] is not None and not row["reason"] for row in found["teams"])
    assert all(row["low"] <= row["difference"] <= row["high"] for row in found["teams"])
    carry = json.loads(typed("overlap", study.path, "--benchmark", "carry", "--json").stdout)["teams"]
    assert [(row["team"], row["k"], row["reason"]) for row in carry] == [("union", 3, ""), ("vote", 3, "")]
    shown = typed("overlap", study.path).stdout
    assert all(name in shown for name in ("layer-3", "The 2 best layers together", "union", "vote"))
    page = lensrl.write_report(study).read_text(encoding="utf-8")
    assert "One sample each of the 2 best layers" in page
    assert "24 items × 2 or 8 samples" in page
    assert ("No value by expression: the interval of S_full - S_base contains 0" in page) == (
        study.contributions(benchmark="expression")["status"] == "undefined"
    ).all()
    three = typed("contribution", study.path, "--benchmark", "each", "--layer", "3", "--json")
    assert {row["layer"] for row in json.loads(three.stdout)["layers"]} == {3}


def test_a_figure_by_benchmark_and_score_shows_their_contributions(study: Study) -> None:
    table = study.contributions(benchmark="carry", score="vote")
    axes = lensrl.plot.contributions(study, benchmark="carry", score="vote")
    assert "carry, majority vote" in axes.get_title(loc="left")
    drawn = [point for line in axes.lines for point in np.asarray(line.get_ydata())]
    drawn += [float(y) for each in axes.collections for _, y in np.asarray(each.get_offsets())]
    assert all(np.isclose(drawn, value).any() for value in table["contribution"].dropna())


def test_what_cannot_be_is_refused_in_one_line(study: Study, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(LensrlError, match="pass@4 needs 4 samples of each item, and benchmark 'no-carry' has 2"):
        study.contributions(score="pass@4")
    with pytest.raises(LensrlError, match=r"no benchmark 'cary'.*did you mean 'carry'"):
        study.contributions(benchmark="cary")
    with pytest.raises(LensrlError, match="benchmark 'expression' has none"):
        study.contributions(benchmark="all", score="vote")
    wrong = recipe.model_dump() | {"evaluation": {"cary": {"samples": 3}}}
    with pytest.raises(LensrlError, match=r"evaluation.cary: there is no benchmark 'cary'.*did you mean 'carry'"):
        lensrl.run_study(Recipe.model_validate(wrong), tmp_path / "study")
    twice = recipe.model_dump() | {"also": [{"task": "expression"}, {"task": "expression"}]}
    with pytest.raises(LensrlError, match="'expression' is in two tasks"):
        lensrl.run_study(Recipe.model_validate(twice), tmp_path / "study")
    assert not (tmp_path / "study").exists()
