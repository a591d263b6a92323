"""Every algorithm, task and family that is shipped runs from its recipe, in small, to a study that can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensrl import open_study, run_study, verify
from lensrl.recipe import Evaluation, Recipe, Rl, Store, load_recipe

RUNS = Path(__file__).parents[2] / "runs"
MATRIX = sorted((RUNS / "matrix").glob("*.toml"))
DATA = Path(__file__).parents[1] / "data"
LAYER = 3


def small(path: Path) -> Recipe:
    """The recipe with two steps and one layer."""
    recipe = load_recipe(path)
    fewer = {"steps": 2, "epochs": None, "prompts_per_step": 2, "completions_per_prompt": 4, "micro_batch": None}
    rl = recipe.rl.model_dump() | fewer
    evaluation = recipe.evaluation.model_dump() | {"items": 6, "samples": 2}
    return recipe.model_copy(
        update={
            "layers": [LAYER],
            "rl": Rl.model_validate(rl),
            "evaluation": Evaluation.model_validate(evaluation),
            "store": Store(probe_items=2),
        }
    )


def test_the_matrix_is_two_families_by_four_settings_that_differ_in_nothing_else() -> None:
    recipes = {path.stem: load_recipe(path) for path in MATRIX}
    settings = ("dr-grpo-arithmetic", "gigpo-corridor", "grpo-arithmetic", "grpo-code")
    assert set(recipes) == {f"{family}-{setting}" for family in ("qwen3", "qwen2.5") for setting in settings}
    for setting in settings:
        qwen3, qwen25 = recipes[f"qwen3-{setting}"], recipes[f"qwen2.5-{setting}"]
        assert (qwen3.model, qwen25.model) == ("tiny:qwen3", "tiny:qwen2.5")
        assert qwen3.model_copy(update={"model": "tiny:qwen2.5"}) == qwen25
        assert (qwen3.layers, setting.startswith(qwen3.rl.algorithm.replace("_", "-"))) == ("all", True)
    assert {recipe.task.name for recipe in recipes.values()} == {"arithmetic", "expression", "corridor"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"), [("qwen3-1.7b-code", "HumanEval.jsonl.gz"), ("qwen3-1.7b-math", "gsm8k-test.jsonl.gz")]
)
def test_a_recipe_of_a_large_model_runs_on_the_embedded_one(name: str, rows: str, tmp_path: Path) -> None:
    """Its task in its own format, real rows; the embedded model solves none of them."""
    recipe = small(RUNS / f"{name}.toml")
    file = DATA / rows
    task = recipe.task.model_copy(update={"train": file, "test": dict.fromkeys(recipe.task.model_dump()["test"], file)})
    rl = recipe.rl.model_copy(update={"max_completion_tokens": 8})
    changes = {"model": "tiny:qwen3", "task": task, "rl": rl, "sets": {}}
    with run_study(recipe.model_copy(update=changes), tmp_path / "study") as study:
        assert {run.status for run in study.runs.values()} == {"completed"}
        assert set(study["base"].scores_by_item()["benchmark"]) == set(recipe.task.model_dump()["test"])
        assert study["full-rl"].score < 0.02  # by luck, in many samples
        assert study.contributions()["status"].tolist() == ["undefined"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        *MATRIX,
        RUNS / "smoke-rloo.toml",
        RUNS / "smoke-gspo.toml",
        RUNS / "smoke-chat.toml",
        RUNS / "smoke-textworld.toml",
    ],
    ids=lambda path: path.stem,
)
@pytest.mark.filterwarnings("ignore::Warning:jericho")
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "textworld" in path.stem:
        pytest.importorskip("textworld", reason="the extra 'agentic' is not installed")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recipe = small(path)
    run_study(recipe, tmp_path / "study").close()
    assert {report.status for report in verify(tmp_path / "study")} == {"good"}
    with open_study(tmp_path / "study") as study:
        assert {name: run.status for (name, _), run in study.runs.items()} == {
            "base": "completed", "full-rl": "completed", f"layer-{LAYER}": "completed",
        }  # fmt: skip
        moved = study[f"layer-{LAYER}"].delta_norms().query("norm > 0")["part"].unique().tolist()
        assert {*map(str, moved)} <= {str(LAYER)}  # nothing where two steps earned the same everywhere
        training = study["full-rl"].training()
        assert len(training) == 2
        agent = recipe.task.name in ("corridor", "textworld")
        assert ("anchor_group_size" in training) == ("turns" in training) == agent
        if agent:
            assert (training["anchor_group_size"] >= 1).all()
            assert training["shared_anchor_share"].between(0, 1).all()
        assert np.isfinite(study["base"].scores_by_item()["reference_logprob"]).all()
        assert study.contributions()["layer"].tolist() == [LAYER]


def test_every_recipe_is_told_of() -> None:
    told = "".join((RUNS.parent / name).read_text(encoding="utf-8") for name in ("README.md", "runs/README.md"))
    for path in RUNS.rglob("*.toml"):
        assert path.stem in told or (path in MATRIX and "runs/matrix/" in told), path
