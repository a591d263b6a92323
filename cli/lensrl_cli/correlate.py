"""`lensrl correlate`: what goes with the layer contribution."""

from __future__ import annotations

from typing import Any

from lensrl import open_study
from lensrl_cli.output import (
    Csv,
    FigureFile,
    Json,
    StudyArgument,
    interval,
    note,
    number,
    p_value,
    print_json,
    saved,
    show,
    with_rivals,
    write_csv,
)


def correlate(study: StudyArgument, json: Json = False, csv: Csv = None, figure: FigureFile = None) -> None:
    """Correlate what RL did to each layer, and what the base says about it, with the layer contribution C_l.

    Example: lensrl correlate runs/tiny --figure scatter.png
    """
    from lensrl.compare.predictors import PREDICTORS, predictors
    from lensrl.judge.correlate import correlate_study

    with open_study(study) as opened:
        with_rivals(opened, quiet=json)
        per_layer = predictors(opened)
        table = correlate_study(opened, per_layer)
        name = opened.name
    if json:
        print_json(table.to_dict("records"))
    else:
        _show(name, table, PREDICTORS)
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.show.figures import save_figure, scatter_figure

        save_figure(scatter_figure(per_layer, PREDICTORS, table), figure)
        saved("figure", figure)


def _show(name: str, table: Any, labels: dict[str, str]) -> None:
    """One row per predictor: raw on the left, beyond a trend in depth on the right."""
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
        }
        for key in raw.index
    ]
    numbers = [heading for heading in rows[0] if heading != "predictor"]
    layers = "–".join(str(n) for n in sorted({int(raw["n"].min()), int(raw["n"].max())}))
    show(
        f"Correlation with C_l over {layers} layers, {name}",
        {"predictor": "left"} | dict.fromkeys(numbers, "right"),
        rows,
    )
    for kind, part in (("", raw), (" beyond depth", beyond)):
        for reason, those in part[part["coefficient"].isna()].groupby("reason", sort=False):
            which = "all" if len(those) == len(part) else ", ".join(labels[key] for key in those["predictor"])
            note(f"no coefficient{kind} for {which}: {reason}", style="dim")
    note(
        "Spearman's p is by permutation of layers: optimistic for whatever drifts with depth, as depth itself does. "
        "Beyond depth is Pearson's r of what a quadratic in depth leaves; shift p turns those residuals around depth. "
        f"No p is corrected for the {len(raw)} predictors.",
        style="dim",
    )
