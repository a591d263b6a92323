"""Figures read back from what matplotlib really draws: every number there, every text inside and apart."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from lensrl.compare.predictors import PREDICTORS
from lensrl.errors import LensrlError
from lensrl.judge.verdict import Verdict, verdict
from lensrl.show.figures.layers import draw_cka_map, draw_contributions, draw_delta_norms, draw_weights
from lensrl.show.figures.patching import OFFSETS, draw_recoveries, reading_of
from lensrl.show.figures.scatter import draw_coefficients, draw_scatter, drawable
from lensrl.show.figures.style import canvas, house_style, save_figure, svg, width_for
from lensrl.show.figures.training import draw_training
from lensrl.show.figures.verdict import draw_verdict
from lensrl.show.words import Look

DEPTHS = [8, 36]
WIDTHS = [None, 3.25]  # inches: as wide as the layers need, and a column
COLLAPSED, MISSING, WILD = 2, 5, 1  # layers


def profile(layers: int) -> pd.DataFrame:
    """Contributions below 0 and above 1, one of a collapsed run, one that is missing."""
    rng = np.random.default_rng(layers)
    value = rng.uniform(-0.4, 1.6, layers)
    table = pd.DataFrame({"layer": range(layers), "contribution": value, "status": "defined", "reason": ""})
    table["low"], table["high"] = value - rng.uniform(0, 0.3, layers), value + rng.uniform(0, 0.3, layers)
    table.loc[COLLAPSED, ["status", "reason"]] = ["collapsed", f"layer-{COLLAPSED} seed 0: every reward is 0"]
    table.loc[MISSING, ["status", "reason"]] = ["missing", f"no run layer-{MISSING}"]
    table.loc[MISSING, ["contribution", "low", "high"]] = np.nan
    return table


def recoveries(layers: int) -> pd.DataFrame:
    """Both kinds of patch with two metrics each; one value far off any scale, one undefined."""
    rng = np.random.default_rng(layers)
    contribution = profile(layers)["contribution"]
    rows = [
        {"layer": layer, "what": what, "metric": metric, "recovery": value, "low": value - 0.2, "high": value + 0.1}
        | {"contribution": contribution[layer], "reason": "", "sets": "single"}
        | {"contribution_low": contribution[layer] - 0.1, "contribution_high": contribution[layer] + 0.2}
        for layer in range(layers)
        for what, metric in (
            ("weights", "score"),
            ("weights", "reference_logprob"),
            ("activations", "reference_logprob"),
            ("activations", "logit_difference"),
        )
        for value in [rng.uniform(-0.5, 1.5)]
    ]
    table = pd.DataFrame(rows)
    weights = (table["what"] == "weights") & (table["metric"] == "score")
    table.loc[weights & (table["layer"] == WILD), ["recovery", "low", "high"]] = [40.0, 30.0, 50.0]
    table.loc[weights & (table["layer"] == MISSING), ["recovery", "low", "high"]] = np.nan
    return table


def predictor_table(layers: int) -> pd.DataFrame:
    rng = np.random.default_rng(layers)
    depth = np.arange(layers, dtype=float)
    columns = {name: rng.uniform(1e-3, 2e-2, layers) for name in PREDICTORS}
    columns |= {"depth": depth, "distance_from_middle": np.abs(depth - depth.mean())}
    return profile(layers).assign(**columns)


def correlations() -> pd.DataFrame:
    found = {"method": "spearman", "coefficient": -0.43, "low": -0.81, "high": 0.12, "reason": ""}
    beyond = found | {"method": "detrended", "coefficient": 0.2, "low": -0.5, "high": 0.7}
    table = pd.DataFrame([{"predictor": name} | row for row in (found, beyond) for name in PREDICTORS])
    table.loc[0, "reason"] = "3 layers with both values: at least 4 are needed"
    table.loc[0, ["coefficient", "low", "high"]] = np.nan
    return table


def curves(layers: int) -> list[tuple[str, pd.DataFrame]]:
    """Full RL, every single layer and a set; the last layer's run ended early."""
    rng = np.random.default_rng(layers)
    names = ["full-rl", *(f"layer-{layer}" for layer in range(layers)), "ends"]
    return [
        (name, pd.DataFrame({"step": np.arange(1, 1 + steps), "reward_mean": rng.uniform(0, 1, steps)}))
        for name in names
        for steps in [30 if name == f"layer-{layers - 1}" else 60]
    ]


