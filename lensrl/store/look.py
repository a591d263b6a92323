"""How listings of runs and datasets look in a terminal and in a notebook. Text from files is escaped."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

ListingRows = Sequence[Mapping[str, object]]  # column -> value; the same columns in every row

# One rule for all cells: a style of its own in each would make the listing of a run four times as long.
_STYLE = Markup(
    "<style>table.lensrl :is(td, th) {text-align: left; white-space: nowrap; padding: 0.1em 0.8em 0.1em 0; "
    "vertical-align: top} table.lensrl .n {text-align: right} table.lensrl .w {white-space: normal}</style>"
)
_FAINT = Markup('style="opacity:0.65"')


def study_html(name: str, about: str, gains: Mapping[int, float], full: float, runs: ListingRows) -> str:
    """Return the HTML of a study: a line about it, the gain of each layer as a bar, one row per run."""
    head = Markup("<div><b>{}</b> <span {}>{}</span></div>").format(name, _FAINT, about)
    return str(Markup("<div>{}{}{}</div>").format(head, bars_html(gains, full), table_html(runs)))


def run_html(name: str, about: str, status: str, contents: ListingRows) -> str:
    """Return the HTML of a run: a line about it, its status, one row per dataset or part."""
    head = Markup("<div><b>{}</b> <span {}>{}</span></div><div>{}</div>").format(name, _FAINT, about, status)
    return str(Markup("<div>{}{}</div>").format(head, table_html(contents)))


def result_html(title: str, rows: ListingRows, wrapped: Collection[str] = ()) -> str:
    """Return the HTML of a result: its title and one row per finding. The columns `wrapped` hold sentences."""
    head = Markup("<div><b>{}</b></div>").format(title)
    return str(Markup("<div>{}{}</div>").format(head, table_html(rows, wrapped)))


def bars_html(gains: Mapping[int, float], full: float) -> Markup:
    """Return a bar chart of layer -> gain over depth: the thin line is 0, the dashed line the gain of full RL.

    A bar is cut at 1.6 and at -0.5 times the gain of full RL; where full RL gains nothing, at the same multiples of
    the largest gain. A cross marks a layer without a gain.
    """
    if not gains:
        return Markup("")
    # The scale. Coordinates are in units of the view box: one column of `width` per layer, y downwards.
    finite = [gain for gain in gains.values() if math.isfinite(gain)]
    unit = full if full > 0 else max([abs(gain) for gain in finite if gain], default=1.0)
    high = max([1.1 * unit, *(min(gain, 1.6 * unit) for gain in finite)])
    low = min([0.0, *(max(gain, -0.5 * unit) for gain in finite)])
    width, height = 12, 90.0
    first, count = min(gains), max(gains) - min(gains) + 1
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64) if count / n <= 20)

    def y(value: float) -> float:
        return round((high - value) / (high - low) * height, 1)

    # The layers: a bar or a cross each, and the numbers of some of them below.
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
    # The lines at 0 and at full RL, and the caption.
    total = count * width
    lines = Markup(
        '<line x1="0" x2="{0}" y1="{1}" y2="{1}" stroke="currentColor" stroke-width="0.5"/>'
        '<line x1="0" x2="{0}" y1="{2}" y2="{2}" stroke="currentColor" stroke-width="0.5" stroke-dasharray="3 2"/>'
        '<text x="{3}" y="{4}" font-size="8" fill="currentColor">full RL</text>'
    ).format(total, y(0.0), at := y(min(max(full, low), high)), total + 3, at + 3)
    caption = Markup("<div {}>Gain by layer, mean over seeds; C_l with intervals: study.contributions()</div>").format(
        _FAINT
    )
    return Markup(
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" style="max-width:100%; height:auto">{}{}</svg>{}'
    ).format(total + 32, height + 13, (total + 32) * 1.5, (height + 13) * 1.5, Markup("").join(marks), lines, caption)


def table_html(rows: ListingRows, wrapped: Collection[str] = ("reason",)) -> Markup:
    """Return rows as an HTML table, with the columns of `for_people`. Text in the columns `wrapped` may be folded."""
    shown = for_people(rows)
    columns = list(shown[0]) if shown else []
    right = {c for c in columns if c in ("seed", "bytes") or isinstance(shown[0][c], float)}
    kinds = {c: _class(c, right, wrapped) for c in columns}
    heads = Markup("").join(Markup("<th{}>{}</th>").format(kinds[c], c) for c in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td{}>{}</td>").format(kinds[c], _cell(c, row[c])) for c in columns)
        )
        for row in shown
    )
    return _STYLE + Markup('<table class="lensrl"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(
        heads, body
    )


def _class(column: str, right: Collection[str], wrapped: Collection[str]) -> Markup:
    """Return the class of a column's cells: `n` for numbers, `w` for text that may be folded."""
    names = ("n" if column in right else "") + (" w" if column in wrapped else "")
    return Markup(' class="{}"').format(names.strip()) if names else Markup("")


def _cell(column: str, value: object) -> Markup:
    if isinstance(value, float):
        return escape("" if math.isnan(value) else f"{value:.3f}")
    if column == "bytes" and isinstance(value, int):
        return escape(size(value))
    if isinstance(value, tuple):
        return escape(" × ".join(map(str, value)))
    return escape(value)


def as_text(rows: ListingRows) -> str:
    """Return a listing of runs for a terminal or a Python prompt."""
    if not rows:
        return "no runs"
    import pandas as pd  # here: a third of a second that a listing in the terminal need not wait for

    shown = pd.DataFrame(for_people(rows)).assign(bytes=[_cell("bytes", row["bytes"]) for row in rows])
    return shown.to_string(index=False, na_rep="", float_format="{:.3f}".format)


def for_people(rows: ListingRows) -> ListingRows:
    """Return rows without file names, and without reasons where no row has a reason."""
    hidden = {"file"} if any(row.get("reason") for row in rows) else {"file", "reason"}
    return [{column: value for column, value in row.items() if column not in hidden} for row in rows]


def size(n_bytes: int | np.integer) -> str:
    """Return a number of bytes in decimal units: `7.6 MB`."""
    for unit, power in (("GB", 3), ("MB", 2), ("kB", 1)):
        if n_bytes >= 1000**power:
            return f"{n_bytes / 1000**power:.1f} {unit}"
    return f"{n_bytes} B"
