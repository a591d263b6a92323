"""A study of layer sets and learning rates that really ran, and what is made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lensrl import load_recipe, open_study, patch, run_study, write_report
from lensrl.errors import LensrlError, StoreError
from lensrl.recipe import Recipe
from lensrl.recipe.runs import RunSpec, plan
from lensrl.store.study import Study
from lensrl.train.watch import NoWatcher
from tests.cli.typed import lensrl
from tests.train.test_study import Names, changed

RUNS = Path(__file__).parents[2] / "runs"
LESS = {"seeds": [0], "evaluation": {"items": 32, "samples": 1}, "store": {"probe_items": 2}}


def smaller(name: str, **values: object) -> Recipe:
    """A shipped recipe, with less of everything."""
    recipe = load_recipe(RUNS / name)
    rl = recipe.rl.model_copy(update={"steps": 1, "prompts_per_step": 4})
    return changed(recipe, rl=rl.model_dump(), **LESS, **values)


SHIPPED = smaller("layer-sets.toml")
OUTSIDE = {"embedding": "embed", "top": "7,final_norm"}
SETS = changed(SHIPPED, sets={n: SHIPPED.sets[n] for n in ("mid-3", "random-a", "attention", "boosted")} | OUTSIDE)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two shipped recipes in one study: sets of every kind, and one layer at two rates."""
    folder = tmp_path_factory.mktemp("sets") / "sets"
    rates = load_recipe(RUNS / "learning-rates.toml").learning_rates[:1]
    run_study(changed(SETS, layers=[7], learning_rates=rates), folder).close()
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "sets"))


@pytest.fixture
def study(made: Path) -> Study:
    return open_study(made)


def test_every_set_trained_what_its_words_mean_and_nothing_else(study: Study) -> None:
    table = study.set_contributions().set_index("set")
    assert set(table.index) == set(SETS.sets)
    for name, row in table.iterrows():
        run, layers = study[str(name)], row["layers"]
        assert run.status == "completed"
        if layers is None:
            assert set(run.deltas) == {*range(8), "embed", "final_norm"}
            continue
        assert set(run.deltas) == {*layers, *{"embedding": ["embed"], "top": ["final_norm"]}.get(str(name), [])}
        layers = [layer for layer in run.deltas if isinstance(layer, int)]
        modules = {inner.split(".")[0] for layer in layers for inner in run.deltas[layer]}
        if not layers:
            continue
        whole = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
        assert modules == {"attn": {"self_attn"}, "mlp": {"mlp"}}.get(row["component"], whole)
    assert table["layers"].to_dict()["mid-3"] == (2, 3, 4)


def test_the_shipped_random_sets_are_two_draws() -> None:
    drawn = {spec.name: spec.layers for spec in plan(SHIPPED, 8)}
    assert len({drawn["random-a"], drawn["random-b"], drawn["mid-3"]}) == 3


def test_a_boosted_layer_moves_further_than_in_full_rl(study: Study) -> None:
    norms = [study[run].layer_delta_norms().set_index("layer")["norm"] for run in ("full-rl", "boosted")]
    ratio = (norms[1] / norms[0]).loc[list(range(8))]
    assert ratio.tolist() == pytest.approx([3.0 if layer in (2, 3, 4) else 1.0 for layer in range(8)], rel=1e-3)


def test_runs_at_other_rates_say_so_and_stay_out_of_the_profile(study: Study) -> None:
    assert ("layer-7@7.5e-05", 0) in study.runs
    assert study["layer-7@7.5e-05"].recipe["rl"]["learning_rate"] == 7.5e-05
    assert study["layer-7"].recipe["rl"]["learning_rate"] == 1.5e-4
    assert study.contributions()["layer"].tolist() == [7]
    assert study.rate_control()["run"].tolist() == ["full-rl", "layer-7"]
    low, own = (study[run].layer_delta_norms()["norm"].max() for run in ("layer-7@7.5e-05", "layer-7"))
    assert own / low == pytest.approx(2, rel=1e-3)  # Adam's first step is as long as the rate
    assert "layer-7@7.5e-05" in repr(study)