def drawn_by(draw: Callable[..., Axes], *tables: Any, look: Look | None = None, **options: Any) -> Figure:
    """The figure that a function draws on Axes of its own, with the size that `lensrl.plot` gives it."""
    look = look or Look(shown=False)
    size = {name: options.pop(name) for name in ("wide", "high", "square") if name in options}
    with house_style(look.points):
        (axes,) = canvas(look, **size)
        drawn = draw(axes, *tables, look=look, **options)
    assert drawn is axes
    found = axes.get_figure(root=True)
    assert found is not None
    return found


def figure(kind: str, layers: int, look: Look | None = None) -> Figure:
    wide: dict[str, Any] = {"look": look, "wide": width_for(layers)}
    if kind == "contribution":
        title = "qwen3-1.7b-math: layer contribution, 95 % intervals"
        return drawn_by(draw_contributions, profile(layers), of_seeds(layers), title=title, **wide)
    if kind == "recovery":
        rows = recoveries(layers)
        title = "qwen3-1.7b-math: block of full-rl into base, seed 0"
        return drawn_by(draw_recoveries, rows[rows["what"] == "weights"], title=title, **wide)
    if kind == "delta":
        return drawn_by(draw_delta_norms, predictor_table(layers), title="weight deltas", **wide)
    if kind == "matrices":
        return drawn_by(draw_weights, by_matrix(layers), title="qwen3-1.7b-math: weight deltas of full-rl", **wide)
    if kind == "map":
        values = np.random.default_rng(0).uniform(0, 1, (layers, layers))
        return drawn_by(draw_cka_map, values, "base", "full-rl", look=look, wide=5.2, high=4.4, square=True)
    if kind == "verdict":
        title = "qwen3-1.7b-grpo-math: the profile and its shapes, 95 % intervals"
        return drawn_by(draw_verdict, judged("step", layers), title=title, high=3.6, **wide)
    if kind == "training":
        return drawn_by(draw_training, curves(layers), title="seed 0", look=look)
    if kind == "coefficients":
        tall = 0.3 * len(PREDICTORS) + 0.9
        return drawn_by(draw_coefficients, correlations(), PREDICTORS, title="tiny", look=look, wide=6.4, high=tall)
    return scatter("sufficiency", layers, look)


def scatter(name: str, layers: int, look: Look | None = None) -> Figure:
    return drawn_by(
        draw_scatter, predictor_table(layers), name, PREDICTORS[name], correlations(), look=look, wide=4.6, high=3.6
    )


KINDS = ["contribution", "recovery", "delta", "matrices", "map", "verdict", "training", "coefficients", "scatter"]


def of_seeds(layers: int) -> pd.DataFrame:
    """The contribution of each of three seeds, beside their mean."""
    table = profile(layers).dropna(subset=["contribution"])
    return pd.concat(table[["layer", "contribution"]].assign(contribution=table["contribution"] + d, seed=i)
                     for i, d in enumerate((-0.05, 0.0, 0.05)))  # fmt: skip


def by_matrix(layers: int) -> pd.DataFrame:
    """The change of seven matrices a layer, as `compare_weights` has it."""
    rng = np.random.default_rng(layers)
    inner = [f"self_attn.{m}_proj" for m in "qkvo"] + [f"mlp.{m}_proj" for m in ("gate", "up", "down")]
    rows = [{"parameter": f"model.layers.{layer}.{name}.weight", "layer": layer, "component": "", "spectral": 1.0,
             "relative": rng.uniform(0, 0.01), "frobenius": 1.0, "rounding_norm": 0.0}
            for layer in range(layers) for name in inner]  # fmt: skip
    return pd.DataFrame(rows)


