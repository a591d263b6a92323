"""How much memory writing a run takes: a little, however large the model is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20

# The high-water mark of the process is reset when the weights are in memory, so that it shows what writing adds.
WRITE = """
import sys
from pathlib import Path
import numpy as np
from lensrl.store.file.deltas import Parameter
from tests.store.synthetic import header, write_run

path, sizes = Path(sys.argv[1]), [int(size) for size in sys.argv[2:]]
rng = np.random.default_rng(0)
before = {str(i): rng.standard_normal((size // 4096, 1024), np.float32) for i, size in enumerate(sizes)}
after = {name: weights * np.float32(1.001) for name, weights in before.items()}
parameters = [Parameter(name, "0", name, "mlp", weights.size, 1.0) for name, weights in before.items()]
small = {"0": before["0"][:8]}
write_run(path, header("full-rl"), [Parameter("0", "0", "0", "mlp", 8192, 1.0)], small, after={"0": after["0"][:8]})

def resident(line: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(line + ":")[1].split()[0])

Path("/proc/self/clear_refs").write_text("5")
start = resident("VmRSS")
write_run(path, header("full-rl"), parameters, before, after=after)
print(resident("VmHWM") - start)
"""


def can_reset_the_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not can_reset_the_high_water_mark(), reason="/proc/self/clear_refs cannot be written here")
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([12 * MIB] * 20, id="equal"),
        pytest.param([12 * MIB, *[2 * MIB] * 114], id="one much larger than the others"),
    ],
)
def test_writing_a_run_takes_less_memory_than_two_of_its_largest_tensors(tmp_path: Path, sizes: list[int]) -> None:
    path = tmp_path / "full-rl.seed-0.h5"
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(path), *map(str, sizes)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > sum(sizes)
    assert int(done.stdout) < 2 * max(sizes)
