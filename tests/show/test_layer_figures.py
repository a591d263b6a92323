"""Figures over layers: every number of the table is there, in view, and at its place."""

import numpy as np
import pandas as pd
import pytest

from lensrl.show.figures.layers import draw_contributions, draw_delta_norms, draw_weights
from lensrl.show.figures.patching import BESIDE, OFFSETS, draw_recoveries, reading_of
from lensrl.show.figures.style import width_for
from tests.show.drawn import (
    COLLAPSED,
    DEPTHS,
    MISSING,
    by_matrix,
    drawn_by,
    drawn_texts,
    intervals,
    is_in_view,
    legend,
    marked,
    points,
    predictor_table,
    profile,
    recoveries,
)


@pytest.mark.parametrize("layers", DEPTHS)
def test_the_profile_draws_every_contribution_with_its_interval_and_marks_the_others(layers: int) -> None:
    table = profile(layers)
    drawn = drawn_by(draw_contributions, table, wide=width_for(layers))
    (axes,) = drawn.axes
    assert marked(axes, "o") == points(table, "layer", "contribution")
    assert len(marked(axes, "o")) == layers - 1
    assert {x for x, _ in marked(axes, "x")} == {MISSING}
    with_interval = table.drop(MISSING)
    assert intervals(axes) == {
        (round(float(layer), 9), round(low, 9), round(high, 9))
        for layer, low, high in zip(with_interval["layer"], with_interval["low"], with_interval["high"], strict=True)
    }
    ends = {(x, y) for x, low, high in intervals(axes) for y in (low, high)}
    assert is_in_view(axes, marked(axes, "o") | marked(axes, "x") | ends)
    collapsed, defined = (
        {x for line in axes.lines if line.get_marker() == "o" and (line.get_markerfacecolor() == "white") is hollow
         for x in np.asarray(line.get_xdata())}
        for hollow in (True, False)
    )  # fmt: skip
    assert collapsed == {COLLAPSED}
    assert defined == set(range(layers)) - {COLLAPSED, MISSING}
    assert {"no value", "run collapsed"} <= {text.get_text() for text in drawn_texts(drawn)}


