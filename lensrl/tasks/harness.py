"""Scores that lm-evaluation-harness has made: its files `samples_TASK_TIME.jsonl`, written with `--log_samples`.

A row is the result of one item under one filter: `doc_id`, `filter`, `metrics` (names), a value under the name of each
metric, and three hashes (`doc_hash`, `prompt_hash`, `target_hash`) of what was asked, as version 0.4.13 of the harness
writes them (`lm_eval/evaluator.py`). Two results are of one item where all three hashes are equal.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from lensrl.errors import RecipeError, did_you_mean
from lensrl.recipe import HarnessTask, Samples
from lensrl.tasks.rows import Row, place, read_rows

HASHES = ("doc_hash", "prompt_hash", "target_hash")
_NAMED = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[\d.\-]+\.jsonl(\.gz)?")  # as the harness names a file

Key = tuple[str, ...]  # the three hashes, and which of the items with these hashes it is


@dataclass(frozen=True)
class HarnessScores:
    """The scores of one model, in the order of the base's items. `key` tells an item from all others."""

    benchmark: list[str]
    item: list[str]
    key: list[Key]
    score: Float64[np.ndarray, " item"]

    @property
    def digest(self) -> str:
        """The sha256 over the benchmarks and the hashes of the items, in their order."""
        lines = (f"{name} {' '.join(key)}\n" for name, key in zip(self.benchmark, self.key, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Harness:
    """The base's results, which say what the items are, and a reader of the results of other models.

    Raises RecipeError for files that are no samples of the harness, for several metrics or filters of which the
    settings name none, and for values that are not numbers.
    """

    def __init__(self, settings: HarnessTask) -> None:
        self.files = [samples.file for samples in settings.base]
        self.benchmarks = _benchmarks(self.files)
        rows = {name: _read(file) for name, file in zip(self.benchmarks, self.files, strict=True)}
        self.filter = _choose("filter", settings.filter, [_filters(rows[name]) for name in rows], self.files)
        kept = {name: [row for row in rows[name] if _filter(row) == self.filter] for name in rows}
        self.metric = _choose("metric", settings.metric, [_metrics(kept[name]) for name in kept], self.files)
        benchmark, item, key, score = [], [], [], []
        for name, file in zip(self.benchmarks, self.files, strict=True):
            for found, row in self._scores(file, kept[name]).items():
                benchmark.append(name)
                item.append(f"{row['doc_id']}-{found[0][:12]}")
                key.append(found)
                score.append(float(row[self.metric]))
        self.base = HarnessScores(benchmark, item, key, np.array(score))

    def read(self, samples: Sequence[Samples]) -> HarnessScores:
        """Read the results of another model on the base's items.

        Raises RecipeError for the first item that one of the two models has and the other has not.
        """
        files = [one.file for one in samples]
        if len(files) != len(self.files):
            raise RecipeError(
                f"samples {files[0]}: {len(files)} files, and the base has {len(self.files)}: give as many"
            )
        score: list[float] = []
        for name, file, theirs in zip(self.benchmarks, files, self.files, strict=True):
            found = self._scores(file, [row for row in _read(file) if _filter(row) == self.filter])
            asked = [key for key, of in zip(self.base.key, self.base.benchmark, strict=True) if of == name]
            _check_pairs(found, asked, file, theirs)
            score += [float(found[key][self.metric]) for key in asked]
        return HarnessScores(self.base.benchmark, self.base.item, self.base.key, np.array(score))

    def _scores(self, file: Path, rows: Sequence[Row]) -> dict[Key, Row]:
        """Return the rows of a file under one filter by the key of their item, in the order of `doc_id`."""
        if not rows:
            raise RecipeError(f"samples {file}: no row has the filter {self.filter!r}")
        twice = next((doc for doc, count in Counter(row["doc_id"] for row in rows).items() if count > 1), None)
        if twice is not None:
            raise RecipeError(f"samples {file}: doc_id {twice} comes twice: the file holds two evaluations, give one")
        found: dict[Key, Row] = {}
        seen: Counter[Key] = Counter()
        for row in sorted(rows, key=lambda row: row["doc_id"]):
            value = row.get(self.metric)
            if not _is_number(value):
                raise RecipeError(
                    f"samples {file}: {self.metric} of doc_id {row['doc_id']} is {value!r}, which is no finite number"
                )
            hashes = tuple(str(row[name]) for name in HASHES)
            found[(*hashes, str(seen[hashes]))] = row  # a benchmark may ask one question twice
            seen[hashes] += 1
        return found


def _read(file: Path) -> list[Row]:
    rows = []
    for number, row in read_rows(file):
        absent = next((name for name in ("doc_id", *HASHES) if name not in row), None)
        if absent is not None:
            raise RecipeError(
                f"{place(file, number)} has no {absent}: give a samples_*.jsonl of lm-evaluation-harness 0.4.3 or later"
            )
        if type(row["doc_id"]) is not int:
            raise RecipeError(
                f"{place(file, number)}: doc_id is {row['doc_id']!r}, and the harness writes a whole number"
            )
        rows.append(row)
    return rows


def _benchmarks(files: Sequence[Path]) -> list[str]:
    """Return the name of each file's benchmark: the harness's name of the task, where the name of the file says it."""
    named = [_NAMED.fullmatch(file.name) for file in files]
    names = [found[1] if found else f"harness-{i}" for i, found in enumerate(named, start=1)]
    if len(set(names)) < len(names):
        raise RecipeError(f"samples: two files are of one task ({', '.join(names)}); give one for each task")
    return ["harness"] if names == ["harness-1"] else names


def _filter(row: Row) -> str:
    return str(row.get("filter", "none"))


def _filters(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(map(_filter, rows)))


def _metrics(rows: Sequence[Row]) -> list[str]:
    """Return the metrics that have a number in every row."""
    names = dict.fromkeys(name for row in rows for name in row.get("metrics", ()))
    return [name for name in names if all(_is_number(row.get(name)) for row in rows)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _choose(what: str, asked: str | None, known: Sequence[Sequence[str]], files: Sequence[Path]) -> str:
    """Return the filter or the metric to use, of those that all files have. Raises RecipeError where it is unclear."""
    shared = [name for name in known[0] if all(name in names for names in known)]
    where = f"samples {', '.join(file.name for file in files)}"
    if asked is not None:
        if asked not in shared:
            raise RecipeError(f"{where}: no {what} {asked!r}{did_you_mean(asked, shared)}")
        return asked
    if len(shared) != 1:
        listed = ", ".join(shared) or f"none that is {'in every file' if what == 'filter' else 'a number in every row'}"
        choice = f"; choose one: --{what} {shared[0]} (in a recipe task.{what})" if shared else ""
        raise RecipeError(f"{where}: {len(shared)} {what}s: {listed}{choice}")
    return shared[0]


def _check_pairs(found: dict[Key, Row], asked: Sequence[Key], file: Path, base: Path) -> None:
    """Raise RecipeError for the first item without its pair, and say whether it was asked in other words."""
    for key in asked:
        if key not in found:
            other = next((row for row in found.values() if row["doc_hash"] == key[0]), None)
            if other is not None:
                differs = next(
                    (n for n, of in zip(HASHES, key, strict=False) if other[n] != of), "number of its copies"
                )
                raise RecipeError(
                    f"samples {file}: doc_id {other['doc_id']} (doc_hash {key[0][:12]}) has another {differs} than in "
                    f"{base}: score both models with the same prompts and answers"
                )
            raise RecipeError(f"samples {file} lack an item of {base}: doc_hash {key[0][:12]}; score the same items")
    known = {*asked}
    extra = next((row for key, row in found.items() if key not in known), None)
    if extra is not None:
        raise RecipeError(
            f"samples {file} hold an item that {base} lacks: doc_id {extra['doc_id']} (doc_hash "
            f"{str(extra['doc_hash'])[:12]}); score the same items"
        )
