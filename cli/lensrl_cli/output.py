"""How verbs show a table: in the terminal, as JSON, as CSV."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from lensrl import LensrlError, Study, open_study
from lensrl.show.words import figure_format

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="A study's folder, such as runs/tiny.")]
StudyOrTable = Annotated[Path | None, typer.Argument(metavar="STUDY", help="A study's folder, such as runs/tiny.")]
Contributions = Annotated[
    Path | None,
    typer.Option("--contributions", metavar="FILE", help="Instead of STUDY, a CSV file with layer and contribution."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the table to FILE.")]


def _drawable(path: Path | None) -> Path | None:
    """Checked before the work, which may take minutes, not after it."""
    if path is not None:
        figure_format(path)
    return path


FigureFile = Annotated[
    Path | None,
    typer.Option(
        "--figure", metavar="FILE", callback=_drawable, help="Also draw the figure to FILE (png, svg or pdf)."
    ),
]

console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # a pipe has no edge to fold lines at

FOLDED, FOLDED_KEY = (
    28,
    40,
)  # characters that text keeps at least, where it has as many: elsewhere, and in a first column
GAP = 2  # characters between columns

Formatter = Callable[[Any], str]


def number(digits: int = 3) -> Formatter:
    return lambda value: (
        "–" if value is None or (isinstance(value, float) and math.isnan(value)) else f"{value:.{digits}f}"
    )


def interval(low: Any, high: Any, digits: int = 2) -> str:
    return "–" if math.isnan(low) else f"{low:.{digits}f} … {high:.{digits}f}"


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else number()(p)


def note(text: str, style: str = "") -> None:
    """A line under a table: folded between words in a terminal, whole in a pipe, and never read as markup."""
    console.print(Text(plain(text), style=style), soft_wrap=not console.is_terminal)


def plain(text: str) -> str:
    """Text from a file without what would steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_json(value: Any) -> None:
    """JSON has no NaN: undefined numbers become null."""
    typer.echo(json.dumps(_finite(value), indent=2, default=_plain, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(table: Any, path: Path) -> None:
    from lensrl.store.file.atomic import new_file

    with new_file(path) as partial:
        table.to_csv(partial, index=False)
    saved("table", path)


def saved(what: str, path: Path) -> None:
    """Say where something went, on stderr: what a verb prints on stdout stays JSON, or a table."""
    typer.echo(f"{what}: {path}", err=True)


def show(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, str]], *, keys: int = 1) -> None:
    """A terminal table; `columns` maps a heading to its justification; one in which no row has anything is left out.

    Numbers stand right and are never cut, text stands left and is folded. Where a terminal is too narrow for all
    columns, the rest follow below, again after the first `keys` columns, which say what a row is.
    """
    lines = {
        heading: [line for text in (heading, *(row.get(heading, "") for row in rows)) for line in text.split("\n")]
        for heading in columns
        if not rows or any(row.get(heading) for row in rows)
    }
    natural = {heading: max(cell_len(plain(line)) for line in texts) for heading, texts in lines.items()}
    folded = {heading: FOLDED_KEY if number < keys else FOLDED for number, heading in enumerate(columns)}
    widths = {h: width if columns[h] == "right" else min(width, folded[h]) for h, width in natural.items()}
    for number, headings in enumerate(_side_by_side(widths, keys)):
        table = Table(
            title=Text(plain(title)) if number == 0 else None, title_justify="left", title_style="bold", box=None,
            pad_edge=False, header_style="dim",
        )  # fmt: skip
        fitted = _fit({h: widths[h] for h in headings}, natural, [h for h in headings if columns[h] != "right"])
        for heading in headings:
            justify = columns[heading]
            table.add_column(
                heading, justify=justify, no_wrap=justify == "right", overflow="fold", width=fitted[heading]  # type: ignore[arg-type]
            )  # fmt: skip
        for row in rows:
            table.add_row(*(Text(plain(row.get(heading, ""))) for heading in headings))
        if number:
            console.print()
        console.print(table)


def _fit(widths: dict[str, int], natural: Mapping[str, int], texts: Sequence[str]) -> dict[str, int]:
    """Widths that fill the terminal and no more: Rich, left to choose, cuts letters off a column that it narrows."""
    room = console.width - sum(widths.values()) - GAP * (len(widths) - 1)
    while room > 0 and (cut := [name for name in texts if widths[name] < natural[name]]):
        widths[max(cut, key=lambda name: natural[name] - widths[name])] += 1
        room -= 1
    while room < 0 and (wide := [name for name in texts if widths[name] > 1]):
        widths[max(wide, key=lambda name: widths[name])] -= 1
        room += 1
    return widths


def _side_by_side(widths: Mapping[str, int], keys: int) -> list[list[str]]:
    """The columns in groups that fit into the terminal, each with the first `keys` columns before it."""
    first, rest = [*widths][:keys], [*widths][keys:]
    room = console.width - sum(widths[name] + GAP for name in first)
    groups: list[list[str]] = [[]]
    for name in rest:
        if groups[-1] and sum(widths[n] + GAP for n in (*groups[-1], name)) - GAP > room:
            groups.append([])
        groups[-1].append(name)
    return [first + group for group in groups]


def bar(value: float, *, width: int = 20, full: float = 1.0) -> str:
    """A bar from 0 to `full`; nothing for a value that is missing or below 0."""
    if math.isnan(value) or value <= 0:
        return ""
    eighths = round(min(value / full, 1.25) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def find_study(path: Path | None) -> Study:
    """The given study, or the only one under runs/."""
    if path is not None:
        return open_study(path)
    found = sorted(kept.parent for kept in Path("runs").glob("*/base.h5"))
    if len(found) == 1:
        return open_study(found[0])
    if not found:
        raise LensrlError("no study under runs/: name a study's folder, or make one with lensrl run runs/tiny.toml")
    raise LensrlError(f"several studies under runs/: name one of {', '.join(map(str, found))}")


def either(study: Path | None, contributions: Path | None) -> Path:
    """The one of the two that is given."""
    if study is not None and contributions is not None:
        raise typer.BadParameter("give either a STUDY or --contributions FILE, not both")
    given = study or contributions
    if given is None:
        raise typer.BadParameter("give a STUDY, or a table with --contributions FILE")
    return given


def with_rivals(study: Study, *, quiet: bool) -> None:
    """See that what the base model says about its layers is stored; where it cannot be measured, say so and go on.

    `quiet`: stdout is JSON.
    """
    from lensrl import base_rivals

    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            console=console, transient=True, disable=quiet or not console.is_terminal,
        ) as progress:  # fmt: skip
            bars: dict[str, TaskID] = {}

            def on_progress(kind: str, done: int, of: int) -> None:
                if kind not in bars:
                    bars[kind] = progress.add_task(f"base model, {kind}", total=of)
                progress.update(bars[kind], completed=done)

            base_rivals(study, on_progress=on_progress)
    except LensrlError as error:
        why = f"without the rivals from the base model: {' '.join(str(error).split())}"
        if quiet:
            typer.echo(plain(why), err=True)
        else:
            note(why, style="dim")


def _plain(value: Any) -> Any:
    return value.item()
