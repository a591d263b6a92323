"""Checkpoints as runs: a study trained here comes back bit for bit from folders, and wrong folders are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensrl import Study, along_training, load_recipe, open_study, patch, run_study, verify
from lensrl.compare.patching.graft import run_weights
from lensrl.compare.rivals import base_rivals
from lensrl.errors import LensrlError, StoreError
from lensrl.models.base import Base, load_base
from lensrl.recipe import Checkpoint, Recipe
from lensrl.recipe.runs import RunSpec, plan
from lensrl.train.adopt import open_checkpoint
from lensrl.train.watch import NoWatcher
from tests.conftest import SMALL

MATRIX = "model.layers.1.mlp.up_proj.weight"
EMBED = "model.embed_tokens.weight"


def checkpoints(**named: Any) -> Recipe:
    """The small recipe without training."""
    bare = SMALL.model_dump(exclude={"rl"}) | {"layers": [], "sets": {}, "rl": {"max_completion_tokens": 5}}
    return Recipe.model_validate(bare | {"checkpoints": {name.replace("_", "-"): c for name, c in named.items()}})


def full(folder: Path | str, **more: Any) -> RunSpec:
    return RunSpec("full-rl", None, 0, checkpoint=Checkpoint.model_validate({"model": str(folder)} | more))


def layer(number: int, folder: Path, *allow: Any) -> RunSpec:
    return RunSpec(f"layer-{number}", (number,), 0, checkpoint=Checkpoint(model=str(folder)), allow=allow)


@pytest.fixture(scope="module")
def folders(finished_study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the trained study as folders, as transformers saves models."""
    out, base = tmp_path_factory.mktemp("models"), load_base("tiny:qwen3")
    with open_study(finished_study_folder) as study:
        for (name, _), run in study.runs.items():
            if name != "base":
                base.fresh(run_weights(run, base)).save_pretrained(out / name)
        full_rl = study["full-rl"]
        halfway = dict(base.weights)
        for part in full_rl.snapshots[2]:
            for name, change in full_rl.snapshots[2].exact(part).values():
                halfway[name] = torch.from_numpy(base.weights[name].numpy() + change.delta)
                halfway[name].view(-1)[torch.from_numpy(change.where)] = torch.from_numpy(change.value)
        base.fresh(halfway).save_pretrained(out / "halfway")
    return out


