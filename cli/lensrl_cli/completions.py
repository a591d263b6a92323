"""`lensrl show RUN --completions`: what a run answered, beside what the base answered."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len

import lensrl
from lensrl.errors import LensrlError, did_you_mean
from lensrl_cli.output import console, note, number, plain, print_json, write_csv

if TYPE_CHECKING:
    import pandas as pd

    from lensrl import Run

MOST_ITEMS = 10  # shown without --full
MOST_LINES = 8  # of a long text, shown without --full
SHORT = 24  # characters: texts as short as this share a line


def show_completions(
    run: Run, *, item: str | None, wrong: bool, changed: bool, full: bool, json: bool, csv: Path | None
) -> None:
    """Print the completions of a run by item; with JSON or CSV, a row for each sample."""
    table, compared = _with_base(run)
    if changed and not compared:
        raise LensrlError(f"--changed compares a run with its base, and {_no_base(run)}")
    items = table.drop_duplicates(["benchmark", "item"])
    ups = downs = 0
    if compared:
        change = items["item_score"] - items["base_item_score"]
        ups, downs = int((change > 0).sum()), int((change < 0).sum())
    total = len(items)
    table = _chosen(table, item, wrong=wrong, changed=changed)
    if csv is not None:
        write_csv(table, csv)
    if json:
        print_json(table.to_dict("records"))
        return
    # A line about all items, then the chosen items, a block each.
    beside = f" beside its base: {ups} items of {total} score higher, {downs} lower" if compared else f": {total} items"
    note(f"{run.name} seed {run.seed} of {run.study}{beside}", style="bold")
    if not compared and run.name != "base":
        note(f"alone: {_no_base(run)}", style="yellow")
    groups = [rows for _, rows in table.groupby(["benchmark", "item"], sort=False)]
    shown = groups if full or item is not None else groups[:MOST_ITEMS]
    several = table["benchmark"].nunique() > 1
    for rows in shown:
        _show_item(rows, run.name, compared=compared, full=full, several=several)
    if left := len(groups) - len(shown):
        note(f"\n{left} more items: --item ID for one, --full for all")
    if not groups:
        note("no item is so")


def _with_base(run: Run) -> tuple[pd.DataFrame, bool]:
    """Return the completions of a run, beside those of the base where they can be had, and whether they could."""
    from lensrl.store.completions import beside

    found = run.completions()
    if _no_base(run):
        return found, False
    with lensrl.open_run(_base_path(run)) as base:
        return beside(found, base.completions()), True


def _base_path(run: Run) -> Path:
    from lensrl.recipe.runs import BASE
    from lensrl.store.names import run_path

    return run_path(run.path.parent, BASE, 0)


def _no_base(run: Run) -> str:
    """Say why a run stands alone; empty where its base can stand beside it."""
    path = _base_path(run)
    if run.name == "base":
        return "this is the base"
    if not path.is_file():
        return f"there is no {path}"
    with lensrl.open_run(path) as base:
        if base.fingerprint != run.fingerprint:
            return f"{path} is another base model"
        return "" if base.has_completions else f"{path} keeps no completions (format version {base.format_version})"


def _chosen(table: pd.DataFrame, item: str | None, *, wrong: bool, changed: bool) -> pd.DataFrame:
    """Return the rows of the chosen items. Changed items come in the order of their change, the largest first."""
    if item is not None:
        names = table["benchmark"] + "/" + table["item"]
        known = dict.fromkeys([*table["item"], *names])
        if item not in known:
            raise LensrlError(f"no item {item!r}{did_you_mean(item, known)}")
        table = table[(table["item"] == item) | (names == item)]
    if wrong:
        of_item = table.groupby(["benchmark", "item"])["score"].transform("min")
        table = table[of_item < 1]
    if changed:
        change = (table["item_score"] - table["base_item_score"]).abs()
        table = table[change > 0].loc[change[change > 0].sort_values(ascending=False, kind="stable").index]
    return table.reset_index(drop=True)


def _show_item(rows: pd.DataFrame, name: str, *, compared: bool, full: bool, several: bool) -> None:
    first = rows.iloc[0]
    title = f"{first['benchmark']}/{first['item']}" if several else str(first["item"])
    scores = number(2)(rows["score"].mean())
    if compared:
        scores = f"{number(2)(first['base_item_score'])} → {scores}"
    sides = {"base": "base_"} if compared else {}
    sides |= {name: ""}
    texts = [first["prompt"], first["reference"]]
    texts += [text for prefix in sides.values() for text in rows[f"{prefix}completion"]]
    width = max(map(len, sides))
    if all(len(text) <= SHORT and "\n" not in text.strip() for text in texts):
        named = "" if str(first["item"]) in first["prompt"] else f"{title}: "
        note(f"\n{named}{first['prompt']}   reference {first['reference']}   score {scores}")
        for side, prefix in sides.items():
            note(f"  {side:{width}}  {_counted(rows[f'{prefix}completion'], rows[f'{prefix}score'])}")
        return
    note(f"\n{title}   score {scores}", style="bold")
    _show_text("prompt", first["prompt"], full=full)
    _show_text("reference", first["reference"], full=full)
    samples = [row for _, row in rows.iterrows()]
    picked = samples if full else [_telling(samples, compared=compared)]
    for row in picked:
        for side, prefix in sides.items():
            about = f"{side}, sample {row['sample']} {_mark(row[f'{prefix}score'])}"
            if not prefix:
                about += f" {row['tokens']} tokens{'' if row['finished'] else ', not finished'}"
            _show_text(about, row[f"{prefix}completion"], full=full)
    if left := len(samples) - len(picked):
        note(f"  {left} more sample{'s' * (left > 1)}: --full", style="dim")


def _telling(samples: list[pd.Series], *, compared: bool) -> pd.Series:
    """Return the sample that differs most from the base's; without a base, the first that is wrong, or the first."""
    if compared:
        return max(samples, key=lambda row: abs(row["score"] - row["base_score"]))
    return next((row for row in samples if row["score"] < 1), samples[0])


def _counted(texts: pd.Series, scores: pd.Series) -> str:
    """Return short texts, each once: `75 ✗ ×3, 85 ✓`."""
    counts: dict[tuple[str, float], int] = {}
    for text, score in zip(texts, scores, strict=True):
        counts[text.strip(), score] = counts.get((text.strip(), score), 0) + 1
    listed = sorted(counts.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{text or '(empty)'} {_mark(score)}{f' ×{n}' if n > 1 else ''}" for (text, score), n in listed)


def _mark(score: float) -> str:
    return {0.0: "✗", 1.0: "✓"}.get(score, f"({number(2)(score)})")


def _show_text(heading: str, text: str, *, full: bool) -> None:
    """Print a text of several lines below its heading, folded to the terminal, and cut unless `full`."""
    lines = [*_folded(plain(text))]
    note(f"  {heading}:", style="dim")
    cut = lines if full or len(lines) <= MOST_LINES + 1 else lines[:MOST_LINES]
    for line in cut:
        note(f"    {line}")
    if hidden := len(lines) - len(cut):
        note(f"    … {hidden} more lines of {len(text):,} characters: --full", style="dim")


def _folded(text: str) -> Iterator[str]:
    room = min(console.width, 100) - 4
    for line in text.strip("\n").split("\n") or [""]:
        if cell_len(line) <= room:
            yield line
        else:
            yield from textwrap.wrap(line, room, drop_whitespace=False, replace_whitespace=False) or [""]
