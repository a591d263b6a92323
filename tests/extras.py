"""Whether each extra of pyproject.toml works at the oldest and at the newest version of its range.

    python -m tests.extras [--only oldest]

For each end, one environment with all extras at that end stands over the one that this runs in. The tests below run
there, in one process. A test that is skipped there has not tested its extra, and counts as failed. vLLM needs a GPU,
so the extra `vllm` is left out. Where pip cannot install an end, the exit code is 3.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement

from tests.ranges import ROOT, VERSIONS, overlay, pins, project

LEFT_OUT = {"vllm"}
WRONG = ("skipped", "failure", "error")  # elements of a JUnit report
TESTS = {  # the fewest that make lensrl use the packages
    "agentic": ["tests/tasks/test_textworld.py::test_the_reference_of_every_game_ends_its_quest"],
    "compression": ["tests/store/test_compression.py::test_a_compressed_run_gives_the_same_as_one_that_is_not"],
    "gym": [
        "tests/tasks/test_gym.py::test_a_data_set_makes_the_same_disjoint_items_each_time_and_accepts_its_own_answers",
        "tests/tasks/test_gym.py::test_the_last_answer_in_tags_counts",
        "tests/tasks/test_gym.py::test_what_a_verifier_evaluates_is_bounded",
    ],
    "peft": [
        "tests/compare/test_adapter.py::test_peft_opens_an_adapter",
        "tests/models/test_adapter.py::test_an_adapter_is_merged_as_peft_merges_it",
    ],
    "ray": ["tests/train/test_on_ray.py::test_what_goes_wrong_on_a_node_is_one_line_here"],
    "tensorboard": ["tests/train/test_trackers.py::test_tensorboard_holds_the_curve_of_the_run"],
    "trackio": ["tests/train/test_trackio.py"],
    "8bit": ["tests/train/test_8bit.py"],
    "wandb": ["tests/train/test_trackers.py::test_wandb_gets_a_run_of_its_own_in_the_group_of_the_study"],
    "xarray": [
        "tests/store/test_run.py::test_xarray_sees_named_dimensions_and_the_same_numbers",
        "tests/store/test_plain_hdf5.py::test_a_tree_of_an_open_run_reads_the_same_with_its_labels_as_text",
    ],
}


def extras() -> dict[str, list[Requirement]]:
    """Return what each extra that can be tested asks for."""
    found = project()["optional-dependencies"]
    return {name: [*map(Requirement, asked)] for name, asked in found.items() if name not in LEFT_OUT}


def did_not_pass(report: Path) -> list[str]:
    """Return the tests of a JUnit report that were skipped, failed or had an error, each with what it was."""
    cases = ElementTree.parse(report).iter("testcase")
    return [f"{case.get('name')}: {one.tag}" for case in cases for one in case if one.tag in WRONG]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["oldest", "newest"])
    arguments = parser.parse_args()
    asked = [one for each in extras().values() for one in each]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]), "OMP_NUM_THREADS": "1"}
    failed = False
    with tempfile.TemporaryDirectory(prefix="lensrl-extras-") as scratch:
        for end in ("oldest", "newest") if arguments.only is None else (arguments.only,):
            python, report = overlay(Path(scratch, end), pins(end, asked)), Path(scratch, f"{end}.xml")
            versions = subprocess.check_output([python, "-c", VERSIONS % ([o.name for o in asked],)], text=True).strip()
            tests = [test for each in TESTS.values() for test in each]
            options = ["-n", "0", "-m", "", "-p", "no:cacheprovider", "--disable-warnings", f"--junitxml={report}"]
            done = subprocess.run([python, "-m", "pytest", *options, *tests], cwd=ROOT, env=os.environ | paths)
            shutil.rmtree(python.parents[1])
            wrong = did_not_pass(report) or [f"pytest ended with {done.returncode}"] * (done.returncode != 0)
            print(f"{end}: {versions}: {'; '.join(wrong) or 'all tests passed'}", flush=True)
            failed = failed or bool(wrong)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
