"""Agreement of studies on their layer contribution profiles, across algorithms, tasks, models and published tables.

    studies and tables  ->  profiles  ->  every pair on common depth  ->  agreement, its ceiling, beyond a trend

`lensrl.measures.agreement` defines agreement, its interval, and the common depth of profiles with unlike numbers of
layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError
from lensrl.judge.measurements import PairedProfiles
from lensrl.judge.profiles import Profile, read_profile
from lensrl.measures.agreement import (
    COEFFICIENTS,
    FEWEST_COMMON,
    Measured,
    agreement,
    ceiling,
    measured,
    on_common_depth,
    shared_error,
)
from lensrl.measures.halves import contributions_on_items, split_items
from lensrl.measures.trend import correlate_detrended
from lensrl.store.look import result_html
from lensrl.store.study import Study

STUDY_COLUMNS = ["study", "path", "layers", "of", "seeds", "reliability", "errors", "reason"]
PAIR_COLUMNS = [
    "first", "second", "layers",
    *(f"{c}{end}" for c in COEFFICIENTS for end in ("", "_low", "_high")),
    "ceiling", "kendall_ceiling", "beyond_depth", "beyond_depth_low", "beyond_depth_high", "shift_p",
    "interval", "status", "reason",
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class StudyAgreement:
    """`studies` has one row per study, `pairs` one row per pair of studies, named as in `studies`.

    Columns of `studies`: study, path, layers (number of layers with a contribution), of (number of layers of the
    model), seeds, reliability (the share of the variance over layers that is not error), errors (`seeds and items`,
    `items`, `intervals of the table` or `roughness of the table`), reason (why the study has no profile).

    Columns of `pairs`:

    - first, second, layers (number of common positions);
    - `spearman` and `kendall`, each with `_low` and `_high`: the 95 % interval of the coefficient of the true profiles;
    - `ceiling`: the mean of Spearman's coefficient that would be seen if the true profiles were the same, simulated
      with the errors of both profiles at these positions; `kendall_ceiling`, the same of Kendall's;
    - `beyond_depth`: Pearson's coefficient beyond a flexible trend in depth, with its interval over layers and
      `shift_p`, its circular-shift p (see `correlate_detrended`); NaN for fewer than 24 layers;
    - `interval`: the profiles whose errors the intervals carry;
    - `status`: `defined`, or `undefined` with the `reason`.
    """

    studies: pd.DataFrame
    pairs: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lines = [f"  {pair['first']} and {pair['second']}: {pair['found']}" for pair in self._found()]
        return "\n".join([f"<StudyAgreement of {len(self.studies)} profiles>", *lines])

    def _repr_html_(self) -> str:
        return result_html(f"Agreement of {len(self.studies)} profiles (Spearman)", self._found(), wrapped=("found",))

    def _found(self) -> list[dict[str, Any]]:
        """Say in words what was found for each pair."""
        rows = []
        for pair in self.pairs.to_dict("records"):
            ends = (
                "" if np.isnan(pair["spearman_low"]) else f" [{pair['spearman_low']:.2f}, {pair['spearman_high']:.2f}]"
            )
            defined = pair["status"] == "defined"
            found = f"{pair['spearman']:.2f}{ends}" if defined else f"{pair['status']}: {pair['reason']}"
            rows.append({"first": pair["first"], "second": pair["second"], "layers": pair["layers"], "found": found})
        return rows

    def matrix(self, column: str = "spearman") -> pd.DataFrame:
        """Return the symmetric matrix of a column of `pairs`. NaN on the diagonal and for undefined pairs."""
        names = self.studies["study"].tolist()
        found = pd.DataFrame(np.nan, index=names, columns=names)
        for pair in self.pairs.to_dict("records"):
            found.loc[pair["first"], pair["second"]] = found.loc[pair["second"], pair["first"]] = pair[column]
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return both tables and the notes as plain values for JSON."""
        return {
            "studies": self.studies.to_dict("records"),
            "pairs": self.pairs.to_dict("records"),
            "notes": list(self.notes),
        }


