"""`lensrl contribution`: show the contribution of each layer."""

from __future__ import annotations

import gc
from enum import StrEnum
from typing import Annotated

import typer

import lensrl
from lensrl.show.words import score_in_words
from lensrl_cli.contribution_controls import show_equal, show_interactions, show_kl
from lensrl_cli.contribution_tables import show_each, show_finished, show_rates, show_sets, show_study, show_table
from lensrl_cli.figure import FigureFile, FontSize, Title, Width, draw, look_of
from lensrl_cli.output import (
    ChosenLayers,
    Contributions,
    Csv,
    Json,
    Sort,
    StudyOrTable,
    chosen_rows,
    either,
    note,
    print_json,
    write_csv,
)
from lensrl_cli.progress import progress_bars

EACH = "each"
FINISHED = ("mean", "finished", "right-given-finished")


class Distance(StrEnum):
    """How far a run went from the base."""

    kl = "kl"
    norm = "norm"


def contribution(
    study: StudyOrTable = None,
    contributions: Contributions = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="One training seed; by default all seeds together.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", metavar="NAME", help="One benchmark, all, or each; by default the study's score."),
    ] = None,
    score: Annotated[
        str,
        typer.Option("--score", metavar="KIND", help="mean, pass@K, vote, finished, right-given-finished or logprob."),
    ] = "mean",
    *,
    kl: Annotated[bool, typer.Option("--kl", help="Also measure how far each run went from the base.")] = False,
    at_equal: Annotated[
        Distance | None,
        typer.Option("--at-equal", metavar="DISTANCE", help="Also compare with full RL at equal kl or norm."),
    ] = None,
    layer: ChosenLayers = None,
    sort: Sort = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
) -> None:
    """Show the layer contribution C_l = (S_l - S_base) / (S_full - S_base) with 95 % intervals.

    If the recipe has sets of layers or other learning rates, tables of these contributions follow.

    --benchmark NAME takes one benchmark in the place of the study's score; all takes every benchmark, those of further
    tasks included; each shows one after another.

    --score pass@4 is the chance that one of four samples is right, vote the most frequent answer, logprob the
    log-probability of the reference in nats per token. --score finished counts a sample only where it ended below the
    token limit, and shows C_l beside it.

    --kl samples a completion of each held-out item from each run, and compares the policies along it: KL(run || base).

    --at-equal kl compares each layer with full RL where it had come as far from the base as the layer, by KL or by the
    norm of the deltas. It needs snapshots: store.snapshots in the recipe.

    --csv and --figure hold the single layers only, by the same benchmark and score.

    Example: lensrl contribution runs/tiny --figure profile.png
    """
    was_on = gc.isenabled()
    gc.disable()  # all that these imports make stays: to look for garbage among it takes a tenth of their time
    try:
        from lensrl.judge.profiles import contribution_warnings
        from lensrl.judge.sharpening import sharpening
    finally:
        if was_on:
            gc.enable()

    # From a study: layers, sets, learning rates. From a file: layers alone.
    look = look_of(figure, width, font_size, title=title)
    given = either(study, contributions)
    sets = rates = finished = clipped = together = far = equal = None
    left_out = False
    warnings: list[str] = []
    if contributions is None:
        with lensrl.open_study(given) as opened:
            if benchmark == EACH:
                if sort is not None or figure is not None:
                    raise typer.BadParameter("--sort and --figure are for one profile: give --benchmark NAME, or all")
                table = chosen_rows(opened.contributions_by_benchmark(seed, score=score), layer, None)
                if json:
                    print_json({"layers": table.to_dict("records")})
                else:
                    show_each(opened.name, table, score)
                if csv is not None:
                    write_csv(table, csv)
                return
            own = benchmark is None and score == "mean"
            sets = opened.set_contributions(seed, benchmark=benchmark, score=score)
            rates = opened.rate_control(seed) if own else None
            left_out = rates is None and bool(opened.recipe.learning_rates)
            together = opened.set_interactions(seed) if own else None
            clipped = opened.clipped_steps(seed)
            table = sets.iloc[:0]
            if opened.layers or not len(sets):
                table = opened.contributions(seed, benchmark=benchmark, score=score)
            if own and seed is None and opened.layers:
                warnings = contribution_warnings(opened, table) + sharpening(opened)
            scores = opened.scores(benchmark=benchmark, score=score)
            if seed is not None:
                scores = scores[(scores["seed"] == seed) | (scores["run"] == "base")]
            name = opened.name if own else f"{opened.name}, {score_in_words(benchmark, score)}"
            if kl:
                with progress_bars("KL,", quiet=json) as on_progress:
                    far = lensrl.kl_to_base(opened, seed=seed, on_progress=on_progress)
            if at_equal is not None:
                with progress_bars("at equal distance,", quiet=json) as on_progress:
                    equal = lensrl.contributions_at_equal(opened, at_equal.value, seed=seed, on_progress=on_progress)
            if score == "finished":
                finished = opened.contributions_by_score(seed, benchmark=benchmark, scores=FINISHED)
    else:
        if seed is not None:
            raise typer.BadParameter("--seed is for a STUDY: a table of contributions has no seeds")
        if kl or at_equal is not None:
            raise typer.BadParameter("--kl and --at-equal are for a STUDY: a table of contributions has no models")
        if benchmark is not None or score != "mean":
            raise typer.BadParameter("--benchmark and --score are for a STUDY: a table of contributions has no items")
        table, scores, name = lensrl.read_contributions(given), None, given.stem
    whole = table
    if layer is not None or sort is not None:
        if "layer" not in table:
            raise typer.BadParameter("--layer and --sort are for single layers: this study trains none")
        table = chosen_rows(table, layer, sort)
    # The tables that are there, one below the other; then the files that were asked for.
    if json:
        parts = {"layers": table, "sets": sets, "rates": rates}
        more = {"finished": finished, "interactions": together, "kl": far, "at_equal": equal}
        parts |= {part: rows for part, rows in more.items() if rows is not None}
        print_json({part: [] if rows is None else rows.to_dict("records") for part, rows in parts.items()})
    elif scores is None or clipped is None:
        show_table(name, table)
    else:
        if len(table):
            show_study(name, table, scores, clipped)
            for text in warnings:
                note(text, style="yellow")
        if sets is not None and len(sets):
            note("")
            show_sets(name, sets)
        if together is not None and len(together):
            note("")
            show_interactions(name, together)
        if rates is not None and len(rates):
            note("")
            show_rates(name, rates)
        if left_out:
            note("rates are chosen by the study's own score: see lensrl contribution without --benchmark and --score")
        if far is not None:
            note("")
            show_kl(name, far)
        if equal is not None and at_equal is not None:
            note("")
            show_equal(name, equal, at_equal.value)
        if finished is not None:
            note("")
            show_finished(name, finished, scores)
    if csv is not None:
        write_csv(table, csv)
    if contributions is not None:
        drawn = f"{name}: layer contribution, 95 % intervals"
        draw(figure, lambda: lensrl.plot.contributions(whole, title=drawn, look=look))
    elif figure is not None:
        with lensrl.open_study(given) as opened:
            draw(
                figure,
                lambda: lensrl.plot.contributions(
                    opened, whole if len(whole) else None, seed=seed, benchmark=benchmark, score=score, look=look
                ),
            )
