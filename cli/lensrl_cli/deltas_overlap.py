"""`lensrl deltas --overlap`: whether two seeds, runs or layers move the same entries."""

from __future__ import annotations

from pathlib import Path

import lensrl
from lensrl_cli.output import note, number, print_json, print_table, write_csv
from lensrl_cli.progress import progress_bars

KINDS = {"seeds": "another seed", "alone": "layer alone", "layers": "next layer"}


def show_overlap(study: str, run: str, seed: int | None, *, json: bool, csv: Path | None) -> None:
    """Show the overlap of the entries that moved most, for each layer, beside chance."""
    from lensrl.compare.changed_overlap import by_layer
    from lensrl.store.origin import checkpoint_note

    with lensrl.open_study(study) as opened:
        with progress_bars("overlap,", quiet=json) as on_progress:
            table = lensrl.changed_overlap(opened, run, seed=seed, on_progress=on_progress)
        rounded = checkpoint_note(opened.runs.of(run, seed, scored=True).values())
        name = opened.name
    if csv is not None:
        write_csv(table, csv)
    if json:
        print_json(table.to_dict("records"))
        return
    joined = by_layer(table)
    if not len(joined):
        note(f"{run} has no second seed, no layer alone and no second layer to compare with", style="yellow")
        return
    found = {(row["kind"], row["layer"], row["share"]): row for row in joined.to_dict("records")}
    shares, kinds = sorted(joined["share"].unique()), [kind for kind in KINDS if (joined["kind"] == kind).any()]
    headings = {(kind, share): f"{KINDS[kind]}\ntop {100 * share:g} %" for kind in kinds for share in shares}
    rows = [
        {"layer": str(layer)}
        | {
            heading: number(3)(found[kind, layer, share]["overlap"]) if (kind, layer, share) in found else "–"
            for (kind, share), heading in headings.items()
        }
        for layer in sorted(joined["layer"].unique())
    ]
    print_table(f"Overlap of the entries that moved most, {run}, {name}", dict.fromkeys(rows[0], "right"), rows)
    chance = ", ".join(f"{part['chance'].mean():.2g}" for _, part in joined.groupby("share"))
    note(
        f"Of the entries of ΔW with the largest |ΔW|, the share that is among the largest of the other, too; {chance} "
        "by chance. Places in two layers have no common meaning: the overlap with the next layer is that of shapes.",
        style="dim",
    )
    still = joined[joined["moved"] < joined["share"]]
    if len(still):
        note(f"fewer than {100 * still['share'].max():g} % of the entries moved at all in layer "
             f"{', '.join(map(str, sorted(still['layer'].unique())))}: the others share the places that are left",
             style="yellow")  # fmt: skip
    if rounded:
        note(rounded, style="yellow")
