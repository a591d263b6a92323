"""Rounding as the null beside the deltas of a study: its norm, and the share of entries that moved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensrl import Study, compare_models, compare_weights, predictors, run_study
from lensrl.compare.precision import Kinds
from lensrl.compare.weights import Weight, weight_table
from lensrl.measures.rounding import rounding_norm
from lensrl.models.base import load_base
from lensrl.show.figures.layers import draw_weights
from lensrl.show.figures.style import canvas
from lensrl.show.words import Look
from lensrl.store.origin import checkpoint_note
from tests.train.test_adopt import checkpoints

NORMS = "norm.weight"


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    """A base with a change that bfloat16 loses, stored in bfloat16 but for its norms: a folder, and its study."""
    folder, base = tmp_path_factory.mktemp("rounded"), load_base("tiny:qwen3")
    generator = torch.Generator().manual_seed(0)
    model: Any = base.fresh(
        {name: w + 1e-6 * torch.randn(w.shape, generator=generator) for name, w in base.weights.items()}
    )
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data if name.endswith(NORMS) else parameter.data.bfloat16()
    model.save_pretrained(folder / "trained")
    return folder / "trained", run_study(checkpoints(full_rl=str(folder / "trained")), folder / "study")


@pytest.mark.parametrize("by", ["parameter", "component", "layer"])
def test_a_study_gives_the_columns_of_two_models(rounded: tuple[Path, Study], by: Any) -> None:
    own, theirs = compare_weights(rounded[1], "full-rl", by=by), compare_models("tiny:qwen3", rounded[0], by=by)
    for column in ("base_dtype", "trained_dtype", "rounding_norm", "changed_share"):
        assert own[column].tolist() == theirs[column].tolist(), column


def test_deltas_that_are_rounding_are_as_large_as_rounding_alone(rounded: tuple[Path, Study]) -> None:
    run = rounded[1]["full-rl"]
    assert run.rounding is not None
    layers = run.layer_delta_norms().set_index("layer")
    np.testing.assert_allclose(layers["norm"], layers["rounding_norm"], rtol=0.05)
    table = compare_weights(rounded[1], "full-rl", by="layer")
    of_layers = table.dropna(subset=["layer"]).set_index("layer")["rounding_norm"]
    np.testing.assert_allclose(of_layers.to_numpy(), [run.rounding[str(layer)] for layer in of_layers.index], rtol=1e-9)
    record = run.checkpoint
    assert record is not None
    assert record["dtype"] == "bfloat16 and float32"
    assert {*record["parameter_dtypes"].values()} == {"float32"}
    assert all(name.endswith(NORMS) for name in record["parameter_dtypes"])


def test_the_note_gives_the_share_that_moved_and_both_norms(rounded: tuple[Path, Study]) -> None:
    run = rounded[1]["full-rl"]
    table, note = run.delta_norms(), checkpoint_note([run])
    moved = (table["changed_share"] * table["size"]).sum() / table["size"].sum()
    assert f"full-rl seed 0: {moved:.1%} of the entries moved" in note
    assert f"‖ΔW‖ is {math.hypot(*table['norm']):.3g}" in note
    assert f"up to {math.hypot(*(run.rounding or {}).values()):.3g}" in note


def test_the_base_has_no_rounding(rounded: tuple[Path, Study]) -> None:
    assert rounded[1]["base"].rounding == {}
    assert checkpoint_note([rounded[1]["base"]]) == ""


def test_the_figure_draws_the_null(rounded: tuple[Path, Study]) -> None:
    lines = draw_weights(canvas(Look(shown=False))[0], compare_weights(rounded[1], "full-rl", by="layer")).get_lines()
    assert [line.get_label() for line in lines][-1] == "rounding alone"
    assert np.all(np.asarray(lines[-1].get_ydata()) > 0)


def test_a_run_that_was_trained_here_is_not_rounded(small_study: Study) -> None:
    table = compare_weights(small_study, "full-rl", by="layer")
    assert (table["rounding_norm"] == 0).all()
    assert (table["trained_dtype"] == "float32").all()
    assert not [column for column in predictors(small_study) if "rounding" in str(column)]


def test_a_type_that_is_not_known_leaves_the_norm_unknown() -> None:
    before = {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}
    after = {name: weights * np.float32(1.5) for name, weights in before.items()}
    weights = [Weight(name, 0, "mlp", 4, lambda name=name: (before[name], after[name])) for name in "ab"]
    kinds = Kinds(dict.fromkeys("ab", "float32"), {"a": "bfloat16", "b": "bfloat16 and float32"})
    table, _ = weight_table(weights, "parameter", kinds)
    assert table["rounding_norm"][0] == rounding_norm(after["a"], "bfloat16") > 0
    assert math.isnan(table["rounding_norm"][1])