@pytest.fixture(scope="module")
def adopted(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    recipe = checkpoints(
        full_rl={"snapshots": {2: str(folders / "halfway"), 4: str(folders / "full-rl")}},
        layer_0=str(folders / "layer-0"), layer_3=str(folders / "layer-3"), layer_7=str(folders / "layer-7"),
        ends={"model": str(folders / "ends"), "layers": [0, 7]},
    )  # fmt: skip
    return run_study(recipe, tmp_path_factory.mktemp("adopted") / "study")


def test_a_study_that_was_trained_here_comes_back(adopted: Study, small_study: Study) -> None:
    assert [*adopted.runs] == [*small_study.runs]
    for key, run in adopted.runs.items():
        trained = small_study.runs[key]
        assert run.scores_by_item().equals(trained.scores_by_item())
        assert run.scores().equals(trained.scores())
        assert (run.layers, run.delta_norms().to_dict()) == (trained.layers, trained.delta_norms().to_dict())
        for part in trained.deltas:
            for name, delta in trained.deltas[part].items():
                assert run.deltas[part][name][...].tobytes() == delta[...].tobytes(), (key, name)
        for site, values in trained.activations.items():
            np.testing.assert_array_equal(run.activations[site][...], values[...])
    assert adopted.contributions().equals(small_study.contributions())
    assert adopted.set_contributions().equals(small_study.set_contributions())
    assert {check.status for check in verify(adopted.path)} == {"good"}


def test_a_run_says_that_it_was_not_trained_here(adopted: Study, folders: Path) -> None:
    run = adopted["layer-3"]
    assert (run.origin, run.has_training, adopted["base"].origin) == ("checkpoint", False, "training")
    assert run.checkpoint == {
        "source": str(folders / "layer-3"), "revision": None, "snapshots": {}, "dtype": "float32", "commit": "",
        "parameter_dtypes": {}, "rounding": {},
    }  # fmt: skip
    assert adopted["base"].checkpoint is None
    with pytest.raises(LensrlError, match="no training curve: it was taken from a checkpoint"):
        _ = run.training()


def test_snapshots_are_the_path_of_the_weights(adopted: Study, small_study: Study) -> None:
    assert [*adopted["full-rl"].snapshots] == [2, 4]
    assert along_training(adopted).equals(along_training(small_study))
    with pytest.raises(LensrlError, match=r"no path to follow \(a checkpoint with 0 snapshots\)"):
        along_training(adopted, "layer-3")


def test_rivals_leave_out_the_gradient_of_the_first_step(adopted: Study, small_study: Study) -> None:
    found, trained = base_rivals(adopted), base_rivals(small_study)
    assert found["rl_gradient_norm"].isna().all()
    rest = found.columns.drop(["rl_gradient_norm", "bypass_score"])
    assert found[rest].equals(trained[rest])


def test_patches_are_those_of_the_trained_study(adopted: Study, small_study: Study) -> None:
    mine, theirs = (patch(study, layers=3, what="weights") for study in (adopted, small_study))
    assert mine["recovery"].tolist() == theirs["recovery"].tolist()


def test_what_is_missing_is_trained_and_a_study_goes_on(adopted: Study, folders: Path, tmp_path: Path) -> None:
    shutil.copytree(adopted.path, tmp_path / "study")
    made: list[str] = []

    class Names(NoWatcher):
        def finished(self, spec: RunSpec, run: Any) -> None:
            made.append(run.name)

    run_study(adopted.recipe, tmp_path / "study", Names()).close()
    assert made == []
    more = adopted.recipe.model_copy(update={"layers": [0, 1]})
    assert [s.name for s in plan(more, 8) if s.checkpoint is None] == ["base", "layer-1"]
    other = checkpoints(full_rl=str(folders / "halfway"))
    with pytest.raises(StoreError, match=r"was taken from .*full-rl with snapshots 2, 4, and .* taken from .*halfway"):
        run_study(other, tmp_path / "study")
    with pytest.raises(StoreError, match=r"layer-0\.seed-0\.h5 was taken from .*, and .* was trained by lensrl"):
        run_study(checkpoints(full_rl=adopted.recipe.checkpoints["full-rl"]).model_copy(
            update={"layers": [0]}), tmp_path / "study")  # fmt: skip


def test_layers_are_trained_beside_a_checkpoint(folders: Path, tmp_path: Path) -> None:
    recipe = checkpoints(full_rl={"seed-0": str(folders / "full-rl"), "seed-1": str(folders / "halfway")})
    recipe = recipe.model_copy(update={"layers": [3], "seeds": [1], "rl": SMALL.rl.model_copy(update={"steps": 1})})
    with run_study(recipe, tmp_path / "study") as study:
        assert {key: run.origin for key, run in study.runs.items()} == {
            ("base", 0): "training", ("full-rl", 0): "checkpoint", ("full-rl", 1): "checkpoint",
            ("layer-3", 1): "training",
        }  # fmt: skip
        assert study.contributions()["seeds"].tolist() == [1]


def test_a_wrong_checkpoint_stops_the_study_before_the_base(folders: Path, tmp_path: Path) -> None:
    recipe = checkpoints(full_rl=str(folders / "full-rl"), layer_3=str(folders / "ends"))
    with pytest.raises(LensrlError, match=r"layer-3: the run is said to train layer 3, and .* model\.layers\.0\."):
        run_study(recipe, tmp_path / "study")
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize("name", ["full_rl", "layer_3"])
def test_a_model_that_equals_the_base_is_refused(base: Base, name: str, folders: Path, tmp_path: Path) -> None:
    base.model.save_pretrained(tmp_path / "same")
    recipe = checkpoints(**{name: str(tmp_path / "same")})
    with pytest.raises(
        LensrlError, match=rf"checkpoints\.{name.replace('_', '-')}: .*same equals the base, tiny:qwen3, in every"
    ):
        run_study(recipe, tmp_path / "study")
    assert not (tmp_path / "study").exists() or not list((tmp_path / "study").iterdir())
    path = {1: str(tmp_path / "same"), 4: str(folders / "full-rl")}  # a warm-up may begin with a rate of 0
    _, snapshots = open_checkpoint(full(folders / "full-rl", snapshots=path), base)
    assert [*snapshots] == [1]


def test_no_settings_of_training_are_needed_where_nothing_is_trained(folders: Path, tmp_path: Path) -> None:
    recipe = checkpoints(full_rl=str(folders / "full-rl"))
    greedy = recipe.rl.model_copy(update={"prompts_per_step": 100_000})
    with run_study(recipe.model_copy(update={"rl": greedy}), tmp_path / "study") as study:
        assert [name for name, _ in study.runs] == ["base", "full-rl"]
        with pytest.raises(LensrlError, match="no single-layer runs"):
            study.contributions()


def test_a_checkpoint_that_holds_no_numbers_is_refused(base: Base, tmp_path: Path) -> None:
    base.fresh({MATRIX: base.weights[MATRIX] * torch.nan}).save_pretrained(tmp_path)
    with pytest.raises(LensrlError, match=rf"{MATRIX} holds a NaN or an infinity"):
        open_checkpoint(full(tmp_path), base)


@pytest.mark.parametrize("word", ["bfloat16", "float16"])
def test_rounding_alone_is_named_where_it_moved_a_parameter(base: Base, word: str, tmp_path: Path) -> None:
    model: Any = base.fresh()
    model.to(getattr(torch, word)).save_pretrained(tmp_path)
    weights, _ = open_checkpoint(full(tmp_path), base)
    assert weights.dtype == word
    with pytest.raises(LensrlError, match=rf"{EMBED} moved, too: it is the base's, rounded to {word}"):
        open_checkpoint(layer(3, tmp_path), base)


def moved(base: Base, folder: Path, *names: str) -> Path:
    base.fresh({name: base.weights[name] + 1e-3 for name in names}).save_pretrained(folder)
    return folder


def test_a_parameter_that_moved_elsewhere_is_refused_unless_it_is_allowed(base: Base, tmp_path: Path) -> None:
    here, norm = "model.layers.3.mlp.up_proj.weight", "model.norm.weight"
    folder = moved(base, tmp_path / "a", here, EMBED, norm)
    with pytest.raises(LensrlError, match=rf"layer-3: .* {EMBED} moved, too; allow it, allow = \['embed'\]"):
        open_checkpoint(layer(3, folder), base)
    with pytest.raises(LensrlError, match=rf"{norm} moved, too; allow it, allow = \['final_norm'\]"):
        open_checkpoint(layer(3, folder, "embed"), base)
    open_checkpoint(layer(3, folder, "embed", "final_norm"), base)
    with pytest.raises(LensrlError, match=r"layer-2: .* model\.layers\.3\.mlp\.up_proj\.weight moved, too; name the"):
        open_checkpoint(layer(2, folder, "embed", "final_norm"), base)
    every = RunSpec("my-sft", tuple(range(8)), 0, checkpoint=Checkpoint(model=str(folder)))
    open_checkpoint(every, base)


def test_an_allowed_part_is_stored_and_its_file_is_good(base: Base, tmp_path: Path) -> None:
    folder = moved(base, tmp_path / "a", "model.layers.3.mlp.up_proj.weight", EMBED)
    whole = moved(base, tmp_path / "b", *base.weights)
    recipe = checkpoints(
        full_rl=str(whole), layer_3={"model": str(folder), "allow": "embed"},
        my_sft={"model": str(whole), "layers": "all"},
    )  # fmt: skip
    with run_study(recipe, tmp_path / "study") as study:
        assert {*study["layer-3"].deltas} == {3, "embed"}
        assert study["my-sft"].layer_set is not None
        assert {*study["my-sft"].deltas} == {*study["full-rl"].deltas}
        assert study.set_contributions()["set"].tolist() == ["my-sft"]
    assert {check.status for check in verify(tmp_path / "study")} == {"good"}


def test_a_recipe_names_its_folders_from_its_own_place(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "layer-3", tmp_path / "models" / "three")
    (tmp_path / "recipe.toml").write_text(
        'model = "tiny:qwen3"\ntask = "arithmetic"\nlayers = []\n'
        '[checkpoints]\nlayer-3 = "models/three"\nfull-rl = { snapshots = { 10 = "models/three", 20 = "org/x" } }\n'
    )
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.checkpoints["layer-3"].seeds[0].model == str(tmp_path / "models" / "three")
    assert recipe.checkpoints["full-rl"].seeds[0].snapshots[10].model == str(tmp_path / "models" / "three")
    assert recipe.checkpoints["full-rl"].seeds[0].model == "org/x"
