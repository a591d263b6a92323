"""The packages that programs may import."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lensrl.errors import LensrlError
from lensrl.tasks.sandbox import Outcome, Sandbox
from tests.tasks.sandbox.boxes import outcome


@pytest.fixture(scope="module")
def numpy_box() -> Iterator[Sandbox]:
    box = Sandbox(packages=["numpy"])
    yield box
    box.close()


@pytest.mark.parametrize(
    "program",
    [
        "import numpy as np\nassert np.allclose(np.linalg.inv(2 * np.eye(200)) @ np.ones(200), 0.5)",
        "from numpy.testing import assert_allclose\nassert_allclose([1.0], [1 + 1e-9])",
        "import numpy.fft, numpy.ma, numpy.polynomial, numpy.random",
        "import os, sys\nassert not os.environ\nassert not any('site-packages' in path for path in sys.path)",
        "x = bytearray(200 * 2**20)",  # memory is counted beside numpy's
    ],
)
def test_a_named_package_can_be_imported(numpy_box: Sandbox, program: str) -> None:
    assert outcome(numpy_box, program, timeout=5) == Outcome(True, "passed")


READ_ONLY = "PermissionError|OSError.*Read-only"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import scipy", "ModuleNotFoundError"),
        ("import pytest", "ModuleNotFoundError"),
        ("import numpy, os\nos.listdir(os.path.dirname(os.path.dirname(numpy.__file__)))", "PermissionError"),
        ("import numpy\nopen(numpy.__file__, 'a')", READ_ONLY),
        ("import numpy, os\nos.remove(numpy.__file__)", READ_ONLY),
        (
            "import numpy, os\nopen(os.path.dirname(numpy.__file__) + '/mine', 'w')",
            READ_ONLY,
        ),
        ("x = bytearray(300 * 2**20)", "MemoryError"),
    ],
)
def test_other_packages_and_writing_to_it_are_refused(numpy_box: Sandbox, program: str, reason: str) -> None:
    if "landlock" not in numpy_box.layers:
        pytest.skip("reading is confined by Landlock alone")
    result = outcome(numpy_box, program, timeout=5)
    assert not result.passed
    assert re.match(reason, result.reason)


def test_random_numbers_of_numpy_are_the_same_every_time(numpy_box: Sandbox) -> None:
    drawn = "import numpy\nraise ValueError(numpy.random.random())"
    reasons = {outcome(each, drawn, timeout=5).reason for each in (numpy_box, numpy_box, Sandbox(packages=["numpy"]))}
    assert reasons == {"ValueError: 0.5488135039273248"}  # the first number of MT19937 seeded with 0


def test_a_package_whose_own_imports_are_not_named_is_refused() -> None:
    with pytest.raises(LensrlError, match="cannot import scipy: No module named 'numpy'; packages must also name what"):
        Sandbox(packages=["scipy"]).run([("x = 1",)], timeout=1, memory=64)