def test_a_profile_without_any_value_says_why_on_the_canvas() -> None:
    reason = "the interval of S_full - S_base contains 0: 0.0104 [-0.0312, 0.0547], and no more can be said " * 2
    table = profile(8).assign(status="undefined", reason=reason, contribution=np.nan, low=np.nan, high=np.nan)
    drawn = drawn_by(draw_contributions, table)
    assert len(marked(drawn.axes[0], "x")) == 8
    said = [text for text in drawn_texts(drawn) if "S_full" in text.get_text()]
    assert " ".join(said[0].get_text().split()) == f"undefined: {reason}".strip()
    box = said[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn.bbox.width


@pytest.mark.parametrize("layers", DEPTHS)
def test_every_recovery_is_drawn_at_its_layer_or_pointed_at_from_the_edge(layers: int) -> None:
    table = recoveries(layers)
    for what in ("weights", "activations"):
        part = table[table["what"] == what]
        (axes,) = drawn_by(draw_recoveries, part).axes
        drawn_as = {"score": "o", "reference_logprob": "s", "logit_difference": "^"}
        low, high = axes.get_ylim()
        hidden = 0
        for metric, rows in part.groupby("metric"):
            shown = marked(axes, drawn_as[str(metric)])
            assert {(round(x), y) for x, y in shown} == points(rows, "layer", "recovery")
            assert {round(x - round(x), 9) for x, _ in shown} == {OFFSETS[str(metric)]}  # one place in every panel
            beyond = {(x, y) for x, y in shown if not low <= y <= high}
            hidden += len(beyond)
            assert {x for x, _ in marked(axes, 6) | marked(axes, 7)} >= {x for x, _ in beyond}  # carets at the edge
        assert hidden == (1 if part["recovery"].max() > 10 else 0)
        assert {(round(x), y) for x, y in marked(axes, "D")} == points(part, "layer", "contribution")
        ends = {(round(x), low, high) for x, low, high in intervals(axes) if round(x - round(x), 9) == 0.27}
        known = part.drop_duplicates("layer").dropna(subset=["contribution"])
        columns = ("layer", "contribution_low", "contribution_high")
        assert ends == {tuple(round(float(row[c]), 9) for c in columns) for row in known.to_dict("records")}
        labels = {text.get_text() for text in legend(axes).get_texts()}
        called = {"score": "score", "reference_logprob": "log p(reference)", "logit_difference": "logit difference"}
        assert labels == {called[str(metric)] for metric in part["metric"]} | {"$C_l$, trained alone"}


@pytest.mark.parametrize("layers", DEPTHS)
def test_seeds_are_small_points_at_the_left_of_their_mean_and_none_is_out_of_view(layers: int) -> None:
    table = recoveries(layers).query("what == 'weights'")
    seeds = pd.concat([table.assign(seed=seed, recovery=table["recovery"] + seed) for seed in (0, 1)])
    (axes,) = drawn_by(draw_recoveries, table, seeds).axes
    low, high = axes.get_ylim()
    for metric, mark in (("score", "o"), ("reference_logprob", "s")):
        (means, small) = (line for line in axes.lines if line.get_marker() == mark)
        assert small.get_markersize() < means.get_markersize()
        rows = seeds[seeds["metric"] == metric]
        at = rows["layer"] + OFFSETS[metric] - BESIDE
        np.testing.assert_allclose(
            np.asarray(small.get_xydata(), float), np.stack([at, rows["recovery"].clip(low, high)], axis=1)
        )
    (_, small) = (line for line in axes.lines if line.get_marker() == "D")
    assert len(np.asarray(small.get_xdata())) == 2 * layers


def test_a_necessity_below_zero_is_explained_and_no_other() -> None:
    rows = recoveries(8).assign(into="full-rl", **{"from": "base"}, head=None, share_of="gain")
    rows[["recovery", "low", "high"]] = [0.5, 0.4, 0.6]
    assert reading_of(rows) == []
    here = (rows["layer"] == 3) & (rows["what"] == "weights") & (rows["metric"] == "score")
    rows.loc[here, ["recovery", "low", "high"]] = [-0.17, -0.24, -0.1]
    (said,) = reading_of(rows)
    assert said.startswith("layer 3 (weights, score -0.17): necessity below 0")
    assert "hurts" in said
    assert reading_of(rows.assign(share_of="loss")) == []  # RL lowered this score: the layer did the contrary


@pytest.mark.parametrize("layers", DEPTHS)
def test_the_deltas_of_both_kinds_are_drawn_in_view(layers: int) -> None:
    table = predictor_table(layers)
    table.loc[MISSING, "relative_delta_single"] = np.nan
    (axes,) = drawn_by(draw_delta_norms, table).axes
    assert marked(axes, "o") == points(table, "layer", "relative_delta_full")
    assert marked(axes, "s") == points(table, "layer", "relative_delta_single")
    assert is_in_view(axes, marked(axes, "o") | marked(axes, "s"))
    (alone,) = drawn_by(draw_delta_norms, table.drop(columns="relative_delta_single")).axes
    assert marked(alone, "o") == points(table, "layer", "relative_delta_full"), "a study of full RL alone"


def test_the_largest_of_changes_that_are_alike_is_not_cut_off() -> None:
    table = by_matrix(8).drop_duplicates("layer").assign(parameter="")
    table["relative"] = np.linspace(0.0148, 0.0167, 8)
    axes = drawn_by(draw_weights, table).axes[0]
    assert axes.get_ylim() == (0, pytest.approx(1.06 * 0.0167))


def test_the_matrices_of_a_layer_are_cells_of_a_heat_map_and_a_matrix_without_a_change_is_grey() -> None:
    table = by_matrix(8)
    table = table[~((table["layer"] == 3) & table["parameter"].str.contains("v_proj"))]
    axes = drawn_by(draw_weights, table).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["q", "k", "v", "o", "gate", "up", "down"]
    (cells,) = axes.collections
    values = np.ma.filled(np.ma.asarray(cells.get_array()), np.nan).reshape(7, 8)
    assert np.argwhere(np.isnan(values)).tolist() == [[2, 3]]
    named = table.set_index(["parameter"])["relative"]
    assert values[6, 5] == named["model.layers.5.mlp.down_proj.weight"]
    assert values[0, 7] == named["model.layers.7.self_attn.q_proj.weight"]
