"""How tables of runs and datasets look in a terminal and in a notebook, where text from files is escaped."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

_CELL = 'style="text-align:{}; white-space:{}; padding:0.1em 0.8em 0.1em 0; vertical-align:top"'
_FAINT = Markup('style="opacity:0.65"')


def study_html(name: str, about: str, gains: Mapping[int, float], full: float, table: pd.DataFrame) -> str:
    """A line about the study, the gain of each layer as a bar, one row per run."""
    head = Markup("<div><b>{}</b> <span {}>{}</span></div>").format(name, _FAINT, about)
    return str(Markup("<div>{}{}{}</div>").format(head, bars_html(gains, full), table_html(table)))


def run_html(name: str, about: str, status: str, table: pd.DataFrame) -> str:
    """What the header says, and what is in the file."""
    head = Markup("<div><b>{}</b> <span {}>{}</span></div><div>{}</div>").format(name, _FAINT, about, status)
    return str(Markup("<div>{}{}</div>").format(head, table_html(table)))


def bars_html(gains: Mapping[int, float], full: float) -> Markup:
    """Layer -> gain as bars over depth, beside full RL's gain: the thin line is 0, the dashed one full RL.

    A bar is cut at 1.6 and at -0.5 times the gain of full RL, or of the largest gain where full RL gains nothing.
    """
    if not gains:
        return Markup("")
    finite = [gain for gain in gains.values() if math.isfinite(gain)]
    unit = full if full > 0 else max([abs(gain) for gain in finite if gain], default=1.0)
    high = max([1.1 * unit, *(min(gain, 1.6 * unit) for gain in finite)])
    low = min([0.0, *(max(gain, -0.5 * unit) for gain in finite)])
    width, height = 12, 90.0
    first, count = min(gains), max(gains) - min(gains) + 1
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64) if count / n <= 20)

    def y(value: float) -> float:
        return round((high - value) / (high - low) * height, 1)

    marks = []
    for i, layer in enumerate(range(first, first + count)):
        value = gains.get(layer, math.nan)
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
                    '<rect x="{}" y="{}" width="{}" height="{}" fill="#4c78a8"><title>layer {}: gain {}</title></rect>'
                ).format(i * width + 1, top, width - 2, max(0.5, bottom - top), layer, f"{value:.3f}")
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
    ).format(total, y(0.0), at := y(min(max(full, low), high)), total + 3, at + 3)
    label = Markup("<div {}>Gain by layer, mean over seeds; C_l with intervals: study.contributions()</div>").format(
        _FAINT
    )
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


def as_text(table: pd.DataFrame) -> str:
    """A listing for a terminal or a REPL."""
    shown = for_people(table).assign(bytes=[size(n) for n in table["bytes"]])
    return shown.to_string(index=False, na_rep="", float_format="{:.3f}".format) if len(table) else "no runs"


def for_people(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the names of files, and without reasons where no row has one."""
    empty = ["reason"] if "reason" in table and not table["reason"].any() else []
    return table.drop(columns=["file", *empty], errors="ignore")


def size(n_bytes: int | np.integer) -> str:
    """`7.6 MB`; decimal units, as disks are sold."""
    for unit, power in (("GB", 3), ("MB", 2), ("kB", 1)):
        if n_bytes >= 1000**power:
            return f"{n_bytes / 1000**power:.1f} {unit}"
    return f"{n_bytes} B"