def agree(*sources: Study | str | Path) -> StudyAgreement:
    """Compare the profiles of two or more studies. A source is an open study, a study's folder, or a CSV table.

    >>> lensrl.agree("runs/grpo", "runs/dr-grpo", "runs/published/qwen3-1.7b-grpo-math.csv").pairs

    The errors of a table are those of its columns `low` and `high`, or are estimated from its own roughness over depth.
    `notes` says what was changed in reading the tables. Raises LensrlError for fewer than two sources, for a source
    given twice, and for a source that is neither a study nor a table.
    """
    if len(sources) < 2:
        raise LensrlError(
            f"{len(sources)} profile{'s' * (len(sources) != 1)} given, agreement needs at least two: name more studies "
            f"or tables (--contributions FILE.csv)"
        )
    profiles = _with_unique_names([read_profile(source) for source in sources])
    studies = [
        (p.name, str(p.path), len(p.layers), p.n_layers, p.n_seeds, _reliability(p), p.errors, p.reason)
        for p in profiles
    ]
    pairs = [_pair(first, second) for first, second in combinations(profiles, 2)]
    notes = tuple(f"{profile.name}: {note}" for profile in profiles for note in profile.notes)
    return StudyAgreement(
        pd.DataFrame(studies, columns=STUDY_COLUMNS), pd.DataFrame(pairs, columns=PAIR_COLUMNS), notes
    )


def others_beside(
    source: Study | str | Path, others: Sequence[Study | str | Path]
) -> tuple[dict[str, PairedProfiles], list[str]]:
    """Return the profiles of `source` and of each other study on their common depths, by the other study's name.

    No item enters both profiles of a pair. Two studies with common items have two pairs: `source` on one half of its
    items, and the other study on all its items outside this half. A study without a profile is left out; the returned
    sentences name it.
    """
    if not others:
        return {}, []
    first, *rest = _with_unique_names([read_profile(source) for source in (source, *others)])
    beside: dict[str, PairedProfiles] = {}
    limits: list[str] = []
    for other in rest:
        if first.reason or other.reason:
            limits += [f"Not compared, {other.name}: {other.reason}."] if other.reason else []
            continue
        depth, to_own, to_other = on_common_depth(first.depth, other.depth)
        if _common_items(first, other):
            for half, own, others_own in _on_separate_items(first, other):
                beside[f"{other.name}, {half}"] = PairedProfiles(depth, to_own @ own, to_other @ others_own)
        else:
            own, others_own = first.gains.contributions, other.gains.contributions
            beside[other.name] = PairedProfiles(depth, to_own @ own, to_other @ others_own)
    return beside, limits


def _pair(first: Profile, second: Profile) -> dict[str, object]:
    """Return the row of `pairs` for two profiles."""
    row: dict[str, object] = dict.fromkeys(PAIR_COLUMNS, np.nan)
    row |= {"first": first.name, "second": second.name, "layers": 0, "interval": "", "status": "undefined"}
    for profile in (first, second):
        if profile.reason:
            return row | {"reason": f"{profile.name}: {profile.reason}"}

    # both profiles at their common positions
    depth, to_x, to_y = on_common_depth(first.depth, second.depth)
    row["layers"] = len(depth)
    if len(depth) < FEWEST_COMMON:
        return row | {"reason": f"{len(depth)} layers at depths that both have: at least {FEWEST_COMMON} are needed"}
    x, y = measured(first.gains, to_x), measured(second.gains, to_y)
    if np.ptp(x.values) == 0 or np.ptp(y.values) == 0:
        return row | {"reason": "one of the two profiles is constant over depth"}

    # coefficients with the intervals of the true profiles, and the correlation beyond depth
    shared = _shared_error(first, second, to_x, to_y)
    for name in COEFFICIENTS:
        found = agreement(x, y, name, shared=shared)
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    beyond = correlate_detrended(depth, x.values, y.values)
    row |= {"ceiling": ceiling(x, y, "spearman"), "kendall_ceiling": ceiling(x, y, "kendall")}
    row |= {"interval": _whose_errors(first, second, x, y), "status": "defined"}
    row |= {"beyond_depth": beyond.coefficient, "beyond_depth_low": beyond.low, "beyond_depth_high": beyond.high}
    row["shift_p"] = beyond.shift_p
    return row | {"reason": f"beyond depth: {beyond.reason}" if beyond.reason else ""}


