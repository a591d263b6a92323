"""What `tests.extras` asks pip for, and what it takes for a failure. `make test-ranges` makes the environments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

from tests.extras import LEFT_OUT, TESTS, did_not_pass, extras
from tests.ranges import ROOT, pins, project


def test_both_ends_of_every_extra_are_asked_for() -> None:
    stated = project()["optional-dependencies"]
    asked = [one for each in extras().values() for one in each]
    assert {*stated} == {*extras()} | LEFT_OUT
    assert [str(one) for one in asked] == pins("newest", asked)
    oldest = [Requirement(one) for one in pins("oldest", asked)]
    assert {"peft", "ray", "hdf5plugin", "bitsandbytes", "xarray", "h5netcdf"} < {one.name for one in oldest}
    for lowest, whole in zip(oldest, asked, strict=True):
        (pinned,) = lowest.specifier
        (lower,) = (one for one in whole.specifier if one.operator == ">=")
        assert (lowest.name, pinned.operator, pinned.version) == (whole.name, "==", lower.version)


def test_every_extra_has_a_test_and_every_test_exists() -> None:
    assert {*TESTS} == {*extras()}
    for name, tests in TESTS.items():
        assert tests, name
        for test in tests:
            file, _, function = test.partition("::")
            assert f"def {function or 'test_'}" in (ROOT / file).read_text(encoding="utf-8"), test


def test_a_test_that_is_skipped_has_not_passed(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_skipped(): pytest.importorskip('no_such_package')\n"
        "def test_wrong(): assert False\n",
        encoding="utf-8",
    )
    (tmp_path / "test_whole_file.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1
    assert did_not_pass(report) == ["test_whole_file: skipped", "test_skipped: skipped", "test_wrong: failure"]
