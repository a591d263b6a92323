"""A study of two models without a task: what is measured on texts, and what is refused for want of scores."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lensrl
from lensrl import Study, import_recipe
from lensrl.errors import LensrlError, StoreError
from lensrl.models.base import Base
from lensrl.tasks.texts import BUILT_IN
from tests.reseal import resealed

SPREAD = 0.02
NOT_SCORED = re.escape("has no scores, and C_l needs them") + ".* lensrl import .*--task math --test FILE"


@pytest.fixture(scope="module")
def folders(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model: the base with noise in its matrices. And the same with noise in layer 3 alone."""
    folder, generator = tmp_path_factory.mktemp("models"), torch.Generator().manual_seed(0)
    noise = {n: SPREAD * torch.randn(w.shape, generator=generator) for n, w in base.weights.items() if w.ndim > 1}
    for name, layers in (("full", range(8)), ("l3", [3])):
        moved = {n: base.weights[n] + by for n, by in noise.items() if base.blocks.layer(n) in layers}
        base.fresh(moved).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def study(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    recipe = import_recipe("tiny:qwen3", {"full-rl": folders / "full", "layer-3": folders / "l3"})
    return lensrl.run_study(recipe, tmp_path_factory.mktemp("study") / "texts")


def test_the_runs_are_whole_and_have_no_score(study: Study) -> None:
    assert [*study.runs] == [("base", 0), ("full-rl", 0), ("layer-3", 0)]
    assert {check.status for check in lensrl.verify(study.path)} == {"good"}
    for run in study.runs.values():
        assert (run.has_scores, run.has_weights, run.has_activations, math.isnan(run.score)) == (
            False,
            True,
            True,
            True,
        )
        assert run.scores_by_item()["score"].isna().all()
        with pytest.raises(LensrlError, match="has no scores: its study compares models on texts"):
            _ = run.scores()
    assert "sampling" not in study["full-rl"].provenance["dtypes"]


def test_the_probe_set_is_the_texts(study: Study) -> None:
    probe = study["base"].probe()
    spelled = probe.groupby("prompt")["text"].agg(lambda tokens: "".join(tokens).removesuffix("<eos>"))
    assert spelled.tolist() == [*BUILT_IN]  # the embedded models read single characters


def test_a_log_probability_is_that_of_the_text(study: Study, base: Base) -> None:
    item = 17
    ids = torch.tensor([[*base.tokenizer(BUILT_IN[item])["input_ids"], base.tokenizer.eos_token_id]])
    with torch.no_grad():
        expected = -base.model(input_ids=ids, labels=ids).loss.item()  # transformers' own mean over all but the first
    assert study["base"].scores_by_item()["reference_logprob"][item] == pytest.approx(expected, abs=1e-4)


def test_two_models_without_a_study_give_the_same_tables(study: Study, folders: Path) -> None:
    found = lensrl.compare_model_activations("tiny:qwen3", folders / "full")
    assert found.equals(lensrl.compare_activations(study))
    mine = lensrl.compare_weights(study, by="layer")
    theirs = lensrl.compare_models("tiny:qwen3", folders / "full", by="layer")
    assert theirs[mine.columns].equals(mine)
    before_the_change = lensrl.compare_model_activations("tiny:qwen3", folders / "l3", site="mlp_out")["one_minus_cka"]
    np.testing.assert_allclose(before_the_change[:3], 0, atol=1e-6)
    assert before_the_change[3] > 1e-4


def test_patching_recovers_log_probabilities(study: Study) -> None:
    rows = lensrl.patch(study, layers="all", sets="together", what="weights")
    assert set(rows["metric"]) == {"reference_logprob"}
    whole = rows[rows["sets"] == "everything"].iloc[0]
    assert whole["patched_value"] == pytest.approx(
        study["full-rl"].scores_by_item()["reference_logprob"].mean(), abs=1e-5
    )
    other = lensrl.patch(study, layers=[3], what="activations")
    assert set(other["metric"]) == {"reference_logprob", "logit_difference"}
    assert other["contribution"].isna().all()


@pytest.mark.parametrize(
    "asked",
    [
        lambda study: study.contributions(),
        lensrl.predictors,
        lensrl.correlate_study,
        lensrl.verdict,
        lambda study: lensrl.agree(study, study),
    ],
    ids=["contributions", "predictors", "correlate", "verdict", "agree"],
)
def test_what_needs_scores_says_so(study: Study, asked: Callable[[Study], Any]) -> None:
    with pytest.raises(LensrlError, match=NOT_SCORED):
        asked(study)


def test_rivals_are_measured_on_the_texts_and_never_sampled(study: Study) -> None:
    with pytest.raises(LensrlError, match="samples no scores: its task is 'texts'; leave out sampled=True"):
        lensrl.base_rivals(study, sampled=True)


def test_the_report_compares_the_runs_with_the_base(study: Study, tmp_path: Path) -> None:
    page = lensrl.write_report(study, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "layer-3, seed 0, beside the base" in page
    assert "24 texts" in page
    assert "The verdict" not in page


def test_a_study_goes_on_with_another_run_and_not_with_other_texts(study: Study, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one text\nanother text\nthird\n")
    folder = tmp_path / "study"
    recipe = import_recipe("tiny:qwen3", folders / "full", texts=tmp_path / "t.txt")
    assert len(lensrl.run_study(recipe, folder)["full-rl"].scores_by_item()) == 3
    more = import_recipe("tiny:qwen3", {"full-rl": folders / "full", "sft": folders / "full"}, texts=tmp_path / "t.txt")
    assert [name for name, _ in lensrl.run_study(more, folder).runs] == ["base", "full-rl", "sft"]
    with pytest.raises(LensrlError, match="holds a study of another recipe"):
        lensrl.run_study(import_recipe("tiny:qwen3", folders / "full"), folder)
    (tmp_path / "t.txt").write_text("one text\nanother text\nchanged\n")
    (folder / "sft.seed-0.h5").unlink()
    with pytest.raises(LensrlError, match="was made with other test items"):
        lensrl.run_study(more, folder)


def test_a_score_in_a_study_without_scores_is_damage(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "base.h5"
    path.write_bytes(study["base"].path.read_bytes())
    with resealed(path) as file:
        del file["scores/reference_logprob"]
    (check,) = lensrl.verify(path)
    assert (check.status, "scores/reference_logprob" in check.where) == ("damaged", True)
    with pytest.raises(StoreError):
        lensrl.open_run(tmp_path / "nothing.h5")