def _whose_errors(first: Profile, second: Profile, x: Measured, y: Measured) -> str:
    known = [profile.name for profile, m in ((first, x), (second, y)) if m.error > 0]
    return "errors of both" if len(known) == 2 else f"errors of {known[0]} alone" if known else "no errors known"


def _shared_error(first: Profile, second: Profile, x: np.ndarray, y: np.ndarray) -> float:
    """Return the covariance of both profiles' errors that comes from common items; 0 without common items."""
    common = _common_items(first, second)
    counts = Counter(benchmark for benchmark, _ in common)
    common = [item for item in common if counts[item[0]] > 1]  # a single item shows no covariance
    if not common:
        return 0.0
    benchmark = [name for name, _ in common]
    parts = []
    for profile in (first, second):
        assert profile.paired is not None
        of, at = Counter(profile.paired.benchmark), {item: i for i, item in enumerate(_items(profile))}
        # the weight of the common items in this profile's score, benchmark by benchmark
        share = [counts[name] / of[name] * len(set(benchmark)) / len(of) for name in benchmark]
        parts.append(profile.paired.gains[:-1].mean(axis=1)[:, [at[item] for item in common]] * share)
    return shared_error(np.concatenate(parts), benchmark, x, y)


def _items(profile: Profile) -> list[tuple[str, str]]:
    """Return (benchmark, item) of every item; empty for a table."""
    return [] if profile.paired is None else [*zip(profile.paired.benchmark, profile.paired.item, strict=True)]


def _common_items(first: Profile, second: Profile) -> list[tuple[str, str]]:
    """Return the items on which both were scored, in the order of the first."""
    there = set(_items(second))
    return [item for item in _items(first) if item in there]


def _on_separate_items(first: Profile, other: Profile) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the first's contributions on each half of its items, and the other's on its items outside that half."""
    assert first.paired is not None
    assert other.paired is not None
    items, benchmark = _items(first), np.array(first.paired.benchmark)
    others_benchmark = np.array(other.paired.benchmark)
    for name, half in zip(("first half of the items", "second half"), split_items(benchmark), strict=True):
        in_half = {items[place] for place in half}
        outside = np.flatnonzero([item not in in_half for item in _items(other)])
        if len(outside):
            own = contributions_on_items(first.paired.gains, benchmark, half).mean(axis=1)
            others_own = contributions_on_items(other.paired.gains, others_benchmark, outside).mean(axis=1)
            yield name, own, others_own


def _reliability(profile: Profile) -> float:
    """Return the reliability of a profile; NaN without a profile."""
    if profile.reason:
        return float("nan")
    return measured(profile.gains, np.eye(len(profile.layers))).reliability


def _with_unique_names(profiles: Sequence[Profile]) -> list[Profile]:
    """Name the profiles by their paths where names repeat. Raises LensrlError when a path repeats."""
    places = [profile.path.resolve() for profile in profiles]
    for place, profile in zip(places, profiles, strict=True):
        if places.count(place) > 1:
            raise LensrlError(f"{profile.path} is given twice: a study agrees with itself")
    names = [profile.name for profile in profiles]
    return [replace(p, name=str(p.path)) if names.count(p.name) > 1 else p for p in profiles]
