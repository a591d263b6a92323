"""Whether the oldest and the newest versions in pyproject.toml give the files that the tested versions give.

    python -m tests.ranges [--only oldest] [--torch]      # make test-ranges: both ends, without torch

For each end, a virtual environment with these versions of all that lensrl needs stands over the one that this runs in:
what those packages need is the tested version, except where pip needs another. A part of `runs/smoke.toml` is made
there and patched, and its files must hold the same numbers, bit for bit. `--torch` also takes torch's end: on Linux pip
brings CUDA along, to which these wheels are linked. Another torch may round otherwise: numbers may differ then by 1e-4
of themselves and by 1e-6 more. What differs at all is printed. Where pip cannot install an end, the exit code is 3.

CI takes both ends of torch, too (2.11.0: 2.7 GB to load; 2.14.1: 3.0 GB). `tests.extras` tests the extras.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement

from tests.train.test_engine import data

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("transformers", "trl", "transformer-lens", "torch", "numpy", "datasets", "huggingface-hub")
STUDY = """
import sys, lensrl
runs = ["base", "full-rl", "layer-7"]
lensrl.patch(lensrl.run_study(lensrl.load_recipe(sys.argv[1]), sys.argv[2], only=runs), layers=[7])
"""
RELATIVE, ABSOLUTE = 1e-4, 1e-6  # what another rounding may do
NOT_INSTALLED = 3  # exit code
VERSIONS = "from importlib.metadata import version; print(*(f'{n} {version(n)}' for n in %r), sep=', ')"


def project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def required(*, torch: bool) -> list[Requirement]:
    """Return the packages that lensrl needs, with their ranges."""
    return [one for one in map(Requirement, project()["dependencies"]) if torch or one.name != "torch"]


def pins(end: str, ranges: list[Requirement]) -> list[str]:
    """Return what pip is asked for: the lowest version of each package's range, or the whole range."""
    if end == "newest":
        return [str(one) for one in ranges]
    return [f"{one.name}=={next(s.version for s in one.specifier if s.operator == '>=')}" for one in ranges]


def overlay(folder: Path, asked: list[str]) -> Path:
    """Make an environment with these versions over the packages of this one. Returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    purelib = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    Path(purelib.strip(), "below.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", *asked]
    free = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}  # these are the tested versions
    done = subprocess.run(pip, env=free, capture_output=True, text=True)
    if done.returncode:
        print(f"not tested, for pip cannot install {', '.join(asked)}:\n{done.stderr}", file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    return python


def make_study(python: Path | str, folder: Path) -> None:
    """Make a part of the smoke study with the lensrl of this working tree, and patch it."""
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, "-c", STUDY, ROOT / "runs" / "smoke.toml", folder]
    done = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the study ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def differences(folder: Path, expected: Path) -> dict[str, float]:
    """Return by how much each dataset differs, in units of what rounding may do; infinity where it cannot be compared.

    A file or a dataset that only one of the studies has differs by infinity. What has equal bits is left out.
    """
    files = {path.relative_to(expected) for path in expected.rglob("*.h5")}
    made_files = {path.relative_to(folder) for path in folder.rglob("*.h5")}
    found = dict.fromkeys(sorted(map(str, files ^ made_files)), math.inf)
    for file in sorted(files & made_files):
        made, wanted = data(folder / file), data(expected / file)
        for name in sorted(made.keys() | wanted.keys()):
            by = difference(made[name], wanted[name]) if name in made and name in wanted else math.inf
            if by > 0:
                found[f"{file}: {name}"] = by
    return found


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two arrays over what rounding may do; 0 for the same bits."""
    if is_equal(one, other):
        return 0.0
    if one.dtype != other.dtype or one.shape != other.shape or one.dtype.kind != "f":
        return math.inf
    off = np.abs(one.astype(np.float64) - other) / (RELATIVE * np.abs(other) + ABSOLUTE)
    return float(np.nan_to_num(off, nan=np.inf).max())


def is_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays hold the same bits; texts, the same characters."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tolist() == other.tolist() if one.dtype.hasobject else one.tobytes() == other.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["oldest", "newest"])
    parser.add_argument("--torch", action="store_true", help="also torch: several GB")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="lensrl-ranges-") as scratch:
        expected = Path(scratch, "tested")
        make_study(sys.executable, expected)
        for end in ("oldest", "newest") if arguments.only is None else (arguments.only,):
            python = overlay(Path(scratch, f"{end}-environment"), pins(end, required(torch=arguments.torch)))
            versions = subprocess.check_output([python, "-c", VERSIONS % (SHOWN,)], text=True).strip()
            make_study(python, Path(scratch, end))
            shutil.rmtree(python.parents[1])  # gigabytes, with torch
            other = differences(Path(scratch, end), expected)
            files = len([*expected.rglob("*.h5")])
            said = "; ".join(f"{name} differs, by {by:.2g} of what rounding may do" for name, by in other.items())
            print(f"{end}: {versions}: {said or f'{files} equal files'}")
            failed = failed or max(other.values(), default=0.0) > (1.0 if arguments.torch else 0.0)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