def drawn_texts(figure: Figure) -> list[Text]:
    """The texts that drawing the figure draws, laid out."""
    drawn: list[Text] = []
    draw = Text.draw

    def recorded(self: Text, renderer: Any) -> None:
        drawn.append(self)
        draw(self, renderer)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Text, "draw", recorded)
        figure.draw_without_rendering()
    return [text for text in drawn if text.get_visible() and text.get_text().strip()]


def extent(text: Text) -> Any:
    """The box of a text, without the arrow of an annotation."""
    return Text.get_window_extent(text)


def described(*texts: Text) -> str:
    return " and ".join(f"{text.get_text()!r} at {text.get_window_extent()}" for text in texts)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_lies_on_the_canvas_and_apart_from_the_others(kind: str, layers: int, width: float | None) -> None:
    drawn = figure(kind, layers, Look(width=width, shown=False))
    texts = list(dict.fromkeys(drawn_texts(drawn)))
    canvas = drawn.bbox
    for text in texts:
        box = extent(text)
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= canvas.width + 1 and box.y1 <= canvas.height + 1
        assert inside, f"{described(text)} is outside {canvas}"
    for axes in drawn.axes:
        ticks = {tick.label1 for tick in axes.xaxis.get_major_ticks()}
        labels = sorted((text for text in texts if text in ticks), key=lambda text: text.get_window_extent().x0)
        assert len(labels) >= 2 or not axes.get_xlabel()
        for left, right in pairwise(labels):
            assert left.get_window_extent().x1 + 2 <= right.get_window_extent().x0, described(left, right)
    if kind == "scatter":  # the number of a layer may lie over that of another, which has the same point
        return
    for i, text in enumerate(texts):
        for other in texts[i + 1 :]:
            assert not extent(text).overlaps(extent(other)), described(text, other)


def marked(axes: Axes, marker: str | int, colour: str | None = None) -> set[tuple[float, float]]:
    """The points that the axes draw with a marker, rounded."""
    return {
        (round(float(x), 9), round(float(y), 9))
        for line in axes.lines
        if line.get_marker() == marker and colour in (None, to_hex(line.get_color()))
        for x, y in np.asarray(line.get_xydata(), float)
        if np.isfinite([x, y]).all()
    }


def points(table: pd.DataFrame, x: str, y: str) -> set[tuple[float, float]]:
    finite = table[np.isfinite(table[y].to_numpy(float))]
    return {(round(float(a), 9), round(float(b), 9)) for a, b in zip(finite[x], finite[y], strict=True)}


def intervals(axes: Axes) -> set[tuple[float, float, float]]:
    """(x, low, high) of the upright lines that the axes draw."""
    return {
        (round(float(x), 9), round(float(low), 9), round(float(high), 9))
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for (x, low), (_, high) in (segment for segment in collection.get_segments() if len(segment))
        if np.isfinite([low, high]).all()
    }


def is_in_view(axes: Axes, drawn: set[tuple[float, float]]) -> bool:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return all(left <= x <= right and low <= y <= high for x, y in drawn)


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


def legend(axes: Axes) -> Any:
    found = axes.get_legend()
    assert found is not None
    return found


@pytest.mark.parametrize("layers", DEPTHS)
def test_the_deltas_of_both_kinds_are_drawn_in_view(layers: int) -> None:
    table = predictor_table(layers)
    table.loc[MISSING, "relative_delta_single"] = np.nan
    (axes,) = drawn_by(draw_delta_norms, table).axes
    assert marked(axes, "o") == points(table, "layer", "relative_delta_full")
    assert marked(axes, "s") == points(table, "layer", "relative_delta_single")
    assert is_in_view(axes, marked(axes, "o") | marked(axes, "s"))


def test_the_largest_of_changes_that_are_alike_is_not_cut_off() -> None:
    table = by_matrix(8).drop_duplicates("layer").assign(parameter="")
    table["relative"] = np.linspace(0.0148, 0.0167, 8)
    axes = drawn_by(draw_weights, table).axes[0]
    assert axes.get_ylim() == (0, pytest.approx(1.06 * 0.0167))