def test_what_is_made_is_not_made_again_and_a_set_that_means_something_else_is_refused(copied: Path) -> None:
    names = Names()
    run_study(SETS, copied, names).close()
    assert names.made == []
    cases = {
        "mid-3": ("0-2", "trained layers 2-4, not layers 0-2"),
        "attention": ("all", "trained attention of layers 0-7, not layers 0-7"),
        "embedding": ("final_norm", "trained embed, not final_norm"),
        "top": ([7], "trained layer 7 and final_norm, not layer 7"),
        "boosted": ({"layers": "full", "boost": "mid-3", "factor": 2.0}, "layers 2-4 at 3 x the learning rate, not"),
    }
    before = (copied / "recipe.json").read_bytes()
    for name, (meaning, complaint) in cases.items():
        with pytest.raises(StoreError, match=f"{complaint}.*; name the set differently"):
            run_study(changed(SETS, sets=SETS.model_dump()["sets"] | {name: meaning}), copied)
    assert (copied / "recipe.json").read_bytes() == before  # a recipe that cannot be run is not kept


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('sets.most = "mid-9"', "sets.most: 'mid-9' asks for 9 layers: this model has 8"),
        ('sets.best = { layers = "top-3", profile = "nowhere" }', "sets.best: no study folder at"),
        (
            'sets.best = { layers = "top-3", profile = "sets" }',
            "sets has no contribution of layers 0-7: the interval of",
        ),
        ('sets.head = "lm_head"', "tiny:qwen3 has no lm_head of its own, it is embed; layers = 'embed' trains both"),
        (
            'sets.e = { layers = "embed", lora = { rank = 2 } }',
            "component and lora are of layers, and 'embed' names none",
        ),
        ('sets.b = { layers = "0-2", boost = 3, factor = 2.0 }', "sets.b: boosts layer 3, but trains layers 0-2 alone"),
    ],
)
def test_a_set_that_cannot_be_is_one_line_before_any_training(copied: Path, text: str, complaint: str) -> None:
    recipe = copied.parent / "recipe.toml"
    recipe.write_text(f'model = "tiny:qwen3"\ntask = "arithmetic"\n{text}\n', encoding="utf-8")
    done = lensrl("run", recipe, "--out", copied.parent / "new")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert complaint in done.stderr
    assert not list((copied.parent / "new").glob("*.h5"))


def test_a_model_without_the_part_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensrl.models.blocks._component", lambda *_: "mlp")
    with pytest.raises(LensrlError, match=r"sets\.attention: tiny:qwen3 has no attention of layers 0-7"):
        run_study(SETS, tmp_path / "study")
    assert not list(tmp_path.glob("study/*.h5"))


def test_sets_are_patched_shown_and_reported_as_runs_are(copied: Path) -> None:
    with open_study(copied) as study:
        table = patch(study, layers=[0, 3], from_run="attention", what="weights")
        assert np.isfinite(table["patched_value"]).tolist() == [True] * 4
        page = write_report(study).read_text(encoding="utf-8")
    assert "Layer sets" in page
    assert "attention of layers 0-7" in page
    assert "Learning rates" in page
    assert "trained: embed" in lensrl("show", copied / "embedding.seed-0.h5").stdout
    assert lensrl("verify", copied).returncode == 0
    assert "trained: attention of layers 0-7" in lensrl("show", copied / "attention.seed-0.h5").stdout
    assert lensrl("patch", copied, "--from", "mid-3", "--layer", "2-4", "--what", "weights").returncode == 0


def test_the_verb_prints_the_sets_and_the_rates(made: Path, study: Study) -> None:
    printed = lensrl("contribution", made).stdout
    assert "Layer sets, sets" in printed
    assert "layer 7 and final_norm" in printed
    assert "all parameters, layers 2-4 at 3 x the learning rate" in printed
    assert "Every layer at its best learning rate" in printed
    parts = json.loads(lensrl("contribution", made, "--json").stdout)
    assert [row["layer"] for row in parts["layers"]] == [7]
    assert [row["set"] for row in parts["sets"]] == study.set_contributions()["set"].tolist()
    assert [row["rate"] for row in parts["rates"]] == study.rate_control()["rate"].tolist()


def test_a_study_of_sets_alone_is_shown(copied: Path) -> None:
    for path in copied.glob("layer-7*.h5"):
        path.unlink()
    run_study(SETS, copied).close()  # the recipe without the layer
    done = lensrl("contribution", copied)
    assert (done.returncode, "Layer sets" in done.stdout) == (0, True), done.stderr


class Planned(NoWatcher):
    def __init__(self) -> None:
        self.trained: dict[str, str] = {}

    def planned(self, specs: list[RunSpec], missing: list[RunSpec]) -> None:
        self.trained = {spec.name: spec.trained for spec in specs}


def test_the_best_layers_of_a_published_profile_are_trained_and_stay_what_they_are(copied: Path) -> None:
    table = copied.parent / "published.csv"
    table.write_text("layer,contribution\n" + "".join(f"{n},{n / 8}\n" for n in range(8)), encoding="utf-8")
    best = changed(SETS, sets={"best": {"layers": "top-2", "profile": table}})
    planned = Planned()
    with run_study(best, copied, planned) as study:
        assert planned.trained["best"] == "layers 6-7"
        assert study["best"].layers == [6, 7]
        rows = study.set_contributions().set_index("set")
        assert (rows.loc["best", "trained"], rows.loc["best", "items"]) == ("layers 6-7", "all")
        assert study.recipe.sets["best"].chosen is not None
    table.unlink()
    run_study(best, copied).close()
    with pytest.raises(LensrlError, match=r"sets\.worst: no study folder at .*published\.csv"):
        run_study(changed(SETS, sets={"worst": {"layers": "bottom-2", "profile": table}}), copied)
