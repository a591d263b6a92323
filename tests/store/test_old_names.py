"""A table is a method and a fact is a property; the names of older versions still work, and say so."""

import inspect
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lensrl
from lensrl.store.patch import PatchResult
from lensrl.store.run import Run
from lensrl.store.runs import Runs
from lensrl.store.study import Study
from tests.store.synthetic import write_full_run

TABLES = ("scores", "training", "completions", "training_completions", "probe")  # properties in version 0.2


def public_classes() -> list[type]:
    """Return the public classes of the package, and those that their attributes lead to."""
    named = (getattr(lensrl, name) for name in lensrl.__all__)
    return [*filter(inspect.isclass, named), Runs, PatchResult]


def properties(of: type) -> Iterator[tuple[str, str]]:
    """Yield the name of each public property of a class, and the type that it says it returns."""
    for name, member in inspect.getmembers(of):
        function = member.fget if isinstance(member, property) else getattr(member, "func", None)
        if not name.startswith("_") and isinstance(member, property | cached_property) and function is not None:
            yield name, str(inspect.signature(function).return_annotation)


def test_no_property_is_a_table() -> None:
    found = {f"{of.__name__}.{name}": kind for of in public_classes() for name, kind in properties(of)}
    assert {"Run.score", "Run.has_scores", "Study.seeds"} <= found.keys()
    assert {name for name, kind in found.items() if "DataFrame" in kind} == {"Run.items"}  # an old name, see below


def test_every_table_of_a_run_and_of_a_study_is_a_method(small_study: Study) -> None:
    run = small_study["full-rl"]
    for name in (*TABLES, "scores_by_item", "delta_norms", "layer_delta_norms"):
        assert isinstance(getattr(run, name)(), pd.DataFrame), name
    for name in ("scores", "contributions", "benchmarks", "patches", "completions", "clipped_steps"):
        assert isinstance(getattr(small_study, name)(), pd.DataFrame), name


@pytest.mark.parametrize("name", ["scores", "training", "probe"])
def test_a_table_of_a_run_may_be_read_without_a_call_and_warns(tmp_path: Path, name: str) -> None:
    write_full_run(tmp_path / "run.h5")
    with Run(tmp_path / "run.h5") as run:
        table, uncalled = getattr(run, name)(), getattr(run, name)
        column = table.columns[0]
        for old, new in (
            (lambda: uncalled[column].tolist(), table[column].tolist()),
            (lambda: uncalled.columns.tolist(), table.columns.tolist()),
            (lambda: len(uncalled), len(table)),
            (lambda: [*uncalled], [*table]),
            (lambda: repr(uncalled), repr(table)),
        ):
            with pytest.warns(DeprecationWarning, match=rf"type run.{name}\(\)"):
                assert old() == new


def test_items_is_the_old_name_of_scores_by_item(tmp_path: Path) -> None:
    write_full_run(tmp_path / "run.h5")
    with Run(tmp_path / "run.h5") as run, pytest.warns(DeprecationWarning, match="scores_by_item"):
        assert run.items.equals(run.scores_by_item())


def test_runs_have_the_names_of_the_command_line(small_study: Study) -> None:
    with pytest.warns(DeprecationWarning, match="one is called from_run now"):
        old = lensrl.compare_layers(small_study, one="layer-3")  # pyright: ignore[reportCallIssue]
    np.testing.assert_array_equal(old, lensrl.compare_layers(small_study, from_run="layer-3"))