def test_few_curves_are_drawn_as_their_running_means_with_names_at_their_ends() -> None:
    runs = curves(8)
    axes = drawn_by(draw_training, runs, window=5).axes[0]
    lines = [line for line in axes.lines if line.get_marker() == "None"]
    assert len(lines) == len(runs)
    for line, (_, curve) in zip(lines, runs, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve["step"])
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), running_mean(curve))
    assert marked(axes, "x") == {(30, round(float(running_mean(dict(runs)["layer-7"])[-1]), 9))}
    assert {text.get_text() for text in axes.texts} == {name for name, _ in runs} - {"layer-7"} | {"layer-7 ×"}


def running_mean(curve: pd.DataFrame, window: int = 5) -> list[float]:
    rewards = curve["reward_mean"].to_numpy()
    return [rewards[max(0, i - window + 1) : i + 1].mean() for i in range(len(rewards))]


def test_many_curves_become_full_rl_the_best_the_median_and_the_spread_and_chosen_layers() -> None:
    runs = curves(36)
    single = np.array([running_mean(curve) for name, curve in runs if name.startswith("layer-") and len(curve) == 60])
    best = int(single[:, -1].argmax())
    for layers, expected in ((None, {"full-rl", "ends", "median layer", f"best: layer-{best}"}),
                             ([3, 17], {"full-rl", "ends", "median layer", "layer-3", "layer-17"})):  # fmt: skip
        axes = drawn_by(draw_training, runs, layers=layers).axes[0]
        assert {text.get_text() for text in axes.texts} == expected
        drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
        assert any(len(y) == 60 and np.allclose(y[-30:], np.median(single, axis=0)[-30:]) for y in drawn)
        assert any(np.allclose(y, running_mean(runs[0][1])) for y in drawn if len(y) == 60)
        assert len(axes.collections) == 2  # the middle half and the whole range


@pytest.mark.parametrize("layers", DEPTHS)
def test_every_layer_that_is_correlated_is_in_the_scatter_with_its_interval_and_no_other(layers: int) -> None:
    table = predictor_table(layers)
    defined = table[table["status"] == "defined"]
    for name, label in PREDICTORS.items():
        axes = scatter(name, layers).axes[0]
        assert axes.get_xlabel() == label
        (dots,) = (c for c in axes.collections if isinstance(c, PathCollection))
        offsets = {(round(float(x), 9), round(float(y), 9)) for x, y in np.asarray(dots.get_offsets(), float)}
        assert offsets == points(defined, name, "contribution")
        assert len(offsets) == layers - 2
        assert is_in_view(axes, offsets)
        assert {ends[1:] for ends in intervals(axes)} == {
            (round(low, 9), round(high, 9)) for low, high in zip(defined["low"], defined["high"], strict=True)
        }
    first, *others = (scatter(name, layers).axes[0].get_title(loc="left") for name in PREDICTORS)
    assert " ".join(first.split()) == "3 layers with both values: at least 4 are needed"
    assert set(others) == {"ρ = −0.43 [−0.81, 0.12]\nbeyond depth 0.20 [−0.50, 0.70]"}


def test_a_predictor_that_is_missing_or_the_same_everywhere_is_not_drawn() -> None:
    table = predictor_table(8).drop(columns="bypass_score").assign(parameters=100)
    assert drawable(table, PREDICTORS) == [name for name in PREDICTORS if name not in ("bypass_score", "parameters")]


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


def test_a_necessity_below_zero_is_explained_and_no_other() -> None:
    rows = recoveries(8).assign(into="full-rl", **{"from": "base"}, head=None)
    rows[["recovery", "low", "high"]] = [0.5, 0.4, 0.6]
    assert reading_of(rows) == []
    here = (rows["layer"] == 3) & (rows["what"] == "weights") & (rows["metric"] == "score")
    rows.loc[here, ["recovery", "low", "high"]] = [-0.17, -0.24, -0.1]
    (said,) = reading_of(rows)
    assert said.startswith("layer 3 (weights, score -0.17): necessity below 0")
    assert "hurts" in said


