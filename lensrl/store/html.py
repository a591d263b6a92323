"""How a study and a run look in a notebook: text from files is escaped, arrays are not read."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup, escape

from lensrl.layers import BASE, FULL, run_layer
from lensrl.store.listing import fold, for_people, list_contents, list_study, size

if TYPE_CHECKING:
    from lensrl.store.run import Run
    from lensrl.store.study import Study

_CELL = 'style="text-align:{}; white-space:{}; padding:0.1em 0.8em 0.1em 0; vertical-align:top"'
_FAINT = Markup('style="opacity:0.65"')


def study_html(study: Study) -> str:
    """A line about the study, its C_l bars, one row per run."""
    table = list_study(study)
    seeds = ", ".join(map(str, study.seeds)) or "none"
    head = Markup("<div><b>{}</b> <span {}>model {}, seeds {}, {}</span></div>").format(
        study.name, _FAINT, study.model, seeds, size(int(table["bytes"].sum()))
    )
    return str(Markup("<div>{}{}{}</div>").format(head, bars_html(quick_contributions(table)), table_html(table)))


def run_html(run: Run) -> str:
    """What the header says, and what is in the file."""
    head = Markup("<div><b>{}</b> seed {} <span {}>of {}, model {}, {}</span></div>").format(
        run.name, run.seed, _FAINT, run.study, run.base, size(run.bytes)
    )
    why = Markup("<div>{}{}</div>").format(
        run.status, f": {run.reason}" if run.reason else f", score {_number(run.score)}"
    )
    return str(Markup("<div>{}{}{}</div>").format(head, why, table_html(fold(list_contents(run)))))


def quick_contributions(table: pd.DataFrame) -> dict[int, float]:
    """Layer -> (S_l - S_base) / (S_full - S_base) from the headers' scores, means over the seeds of both runs.

    Without intervals, and NaN where full RL gained nothing: `study.contributions()` judges that.
    """
    scored = table[table["score"].notna()]
    full = scored[scored["run"] == FULL].set_index("seed")["gain"]
    found: dict[int, float] = {}
    for name, runs in scored[scored["run"] != BASE].groupby("run"):
        layer = run_layer(str(name))
        gains = runs.set_index("seed")["gain"]
        shared = gains.index.intersection(full.index)
        if layer is not None and len(shared):
            whole = full[shared].mean()
            found[layer] = gains[shared].mean() / whole if whole > 0 else math.nan
    return dict(sorted(found.items()))


def bars_html(contributions: Mapping[int, float]) -> Markup:
    """C_l as bars over depth: the thin line is 0, the dashed one full RL."""
    if not contributions:
        return Markup("")
    high = max([1.1, *(min(c, 1.6) for c in contributions.values() if math.isfinite(c))])
    low = min([0.0, *(max(c, -0.5) for c in contributions.values() if math.isfinite(c))])
    width, height = 12, 90.0
    first, count = min(contributions), max(contributions) - min(contributions) + 1
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64) if count / n <= 20)

    def y(value: float) -> float:
        return round((high - value) / (high - low) * height, 1)

    marks = []
    for i, layer in enumerate(range(first, first + count)):
        value = contributions.get(layer, math.nan)
        if not math.isfinite(value):
            marks.append(
                Markup('<text x="{}" y="{}" font-size="8" text-anchor="middle" fill="#b8433f">×</text>').format(
                    i * width + width / 2, y(0.0) - 2
                )
            )
        else:
            top, bottom = sorted((y(min(max(value, low), high)), y(0.0)))
            marks.append(
                Markup(
                    '<rect x="{}" y="{}" width="{}" height="{}" fill="#4c78a8"><title>layer {}: C = {}</title></rect>'
                ).format(i * width + 1, top, width - 2, max(0.5, bottom - top), layer, f"{value:.2f}")
            )
        if layer % every == 0:
            marks.append(
                Markup('<text x="{}" y="{}" font-size="8" text-anchor="middle" fill="currentColor">{}</text>').format(
                    i * width + width / 2, height + 10, layer
                )
            )
    total = count * width
    lines = Markup(
        '<line x1="0" x2="{0}" y1="{1}" y2="{1}" stroke="currentColor" stroke-width="0.5"/>'
        '<line x1="0" x2="{0}" y1="{2}" y2="{2}" stroke="currentColor" stroke-width="0.5" stroke-dasharray="3 2"/>'
        '<text x="{3}" y="{4}" font-size="8" fill="currentColor">full RL</text>'
    ).format(total, y(0.0), y(1.0), total + 3, y(1.0) + 3)
    label = Markup("<div {}>C_l by layer, from mean scores; intervals: study.contributions()</div>").format(_FAINT)
    return Markup(
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" style="max-width:100%; height:auto">{}{}</svg>{}'
    ).format(total + 32, height + 13, (total + 32) * 1.5, (height + 13) * 1.5, Markup("").join(marks), lines, label)


def table_html(table: pd.DataFrame) -> Markup:
    """A plain table; sizes in bytes and file names are left to the data frame."""
    shown = for_people(table)
    columns = list(shown.columns)
    right = {c for c in columns if c in ("seed", "bytes") or pd.api.types.is_float_dtype(shown[c])}
    heads = Markup("").join(Markup("<th {}>{}</th>").format(_style(c, right), c) for c in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td {}>{}</td>").format(_style(c, right), _cell(c, row[c])) for c in columns)
        )
        for row in shown.to_dict("records")
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(heads, body)


def _style(column: str, right: Collection[str]) -> Markup:
    return Markup(_CELL.format("right" if column in right else "left", "normal" if column == "reason" else "nowrap"))


def _cell(column: Any, value: Any) -> Markup:
    if isinstance(value, float):
        return escape(_number(value))
    if column == "bytes":
        return escape(size(value))
    if isinstance(value, tuple):
        return escape(" × ".join(map(str, value)))
    return escape("" if value is None else value)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
