"""Arguments and output that the verbs share: tables in the terminal, JSON, CSV."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

import lensrl
from lensrl.errors import LensrlError, did_you_mean

if TYPE_CHECKING:
    from lensrl import Study


def named(given: str) -> str:
    """Return a name. Raises BadParameter for an empty one, which as a path would mean the working folder."""
    if not str(given).strip():
        raise typer.BadParameter("the name is empty: give a folder or a file (the working folder is .)")
    return given


def named_path(given: str) -> Path:
    """Return a path. Raises BadParameter for an empty name."""
    return Path(named(given))


StudyArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", parser=named_path, help="The folder of a study, such as runs/tiny.")
]
StudyOrTable = Annotated[
    Path | None, typer.Argument(metavar="STUDY", parser=named_path, help="The folder of a study, such as runs/tiny.")
]
Contributions = Annotated[
    Path | None,
    typer.Option(
        "--contributions", metavar="FILE", help="Instead of STUDY: a CSV file with columns layer and contribution."
    ),
]
StudyOrBase = Annotated[
    str, typer.Argument(metavar="STUDY", parser=named, help="The folder of a study; before TRAINED, a base model.")
]
Trained = Annotated[
    str | None,
    typer.Argument(
        metavar="TRAINED",
        show_default=False,
        help="Instead of a study, two models: a base and what training made of it (folders or hub names).",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The training seed; by default the lowest.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the table to FILE.")]
ChosenLayers = Annotated[
    str | None,
    typer.Option("--layer", "--layers", metavar="L", help="Only these rows: one layer 20, a range 0-7, a list 1,3,5."),
]
Sort = Annotated[
    str | None, typer.Option("--sort", metavar="COLUMN", help="Sort by a column of --csv, the largest first.")
]


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


OnDevice = Annotated[
    Device | None,
    typer.Option("--device", metavar="DEVICE", help="Compute with torch on cuda or cpu; by default with NumPy."),
]


def chosen_rows(table: Any, layer: str | None, sort: str | None) -> Any:
    """Return the rows of a DataFrame for some layers, sorted by a column, the largest first.

    Raises BadParameter for a layer that has no row, and for a column that the table lacks.
    """
    if layer is not None:
        from lensrl.recipe.layers import parse_layers, spell_layers  # pydantic takes longer than all of `lensrl --help`

        known = {int(number) for number in table["layer"].dropna()}
        wanted = parse_layers(layer, max(known, default=-1) + 1)
        if missing := [number for number in wanted if number not in known and layer != "all"]:
            raise typer.BadParameter(f"no row for layer {missing[0]}: there are {spell_layers(tuple(sorted(known)))}")
        table = table[table["layer"].isin(wanted)]
    if sort is not None:
        if sort not in table:
            raise typer.BadParameter(f"no column {sort!r}{did_you_mean(sort, table)}")
        table = table.sort_values(sort, ascending=False, kind="stable", na_position="last")
    return table.reset_index(drop=True)


console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # a pipe has no width

FOLDED_KEY = 40  # a text in a key column is not folded below this number of characters
FOLDED = 28  # the same for a text in any other column
GAP = 2  # characters between columns

Formatter = Callable[[Any], str]


def number(digits: int = 3) -> Formatter:
    """Return a function that formats a number with so many decimals, and a missing number as a dash."""
    return lambda value: (
        "–" if value is None or (isinstance(value, float) and math.isnan(value)) else f"{value:.{digits}f}"
    )


def interval(low: Any, high: Any, digits: int = 2) -> str:
    """Return `0.40 … 0.60`, or a dash when there is no interval."""
    return "–" if math.isnan(low) else f"{low:.{digits}f} … {high:.{digits}f}"


def p_value(p: float) -> str:
    """Return a p-value with three decimals, or `<0.001`."""
    return "<0.001" if p < 0.001 else number()(p)


def note(text: str, style: str = "") -> None:
    """Print a line: folded between words in a terminal, unfolded in a pipe, and never read as markup."""
    console.print(Text(plain(text), style=style), soft_wrap=not console.is_terminal)


def plain(text: str) -> str:
    """Return text without control characters: text from a file must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_json(value: Any) -> None:
    """Print JSON. Numbers that are not finite become null: JSON has no NaN."""
    typer.echo(json.dumps(_finite(value), indent=2, default=lambda scalar: scalar.item(), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(table: Any, path: Path) -> None:
    """Write a DataFrame to a CSV file, atomically, and say so."""
    from lensrl.store.file.atomic import new_file

    with new_file(path) as partial:
        table.to_csv(partial, index=False)
    saved("table", path)


def saved(what: str, path: Path) -> None:
    """Say on stderr which file was written: stdout holds only the table or the JSON."""
    typer.echo(f"{what}: {path}", err=True)


def print_block(table: Table) -> None:
    """Print a table. In a pipe its lines are not padded with blanks."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as kept:
        console.print(table)
    console.file.write("\n".join(line.rstrip() for line in kept.get().split("\n")))


def print_table(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, str]], *, keys: int = 1) -> None:
    """Print a table. `columns` maps a heading to its justification. Columns without any text are left out.

    Numbers are justified right and never cut; text is justified left and folded. The first `keys` columns identify a
    row. When the terminal is too narrow for all columns, the other columns follow below, after the key columns again.
    """
    # The width of every column: its longest line, or less when its text may be folded.
    lines = {
        heading: [line for text in (heading, *(row.get(heading, "") for row in rows)) for line in text.split("\n")]
        for heading in columns
        if not rows or any(row.get(heading) for row in rows)
    }
    natural = {heading: max(cell_len(plain(line)) for line in texts) for heading, texts in lines.items()}
    folded = {heading: FOLDED_KEY if number < keys else FOLDED for number, heading in enumerate(columns)}
    widths = {h: width if columns[h] == "right" else min(width, folded[h]) for h, width in natural.items()}
    # One table below the other, each as wide as the terminal allows.
    if title:
        note(title, style="bold")
    for number, headings in enumerate(_side_by_side(widths, keys)):
        table = Table(box=None, pad_edge=False, header_style="dim")
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
        print_block(table)


def _fit(widths: dict[str, int], natural: Mapping[str, int], texts: Sequence[str]) -> dict[str, int]:
    """Widen and narrow the columns `texts` until the table fits the terminal.

    Rich would narrow a column by cutting letters off.
    """
    room = console.width - sum(widths.values()) - GAP * (len(widths) - 1)
    while room > 0 and (cut := [name for name in texts if widths[name] < natural[name]]):
        widths[max(cut, key=lambda name: natural[name] - widths[name])] += 1
        room -= 1
    while room < 0 and (wide := [name for name in texts if widths[name] > 1]):
        widths[max(wide, key=lambda name: widths[name])] -= 1
        room += 1
    return widths


def _side_by_side(widths: Mapping[str, int], keys: int) -> list[list[str]]:
    """Return groups of columns that fit into the terminal, each with the first `keys` columns in front."""
    first, rest = [*widths][:keys], [*widths][keys:]
    room = console.width - sum(widths[name] + GAP for name in first)
    groups: list[list[str]] = [[]]
    for name in rest:
        if groups[-1] and sum(widths[n] + GAP for n in (*groups[-1], name)) - GAP > room:
            groups.append([])
        groups[-1].append(name)
    return [first + group for group in groups]


def bar(value: float, *, width: int = 20, full: float = 1.0) -> str:
    """Return a bar from 0 to `full`, cut at 1.25 times `full`; empty when the value is missing or negative."""
    if math.isnan(value) or value <= 0:
        return ""
    eighths = round(min(value / full, 1.25) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def find_study(path: Path | None) -> Study:
    """Open the given study; by default, the only study under runs/."""
    if path is not None:
        return lensrl.open_study(path)
    found = sorted(kept.parent for kept in Path("runs").glob("*/base.h5"))
    if len(found) == 1:
        return lensrl.open_study(found[0])
    if not found:
        raise LensrlError("no study under runs/: name a study's folder, or make one with lensrl run runs/tiny.toml")
    raise LensrlError(f"several studies under runs/: name one of {', '.join(map(str, found))}")


def either(study: Path | None, contributions: Path | None) -> Path:
    """Return the argument that is given. Raises BadParameter when both are given, or none."""
    if study is not None and contributions is not None:
        raise typer.BadParameter("give either a STUDY or --contributions FILE, not both")
    given = study or contributions
    if given is None:
        raise typer.BadParameter("give a STUDY, or a table with --contributions FILE")
    return given
