"""Contribution profiles as data: of a study with its items and seeds, or of a published table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from lensrl.errors import LensrlError
from lensrl.measures.gains import Gains
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.study import Study
from lensrl.store.table import read_contributions

FEWEST_LAYERS = 3
NORMAL_95 = 1.959964  # standard errors on either side of a 95 % interval


@dataclass(frozen=True)
class PairedGains:
    """S_r - S_base per seed and item, for every layer with a contribution and, last, for full RL.

    `item` and `benchmark` name each item and its benchmark. `limits` are sentences that name the layers and seeds left
    out.
    """

    gains: Float64[np.ndarray, "gain seed item"]
    layers: Int[np.ndarray, " layer"]
    seeds: list[int]
    item: list[str]
    benchmark: list[str]
    limits: list[str] = field(default_factory=list)


def paired_gains(study: Study, table: pd.DataFrame | None = None) -> PairedGains:
    """Return paired gains: every layer has every seed. `table` is `study.contributions()`, where it is there already.

    The chosen seeds have the largest number of runs. A layer that lacks one of these seeds is left out. Raises
    LensrlError when fewer than three layers are left.
    """
    base = study[BASE].scores_by_item()
    study[FULL]  # raises, and lists the runs that exist
    table = study.contributions() if table is None else table
    status: dict[int, str] = dict(zip(table["layer"].tolist(), table["status"], strict=True))
    defined = [layer for layer in status if status[layer] == "defined"]
    runs = {name: {*study.runs.of(name, scored=True)} for name in (FULL, *map(layer_run, defined))}

    # the seeds with the most runs, and the layers that have all of these seeds
    counts = pd.Series([seed for seeds in runs.values() for seed in seeds & runs[FULL]], dtype=int).value_counts()
    most = counts.max() if len(counts) else 0
    seeds = sorted(int(str(seed)) for seed in counts.index[counts == most])
    layers = [layer for layer in defined if runs[layer_run(layer)].issuperset(seeds)]
    if len(layers) < FEWEST_LAYERS:
        rest = table[table["status"] != "defined"]
        why = f" ({rest['status'].iloc[0]}: {rest['reason'].iloc[0]})" if len(rest) else ""
        counted = "1 layer has" if len(layers) == 1 else f"{len(layers)} layers have"
        raise LensrlError(
            f"{study.path}: {counted} a contribution that is defined{why}, at least {FEWEST_LAYERS} "
            f"are needed; see lensrl contribution {study.path}"
        )

    # sentences on everything left out
    limits = []
    for what, collapsed in (("from a run that collapsed", True), ("without a contribution from every seed", False)):
        part = [str(layer) for layer in status if layer not in layers and (status[layer] == "collapsed") is collapsed]
        limits += [f"Left out, {what}: layers {', '.join(part)}."] if part else []
    fewer = [str(seed) for seed in study.seeds if seed not in seeds]
    limits += [f"Left out, without every run that other seeds have: seeds {', '.join(fewer)}."] if fewer else []
    names = [*map(layer_run, layers), FULL]
    scores = [[study[name, seed].scores_by_item()["score"].to_numpy() for seed in seeds] for name in names]
    return PairedGains(
        gains=np.array(scores, np.float64) - base["score"].to_numpy(),
        layers=np.array(layers),
        seeds=seeds,
        item=base["item"].astype(str).tolist(),
        benchmark=base["benchmark"].astype(str).tolist(),
        limits=limits,
    )


@dataclass(frozen=True)
class Profile:
    """C_l of a study, or of a table, over the relative depth of its layers.

    `gains` holds the gains of `layers` and, last, of full RL. A table has no `paired` items, and its errors are those
    of its intervals or of its own roughness (`table_gains`). `notes` says what was changed in reading it. `reason` says
    why there is no profile; `layers` and `gains` are then empty, or without use.
    """

    name: str
    path: Path
    layers: Int[np.ndarray, " layer"]
    n_layers: int
    gains: Gains
    paired: PairedGains | None = None
    error_of_table: str = ""
    notes: tuple[str, ...] = ()
    reason: str = ""

    @property
    def depth(self) -> Float64[np.ndarray, " layer"]:
        """The centre of every layer in a stack from 0 to 1: (l + 0.5) / n_layers."""
        return (self.layers + 0.5) / self.n_layers

    @property
    def n_seeds(self) -> int:
        """The number of seeds; 0 for a table."""
        return len(self.paired.seeds) if self.paired else 0

    @property
    def errors(self) -> str:
        """The kinds of error that the gains carry; empty without a profile."""
        if self.reason:
            return ""
        return self.error_of_table if self.paired is None else "seeds and items" if self.n_seeds > 1 else "items"


def read_profile(source: Study | str | Path) -> Profile:
    """Read the profile of a study, of a study's folder, or of a CSV file of contributions (see `read_contributions`).

    A study without a certain gain of full RL, or with fewer than three layers that have a contribution, has a reason in
    place of a profile. Raises LensrlError when `source` is neither a study nor such a table.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        with Study(source) as study:
            return read_profile(study)
    if isinstance(source, Study):
        return _study_profile(source, source.contributions())
    table = read_contributions(source)
    known, path = table[table["contribution"].notna()], Path(source)
    return Profile(
        name=path.stem,
        path=path,
        layers=known["layer"].to_numpy(int),
        n_layers=int(table["layer"].max()) + 1,
        gains=table_gains(known),
        error_of_table="intervals of the table" if _has_intervals(known) else "roughness of the table",
        notes=tuple(table.attrs["notes"]),
    )


