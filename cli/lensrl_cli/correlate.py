"""`lensrl correlate`: correlate predictors with the layer contribution."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import lensrl
from lensrl_cli.cluster import Address, NumCpus, NumGpus, Place, Where, cluster_of
from lensrl_cli.figure import FigureFile, FontSize, Title, Width, draw, look_of
from lensrl_cli.output import (
    Csv,
    Json,
    StudyArgument,
    interval,
    note,
    number,
    p_value,
    print_json,
    print_table,
    write_csv,
)
from lensrl_cli.progress import measure_rivals


def correlate(
    study: StudyArgument,
    *,
    predictor: Annotated[
        str | None, typer.Option("--predictor", metavar="NAME", help="Draw C_l against this predictor alone.")
    ] = None,
    panels: Annotated[
        bool, typer.Option("--panels", help="Draw C_l against every predictor, in small panels.")
    ] = False,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
    place: Where = Place.HERE,
    address: Address = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
) -> None:
    """Correlate predictors of each layer with its contribution C_l: weight deltas, measures of the base model, depth.

    The first call measures the base model without each layer, and keeps the numbers for all verbs; --engine ray shares
    this over the nodes of a cluster. --figure draws the coefficients of all predictors. A predictor is named by its
    name in --csv.

    Example: lensrl correlate runs/tiny --figure scatter.png
    """
    from lensrl.compare.predictors import PREDICTORS
    from lensrl.store.origin import checkpoint_note, texts_note

    look = look_of(figure, width, font_size, title=title)
    cluster = cluster_of(place, address, num_cpus, num_gpus)
    if figure is None and (panels or predictor is not None):
        raise typer.BadParameter("--panels and --predictor say what is drawn: add --figure FILE")
    if panels and predictor is not None:
        raise typer.BadParameter("give either --predictor NAME or --panels, not both")
    with lensrl.open_study(study) as opened:
        measure_rivals(opened, quiet=json, cluster=cluster)
        per_layer = lensrl.predictors(opened)
        table = lensrl.correlate_study(opened, per_layer)
        name = opened.name
        notes = filter(None, (checkpoint_note(opened.runs.values()), texts_note(opened.recipe)))
    known: Any = {"table": per_layer, "correlations": table, "look": look}
    if json:
        print_json(table.to_dict("records"))
    else:
        _show(name, table, PREDICTORS)
        for text in notes:
            note(text, style="yellow")
    if csv is not None:
        write_csv(table, csv)
    if panels:
        draw(figure, lambda: lensrl.plot.predictor_panels(opened, **known))
    else:
        draw(figure, lambda: lensrl.plot.predictors(opened, predictor, **known))


def _show(name: str, table: Any, labels: dict[str, str]) -> None:
    """Print one row per predictor: the raw correlation on the left, the correlation beyond depth on the right."""
    raw, beyond = (
        table[table["method"] == method].set_index("predictor", drop=False) for method in ("spearman", "detrended")
    )
    rows = [
        {
            "predictor": labels[key],
            "\nrho": number(2)(raw.loc[key, "coefficient"]),
            "Spearman\n95 % interval": interval(raw.loc[key, "low"], raw.loc[key, "high"]),
            "\np": p_value(raw.loc[key, "p"]),
            "\nr": number(2)(beyond.loc[key, "coefficient"]),
            "beyond depth\n95 % interval": interval(beyond.loc[key, "low"], beyond.loc[key, "high"]),
            " \np": p_value(beyond.loc[key, "p"]),
            "shift\np": p_value(beyond.loc[key, "shift_p"]),
            "given\nrival": number(2)(beyond.loc[key, "given_rival"]),
        }
        for key in raw.index
    ]
    # The number of layers may differ between predictors: show the range.
    numbers = [heading for heading in rows[0] if heading != "predictor"]
    layers = "–".join(str(n) for n in sorted({int(raw["n"].min()), int(raw["n"].max())}))
    print_table(
        f"Correlation with C_l over {layers} layers, {name}",
        {"predictor": "left"} | dict.fromkeys(numbers, "right"),
        rows,
    )
    # Reasons of missing coefficients, each reason once.
    for kind, part in (("", raw), (" beyond depth", beyond)):
        for reason, undefined in part[part["coefficient"].isna()].groupby("reason", sort=False):
            which = "all" if len(undefined) == len(part) else ", ".join(labels[key] for key in undefined["predictor"])
            note(f"no coefficient{kind} for {which}: {reason}", style="dim")
    hurt = beyond[beyond["rival"].fillna("") != ""]
    for rival, part in hurt.groupby("rival", sort=False):
        which = ", ".join(labels[key] for key in part["predictor"])
        note(f"the rival that hurts most is {labels[str(rival)]} for {which}", style="dim")
    note(
        "Spearman's p comes from permutations of the layers. It is too small for a predictor that drifts with depth. "
        "Beyond depth: Pearson's r beyond a flexible trend in depth, from 24 layers on; shift p comes from circular "
        "shifts of the residuals over depth. Given rival: the same given the rival that hurts most, a baseline that is "
        f"known before RL. No p is corrected for the {len(raw)} predictors.",
        style="dim",
    )
