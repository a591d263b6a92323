"""A study of a model with linear attention in some layers and with experts: what is there is measured, and said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensrl import (
    LensrlError,
    Study,
    compare_activations,
    compare_models,
    compare_weights,
    patch,
    run_study,
    verify,
    write_report,
)
from lensrl.compare.patching.graft import run_weights
from lensrl.recipe import Recipe
from tests.families import FAMILIES, opened
from tests.reseal import resealed

EXPERTS = "model.layers.0.mlp.experts.down_proj"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("hybrid")
    base = opened(FAMILIES["qwen3.5-moe"], folder / "base")
    tensors = load_file(folder / "base" / "model.safetensors") | {"v_head.summary.bias": torch.zeros(1)}
    save_file(
        tensors, folder / "base" / "model.safetensors", {"format": "pt"}
    )  # PPO's value head: left out, with a note
    for name, layers in (("full", (0, 1)), ("l0", (0,)), ("l1", (1,))):
        base.fresh({n: 1.05 * w for n, w in base.weights.items() if base.blocks.layer(n) in layers}).save_pretrained(
            folder / name
        )
    recipe = {
        "model": str(folder / "base"), "task": {"name": "arithmetic"}, "layers": [],
        "checkpoints": {"full-rl": str(folder / "full"), "layer-0": str(folder / "l0"), "layer-1": str(folder / "l1")},
        "rl": {"max_completion_tokens": 3}, "evaluation": {"items": 4, "samples": 1}, "store": {"probe_items": 4},
    }  # fmt: skip
    return run_study(Recipe.model_validate(recipe), folder / "study")


def test_the_sites_that_every_layer_has_are_kept(study: Study) -> None:
    for run in study.runs.values():
        assert [*run.activations] == ["block_out", "mlp_out"]
        assert run.notes == [
            "left out v_head.summary.bias: a value head is no part of the policy",
            "activations at attn_out are left out: some layers have none that is known",
        ]
    assert {check.status for check in verify(study.path)} == {"good"}
    assert np.isfinite(compare_activations(study)["relative_l2"]).all()
    with pytest.raises(LensrlError, match="has no activations at 'attn_out'"):
        compare_activations(study, site="attn_out")


def test_the_report_says_what_was_left_out(study: Study, tmp_path: Path) -> None:
    page = write_report(study, tmp_path / "report.html").read_text(encoding="utf-8")
    for line in study["base"].notes:
        assert line in page


def test_deltas_and_grafts_are_exact(study: Study) -> None:
    folder = study.path.parent
    base = opened(FAMILIES["qwen3.5-moe"], folder / "again")
    weights = run_weights(study["full-rl"], base)
    assert all(
        np.array_equal(weights[n], 1.05 * w if base.blocks.layer(n) in (0, 1) else w) for n, w in base.weights.items()
    )
    assert {*study["layer-1"].deltas} == {1}
    table = compare_weights(study, "full-rl")
    theirs = compare_models(folder / "base", folder / "full")
    assert table["parameter"].tolist() == theirs["parameter"].tolist()
    np.testing.assert_allclose(table["frobenius"], theirs["frobenius"])
    relative = table.set_index("parameter")["relative"]
    assert float(relative[EXPERTS]) == pytest.approx(0.05, rel=1e-4)
    experts = [np.linalg.norm(w, 2) for w in base.weights[EXPERTS].numpy()]  # one matrix for each expert, in a stack
    assert float(table.set_index("parameter")["spectral"][EXPERTS]) == pytest.approx(
        0.05 * np.median(experts), rel=1e-4
    )
    grafts = patch(study, layers=[0, 1], what="weights", sets="together")
    assert "everything" in set(grafts["sets"])


def test_activations_of_attention_are_refused_before_anything_is_patched(study: Study) -> None:
    for component in ("block", "attn", "head"):
        with pytest.raises(
            LensrlError, match=r"linear attention\): patch --what weights, or --component mlp or stream"
        ):
            patch(study, layers=0, what="activations", component=component)
    stream = patch(study, layers=1, what="activations", component="stream")
    assert set(stream["status"]) <= {"defined", "undefined"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda file: file.attrs.__delitem__("sites"), "there is no activations/attn_out"),
        (
            lambda file: file.attrs.__setitem__("sites", "block_out"),
            "activations/mlp_out is there, and attribute sites",
        ),
        (lambda file: file.attrs.__setitem__("sites", "mlp_out"), "attribute sites is 'mlp_out'"),
        (lambda file: file.__delitem__("activations/mlp_out"), "there is no activations/mlp_out"),
    ],
)
def test_a_file_has_the_sites_that_it_names(
    study: Study, change: Callable[[h5py.File], object], complaint: str, tmp_path: Path
) -> None:
    shutil.copy(study["full-rl"].path, tmp_path / "full-rl.seed-0.h5")
    with resealed(tmp_path / "full-rl.seed-0.h5") as file:
        change(file)
    (found,) = verify(tmp_path)
    assert found.status == "damaged"
    assert complaint in found.where
