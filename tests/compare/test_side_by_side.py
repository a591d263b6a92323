"""Parts measured side by side: their order, their errors, and the memory that is left."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lensrl.compare.side_by_side import side_by_side


def test_results_keep_the_order_of_the_parts() -> None:
    done: list[int] = []
    assert side_by_side(lambda part: part**2, range(20), done.append) == [part**2 for part in range(20)]
    assert done[-1] == 20


def test_an_error_of_a_part_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 / part, [2, 1, 0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and asks the C library of GNU")
def test_freed_memory_is_returned_to_the_system() -> None:
    """Arrays of many sizes leave hundreds of megabytes with the C library otherwise."""

    def measure(part: int) -> float:
        held = [np.ones(part * 100_000 + number * 50_000) for number in range(10)]
        return float(sum(array[0] for array in held))

    before = _resident()
    side_by_side(measure, [*range(40, 1, -1)] * 2)
    assert _resident() - before < 100


def _resident() -> float:
    """Return the megabytes of memory that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
