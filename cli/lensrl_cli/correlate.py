"""`lensrl correlate`: what goes with the layer contribution."""

from __future__ import annotations

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
    write_csv,
)


def correlate(study: StudyArgument, json: Json = False, csv: Csv = None, figure: FigureFile = None) -> None:
    """Correlate weight-delta norms, and where a layer sits, with the layer contribution C_l.

    Example: lensrl correlate runs/tiny --figure scatter.png
    """
    from lensrl import correlate_study, predictors
    from lensrl.predictors import PREDICTORS

    with open_study(study) as opened:
        table = correlate_study(opened)
        per_layer = predictors(opened)
        name = opened.name
    if json:
        print_json(table.to_dict("records"))
    else:
        rows = [
            {
                "predictor": PREDICTORS[row["predictor"]],
                "method": row["method"],
                "r": number(2)(row["coefficient"]),
                "95 % interval": interval(row["low"], row["high"]),
                "p": p_value(row["p"]),
                "n": str(row["n"]),
                "": row["reason"],
            }
            for row in table.to_dict("records")
        ]
        columns = {"predictor": "left", "method": "left"} | dict.fromkeys(("r", "95 % interval", "p", "n"), "right")
        show(f"Correlation with C_l over layers, {name}", columns | {"": "left"}, rows)
        note(
            "p by permutation of layers, uncorrected; optimistic for whatever drifts with depth, as depth itself does",
            style="dim",
        )
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.report.figures import save_figure, scatter_figure

        save_figure(scatter_figure(per_layer, PREDICTORS, table), figure)
        saved("figure", figure)
