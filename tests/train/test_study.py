"""Making a study: the plan, what is resumed, what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lensrl import open_study, patch, run_study
from lensrl.errors import LensrlError, StoreError
from lensrl.models.base import Base, load_base
from lensrl.recipe import Prompt, Recipe
from lensrl.recipe.runs import RunSpec, plan
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.train import materials
from lensrl.train.watch import NoWatcher
from tests.conftest import SMALL
from tests.reseal import resealed


class Names(NoWatcher):
    def __init__(self) -> None:
        self.made: list[str] = []

    def finished(self, spec: RunSpec, run: Run) -> None:
        self.made.append(run.name)


def changed(recipe: Recipe, **values: object) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | values)


@pytest.fixture
def copied(small_study_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_study_folder, tmp_path / "small")
    return tmp_path / "small"


def test_the_plan_makes_the_base_once_and_the_rest_per_seed() -> None:
    names = [(spec.name, spec.layers, spec.seed) for spec in plan(changed(SMALL, seeds=[0, 4]), 8)]
    per_seed = [("full-rl", None), ("layer-0", (0,)), ("layer-3", (3,)), ("layer-7", (7,)), ("ends", (0, 7))]
    assert names == [("base", (), 0), *((name, layers, seed) for seed in (0, 4) for name, layers in per_seed)]


@pytest.mark.parametrize("name", ["base", "full-rl", "layer-3", "../x", ""])
def test_a_set_cannot_take_the_name_of_a_run(name: str) -> None:
    with pytest.raises(LensrlError, match="cannot name a set"):
        plan(changed(SMALL, sets={name: [1]}), 8)


def test_every_run_holds_what_the_study_needs(small_study: Study) -> None:
    scores = small_study.scores()
    assert list(scores["run"]) == ["base", "full-rl", "layer-0", "layer-3", "layer-7", "ends"]
    assert set(scores["status"]) == {"completed"}
    for run in small_study.runs.values():
        assert run.scores_by_item()["item"].tolist() == small_study["base"].scores_by_item()["item"].tolist()
        assert {site: a.shape for site, a in run.activations.items()} == dict.fromkeys(
            ("attn_out", "block_out", "mlp_out"), (8, len(run.probe()), 96)
        )
        assert run.provenance["versions"].keys() >= {"torch", "trl", "transformers", "transformer-lens", "h5py"}
        assert run.recipe == SMALL.model_dump(mode="json")


def test_only_the_trained_layers_have_deltas(small_study: Study) -> None:
    assert dict(small_study["base"].deltas) == {}
    assert set(small_study["full-rl"].deltas) == {*range(8), "embed", "final_norm"}
    for name, layers in (("layer-3", {3}), ("ends", {0, 7})):
        run = small_study[name]
        assert set(run.deltas) == layers
        norms = run.layer_delta_norms().set_index("layer")["norm"]
        assert {layer for layer, norm in norms.items() if norm > 0} == layers
        for layer in layers:
            stored = np.sqrt(sum(float((d[...].astype(float) ** 2).sum()) for d in run.deltas[layer].values()))
            assert norms[layer] == pytest.approx(stored)


def test_activations_differ_from_the_trained_layer_on_and_not_before(small_study: Study) -> None:
    base, single = (small_study[name].activations["block_out"][...] for name in ("base", "layer-3"))
    np.testing.assert_array_equal(base[:3], single[:3])
    assert all(np.abs(base[layer] - single[layer]).max() > 0 for layer in range(3, 8))


def test_a_finished_study_is_not_made_again(copied: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in copied.glob("*.h5")}
    names = Names()
    run_study(SMALL, copied, names).close()
    assert names.made == []
    assert {path.name: path.stat().st_mtime_ns for path in copied.glob("*.h5")} == before


def test_a_missing_run_is_made_and_equals_the_one_that_was_lost(copied: Path) -> None:
    with Run(copied / "layer-7.seed-0.h5") as run:
        lost = run.scores_by_item(), {name: delta[...] for name, delta in run.deltas[7].items()}
    (copied / "layer-7.seed-0.h5").unlink()
    names = Names()
    with run_study(SMALL, copied, names) as study:
        assert names.made == ["layer-7"]
        assert study["layer-7"].scores_by_item().equals(lost[0])
        for name, delta in study["layer-7"].deltas[7].items():
            np.testing.assert_array_equal(delta[...], lost[1][name])


def test_a_study_can_be_extended_but_not_turned_into_another(copied: Path) -> None:
    names = Names()
    run_study(changed(SMALL, layers=[0, 1, 3, 7]), copied, names).close()
    assert names.made == ["layer-1"]
    with pytest.raises(LensrlError, match=r"another recipe \(rl.steps is 4 there and 5 here\); .*--out"):
        run_study(changed(SMALL, rl=SMALL.rl.model_copy(update={"steps": 5})), copied)


def test_another_base_model_under_the_same_name_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(name: str, prompt: Prompt) -> Base:
        loaded = load_base(name, prompt)
        norm = {"model.norm.weight": torch.zeros_like(loaded.weights["model.norm.weight"])}
        return Base(loaded.name, loaded.fresh(norm), loaded.tokenizer, loaded.blocks)

    monkeypatch.setattr(materials, "load_base", other)
    (copied / "layer-7.seed-0.h5").unlink()
    with pytest.raises(LensrlError, match="another base model"):
        run_study(SMALL, copied)


def test_a_run_of_another_base_is_not_taken_for_one_of_this_study(copied: Path) -> None:
    with resealed(copied / "layer-3.seed-0.h5") as file:
        file.attrs["fingerprint"] = "0" * 64
    with open_study(copied) as study:
        rows = study.contributions().set_index("layer")
        assert rows["status"].to_dict() == {0: "defined", 3: "damaged", 7: "defined"}
        assert "made from another base model (fingerprint 000000000000)" in str(rows.loc[3, "reason"])
    with pytest.raises(StoreError, match=r"layer-3\.seed-0\.h5 was made from another base model"):
        run_study(SMALL, copied)


def test_a_renamed_run_is_not_taken_for_another(copied: Path) -> None:
    (copied / "layer-3.seed-0.h5").rename(copied / "layer-5.seed-0.h5")
    with open_study(copied) as study:
        assert "layer-3" not in study
        assert "rename it back" in study.broken["layer-5.seed-0.h5"]


def test_fewer_training_items_than_a_step_takes_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    """TRL would pass over every step, and the run would be a base model by the name of full RL."""
    recipe = SMALL.model_copy(update={"rl": SMALL.rl.model_copy(update={"prompts_per_step": 100_000})})
    with pytest.raises(LensrlError, match=r"task arithmetic has \d+ training items, fewer than the 100000 of a step"):
        run_study(recipe, tmp_path / "study")
    assert not list(tmp_path.rglob("*.h5"))


def test_a_study_that_could_not_begin_leaves_its_recipe_free_to_change(tmp_path: Path) -> None:
    with pytest.raises(LensrlError, match="no model folder"):
        run_study(changed(SMALL, model="./nowhere"), tmp_path / "study")
    recipe = changed(SMALL, layers=[], sets={}, rl=SMALL.rl.model_copy(update={"steps": 1}))
    with run_study(recipe, tmp_path / "study") as study:
        assert list(study.runs) == [("base", 0), ("full-rl", 0)]
        with pytest.raises(LensrlError, match="no single-layer runs"):
            study.contributions()


def test_a_damaged_run_stops_the_study_and_is_kept(copied: Path) -> None:
    path = copied / "layer-3.seed-0.h5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoreError, match=r"layer-3\.seed-0\.h5 is damaged"):
        run_study(SMALL, copied)
    assert path.stat().st_size == 5000
    with open_study(copied) as study:
        assert list(study.broken) == ["layer-3.seed-0.h5"]
        assert study.contributions().set_index("layer").loc[3, "status"] == "damaged"


def test_a_run_that_diverges_is_kept_with_its_curve_and_the_study_goes_on(tmp_path: Path) -> None:
    wild = changed(SMALL, layers=[7], sets={}, rl=SMALL.rl.model_copy(update={"steps": 9, "learning_rate": 1e18}))
    with run_study(wild, tmp_path / "wild") as study:
        full = study["full-rl"]
        assert full.status == "diverged"
        assert "not finite" in full.reason
        assert not full.has_scores
        assert len(full.training()) > 1
        assert ("layer-7", 0) in study.runs
        row = study.contributions().set_index("layer").loc[7]
        assert (row["status"], np.isnan(row["contribution"])) == ("diverged", True)
        with pytest.raises(LensrlError, match="has no weights"):
            patch(study, layers=7)


@pytest.mark.slow
def test_a_killed_study_keeps_finished_runs_and_continues(tmp_path: Path) -> None:
    folder, recipe = tmp_path / "killed", tmp_path / "killed.toml"
    recipe.write_text(
        'model = "tiny:qwen3"\nlayers = [0]\non_no_gain = "go on"\n'
        '[task]\nname = "arithmetic"\n'
        "[rl]\nsteps = 300\nmax_completion_tokens = 5\n"
        "[evaluation]\nitems = 16\nsamples = 1\n"
        "[store]\nprobe_items = 2\n"
    )
    command = [sys.executable, "-m", "lensrl_cli.main", "run", str(recipe), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "base.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # into the first training
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in folder.glob("*.h5")] == ["base.h5"]
    with open_study(folder) as study:
        assert list(study.runs) == [("base", 0)]
        assert study.broken == {}