def judged(name: str, layers: int) -> Verdict:
    """The verdict on a planted profile: a step that falls at layer 5 of 8 or 20 of 36, a hump, or three layers."""
    rng = np.random.default_rng(0)
    depth = np.arange(layers)
    shape = {
        "step": np.where(depth < {8: 5, 36: 20}.get(layers, 2), 0.9, 0.3),
        "hump": np.exp(-((depth / (layers - 1) - 0.5) ** 2) / (2 * 0.15**2)),
    }[name]
    table = pd.DataFrame({"layer": depth, "contribution": shape + 0.02 * rng.normal(size=layers)})
    with TemporaryDirectory() as folder:
        table.to_csv(path := Path(folder) / "planted.csv", index=False)
        return verdict(path)


@pytest.mark.parametrize(("shape", "layers", "where"), [("step", 36, 19.5), ("hump", 36, 17.5)])
def test_the_verdict_figure_draws_profile_shapes_and_place(shape: str, layers: int, where: float) -> None:
    found = judged(shape, layers)
    (axes,) = drawn_by(draw_verdict, found).axes
    assert points(found.profile, "layer", "contribution") == {p for p in marked(axes, "o") if p[0] == round(p[0])}
    curves = [np.asarray(line.get_ydata(), float) for line in axes.lines if len(np.asarray(line.get_ydata())) == layers]
    for fit in {shape, "hump"}:
        assert any(np.array_equal(curve, found.shapes[fit].curve) for curve in curves)
    (place,) = marked(axes, "D")
    assert place[0] == pytest.approx(where, abs=0.5 if shape == "hump" else 0)
    labels = [text.get_text() for text in legend(axes).get_texts()]
    assert any(label.startswith("peak" if shape == "hump" else f"change point: layer {where + 0.5:.0f}")
               for label in labels)  # fmt: skip
    said = {text.get_text().split(":")[0] for text in axes.texts}
    assert said == {"first third", "middle third", "last third"}


def test_three_layers_have_a_profile_and_no_shapes() -> None:
    (axes,) = drawn_by(draw_verdict, judged("step", 3)).axes
    assert [text.get_text() for text in legend(axes).get_texts()] == ["$C_l$"]


@pytest.mark.parametrize(("name", "magic"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml"), ("C.PDF", b"%PDF")])
def test_a_figure_is_saved_whole_or_the_old_file_stays(
    name: str, magic: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figures" / name
    save_figure(figure("delta", 8), path)
    before = path.read_bytes()
    assert before.startswith(magic)

    def savefig_on_a_full_disk(self: Figure, target: Path, **_: Any) -> None:
        target.write_bytes(magic)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", savefig_on_a_full_disk)
    with pytest.raises(LensrlError, match=f"{name} could not be written .*No space left"):
        save_figure(figure("contribution", 8), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_another_format_is_refused_with_the_known_ones_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(LensrlError, match=r"cannot save a figure as 'c\.gif': end the name in \.png, \.svg, \.pdf"):
        save_figure(figure("delta", 8), tmp_path / "c.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_pdf_holds_no_type_3_font_and_an_svg_its_title_and_description(kind: str, tmp_path: Path) -> None:
    drawn = figure(kind, 8)
    save_figure(drawn, tmp_path / "f.pdf")
    written = (tmp_path / "f.pdf").read_bytes()
    assert b"/FontFile2" in written or b"/CIDFontType2" in written
    assert b"/Type3" not in written
    save_figure(drawn, tmp_path / "f.svg")
    for text in ((tmp_path / "f.svg").read_text(encoding="utf-8"), svg(drawn)):
        root = ElementTree.fromstring(text)
        first, second = list(root)[:2]
        assert [first.tag.rpartition("}")[2], second.tag.rpartition("}")[2]] == ["title", "desc"]
        assert len(str(second.text)) > 20
        assert root.get("role") == "img"


def test_a_title_that_is_not_drawn_is_kept_in_the_file() -> None:
    bare = figure("contribution", 8, Look(title=False, shown=False))
    assert "layer contribution, 95 % intervals" in svg(bare)
    assert not any("95 %" in text.get_text() for text in drawn_texts(bare))
    sizes = {
        float(text.get_fontsize()) for text in drawn_texts(figure("contribution", 8, Look(font_size=14, shown=False)))
    }
    assert max(sizes) >= 14
    assert figure("contribution", 36, Look(width=3.25, shown=False)).get_figwidth() == 3.25
