"""Whether studies agree on their layer contribution profiles: other algorithms, tasks, models, or published tables.

    studies and tables  ->  profiles  ->  every pair on common depth  ->  agreement, its ceiling, beyond a trend

What agreement and its interval are, and where profiles with other numbers of layers meet: `lensrl.measures.agreement`.
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
from jaxtyping import Float64

from lensrl.errors import LensrlError
from lensrl.judge.claims import Beside
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
from lensrl.measures.correlation import correlate_detrended
from lensrl.measures.halves import contributions_on_items, split_items
from lensrl.store.study import Study

STUDY_COLUMNS = ["study", "path", "layers", "of", "seeds", "reliability", "errors", "reason"]
PAIR_COLUMNS = [
    "first", "second", "layers",
    *(f"{c}{end}" for c in COEFFICIENTS for end in ("", "_low", "_high")),
    "ceiling", "beyond_depth", "beyond_depth_low", "beyond_depth_high", "shift_p", "interval", "status", "reason",
]  # fmt: skip


@dataclass(frozen=True)
class StudyAgreement:
    """`studies`: one row each; `pairs`: one row for every two of them, by their names in `studies`.

    studies: study, path, layers (with a contribution), of (how many the model has), seeds, reliability (the share of
    the variance over layers that is not error), errors (which: `seeds and items`, `items`, `none: a table`), reason.

    pairs: first, second, layers (common positions), `spearman` and `kendall` each with `_low` and `_high` (95 %, of the
    true profiles' coefficient); `ceiling` (about what would be seen if the true profiles agreed wholly, from the
    reliability of both at these positions); `beyond_depth` (Pearson of what a quadratic in depth leaves, with its
    interval over layers and its circular-shift p; see
    `correlate_detrended`); `interval`: whose errors the intervals carry; `status`: `defined`, or `undefined` with
    the `reason`.
    """

    studies: pd.DataFrame
    pairs: pd.DataFrame

    def matrix(self, column: str = "spearman") -> pd.DataFrame:
        """Studies by studies, both ways; NaN on the diagonal and where a pair is undefined."""
        names = self.studies["study"].tolist()
        found = pd.DataFrame(np.nan, index=names, columns=names)
        for pair in self.pairs.to_dict("records"):
            found.loc[pair["first"], pair["second"]] = found.loc[pair["second"], pair["first"]] = pair[column]
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {"studies": self.studies.to_dict("records"), "pairs": self.pairs.to_dict("records")}


def agree(*sources: Study | str | Path) -> StudyAgreement:
    """Compare the profiles of two or more studies: open ones, their folders, or CSV files of contributions.

    >>> lensrl.agree("runs/grpo", "runs/dr-grpo", "runs/published/qwen3-1.7b-grpo-math.csv").pairs

    A table is taken as it is, so the interval of its agreement with a study carries the study's errors alone, and that
    of two tables does not exist. Raises LensrlError for fewer than two sources, the same one twice, or one that is
    neither a study nor a table.
    """
    if len(sources) < 2:
        raise LensrlError(
            f"{len(sources)} profile{'s' * (len(sources) != 1)} given, agreement needs at least two: name more studies "
            f"or tables (--contributions FILE.csv)"
        )
    profiles = _named([read_profile(source) for source in sources])
    studies = [
        (p.name, str(p.path), len(p.layers), p.n_layers, p.n_seeds, _reliability(p), p.errors, p.reason)
        for p in profiles
    ]
    pairs = [_pair(first, second) for first, second in combinations(profiles, 2)]
    return StudyAgreement(pd.DataFrame(studies, columns=STUDY_COLUMNS), pd.DataFrame(pairs, columns=PAIR_COLUMNS))


def others_beside(source: Study | str | Path, others: Sequence[Study | str | Path]) -> tuple[Beside, list[str]]:
    """For claim 8: by name, common depths and the contributions of `source` and of another study there; and limits.

    No item has a part in both: where two studies have items in common, they are put side by side twice, `source` on
    one half of its items and the other on what is not in it. A study without a profile is left out, and a limit says
    so.
    """
    if not others:
        return {}, []
    first, *rest = _named([read_profile(source) for source in (source, *others)])
    beside: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    limits: list[str] = []
    for other in rest:
        if first.reason or other.reason:
            limits += [f"Left out of claim 8, {other.name}: {other.reason}."] if other.reason else []
            continue
        depth, x, y = on_common_depth(first.depth, other.depth)
        if _common(first, other):
            for name, mine, theirs in _apart(first, other):
                beside[f"{other.name}, {name}"] = depth, x @ mine, y @ theirs
        else:
            beside[other.name] = depth, x @ _contribution(first), y @ _contribution(other)
    return beside, limits


def _pair(first: Profile, second: Profile) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(PAIR_COLUMNS, np.nan)
    row |= {"first": first.name, "second": second.name, "layers": 0, "interval": "", "status": "undefined"}
    for profile in (first, second):
        if profile.reason:
            return row | {"reason": f"{profile.name}: {profile.reason}"}
    depth, to_x, to_y = on_common_depth(first.depth, second.depth)
    row["layers"] = len(depth)
    if len(depth) < FEWEST_COMMON:
        return row | {"reason": f"{len(depth)} layers at depths that both have: at least {FEWEST_COMMON} are needed"}
    x, y = measured(first.gains, to_x), measured(second.gains, to_y)
    if np.ptp(x.values) == 0 or np.ptp(y.values) == 0:
        return row | {"reason": "one of the two profiles is constant over depth"}
    shared = _shared_error(first, second, to_x, to_y)
    for name in COEFFICIENTS:
        found = agreement(x, y, name, shared=shared)
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    beyond = correlate_detrended(depth, x.values, y.values)
    row |= {"ceiling": ceiling(x, y), "interval": _whose_errors(first, second, x, y), "status": "defined"}
    row |= {"beyond_depth": beyond.coefficient, "beyond_depth_low": beyond.low, "beyond_depth_high": beyond.high}
    row["shift_p"] = beyond.shift_p
    return row | {"reason": f"beyond depth: {beyond.reason}" if beyond.reason else ""}


def _whose_errors(first: Profile, second: Profile, x: Measured, y: Measured) -> str:
    known = [profile.name for profile, m in ((first, x), (second, y)) if m.error > 0]
    return "errors of both" if len(known) == 2 else f"errors of {known[0]} alone" if known else "no errors known"


def _shared_error(first: Profile, second: Profile, x: np.ndarray, y: np.ndarray) -> float:
    """From the items that both were scored on; 0 without any."""
    common = _common(first, second)
    counts = Counter(benchmark for benchmark, _ in common)
    common = [item for item in common if counts[item[0]] > 1]  # of a single one, what it shares cannot be told
    if not common:
        return 0.0
    benchmark = [name for name, _ in common]
    parts = []
    for profile in (first, second):
        assert profile.paired is not None
        of, at = Counter(profile.paired.benchmark), {item: i for i, item in enumerate(_items(profile))}
        # how much of this profile's score its common items are, benchmark by benchmark
        share = [counts[name] / of[name] * len(set(benchmark)) / len(of) for name in benchmark]
        parts.append(profile.paired.gains[:-1].mean(axis=1)[:, [at[item] for item in common]] * share)
    return shared_error(np.concatenate(parts), benchmark, x, y)


def _items(profile: Profile) -> list[tuple[str, str]]:
    return [] if profile.paired is None else [*zip(profile.paired.benchmark, profile.paired.item, strict=True)]


def _common(first: Profile, second: Profile) -> list[tuple[str, str]]:
    """The items that both were scored on, in the order of the first."""
    there = set(_items(second))
    return [item for item in _items(first) if item in there]


def _apart(first: Profile, other: Profile) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Contributions of the first on either half of its items, and of the other on its items outside of that half."""
    assert first.paired is not None
    assert other.paired is not None
    items, benchmark = _items(first), np.array(first.paired.benchmark)
    for name, half in zip(("first half of the items", "second half"), split_items(benchmark), strict=True):
        seen = {items[place] for place in half}
        outside = np.flatnonzero([item not in seen for item in _items(other)])
        if len(outside):
            mine = contributions_on_items(first.paired.gains, benchmark, half).mean(axis=1)
            theirs = contributions_on_items(other.paired.gains, np.array(other.paired.benchmark), outside).mean(axis=1)
            yield name, mine, theirs


def _contribution(profile: Profile) -> Float64[np.ndarray, " layer"]:
    return profile.gains.mean[:-1] / profile.gains.mean[-1]


def _reliability(profile: Profile) -> float:
    if profile.reason or profile.paired is None:
        return float("nan")
    return measured(profile.gains, np.eye(len(profile.layers))).reliability


def _named(profiles: Sequence[Profile]) -> list[Profile]:
    """Profiles whose names are all different: by their paths where the names are not enough."""
    places = [profile.path.resolve() for profile in profiles]
    for place, profile in zip(places, profiles, strict=True):
        if places.count(place) > 1:
            raise LensrlError(f"{profile.path} is given twice: a study agrees with itself")
    names = [profile.name for profile in profiles]
    return [replace(p, name=str(p.path)) if names.count(p.name) > 1 else p for p in profiles]