def table_gains(known: pd.DataFrame) -> Gains:
    """Return the contributions of a table as gains: with the errors of its intervals, or of its own roughness.

    `known` holds the rows of `read_contributions` with a contribution. The intervals are taken as 95 % intervals of
    independent errors, and used where every layer has one.
    """
    contribution = known["contribution"].to_numpy(np.float64)
    if not _has_intervals(known):
        return Gains.from_profile(contribution)
    return Gains.with_errors(contribution, (known["high"] - known["low"]).to_numpy(np.float64) / (2 * NORMAL_95))


def _has_intervals(known: pd.DataFrame) -> bool:
    return bool((known["interval_from"] == "file").all())


def _study_profile(study: Study, table: pd.DataFrame) -> Profile:
    # Too few contributions: a profile that holds the reason and nothing else.
    rest = table[table["status"] != "defined"]
    if len(table) - len(rest) < FEWEST_LAYERS:
        few = f"{len(table)} layers have a contribution, at least {FEWEST_LAYERS} are needed"
        reason = few if rest.empty else f"{rest['status'].iloc[0]}: {rest['reason'].iloc[0]}"
        nothing = Gains.exactly(np.zeros(0))
        return Profile(
            name=study.name,
            path=study.path,
            layers=np.zeros(0, int),
            n_layers=study.n_layers,
            gains=nothing,
            reason=reason,
        )
    # With items, the profile carries the errors of seeds and items.
    paired = paired_gains(study, table)
    gains = Gains.from_items(paired.gains, paired.benchmark)
    reason = "" if has_gain(gains) else "the interval of S_full - S_base contains 0 with the seeds that all layers have"
    return Profile(
        name=study.name,
        path=study.path,
        layers=paired.layers,
        n_layers=study.n_layers,
        gains=gains,
        paired=paired,
        reason=reason,
    )


def has_gain(gains: Gains) -> bool:
    """Return whether the gain of full RL, the last gain, is certainly above 0."""
    return bool(gains.contrast(np.eye(len(gains.mean))[-1]).interval().low > 0)


def contribution_warnings(study: Study, table: pd.DataFrame) -> list[str]:
    """Return what is to be said beside `table`, which is `study.contributions()`: `Gains.warnings` of its profile.

    Nothing without a profile.
    """
    try:
        gains = _study_profile(study, table).gains
    except LensrlError:  # fewer than three layers with every seed: there is nothing to compare full RL's spread with
        return []
    return gains.warnings() if len(gains.mean) > 1 else []
