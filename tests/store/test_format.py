"""The format's description says what the files hold: every dataset, axis, dtype and attribute, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensrl import run_study
from lensrl.recipe import Recipe
from lensrl.store.file.checked import axis_names
from lensrl.store.file.layout import ATTRIBUTES
from lensrl.store.patch import PatchKey, PatchResult, write_patch
from lensrl.store.verify import check_file

TEXT = (Path(__file__).parents[2] / "runs" / "FORMAT.md").read_text(encoding="utf-8")
RUN, PATCH = TEXT[TEXT.index("## Run file") :].split("## Patching result")


def table(section: str, heading: str) -> list[list[str]]:
    """The cells of the table whose first column has this heading."""
    lines = section[section.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def files(folder: Path) -> Iterator[h5py.File]:
    for name in ("base.h5", "full-rl.seed-0.h5", "layer-3.seed-0.h5"):
        with h5py.File(folder / name, locking=False) as file:
            yield file


@pytest.fixture
def patch_file(tmp_path: Path) -> Path:
    key = PatchKey("weights", "block", (1,), "full-rl", "base", 0)
    metrics = {name: np.zeros((3, 2)) for name in ("score", "reference_logprob", "logit_difference")}
    return write_patch(tmp_path, PatchResult(key, metrics, ["a", "b"], {"donor": "x"}, {}))


def pattern(name: str) -> str:
    return re.escape(name).replace("PART", r"(\d+|embed|final_norm|lm_head)").replace("NAME", "[^/]+").replace(
        "STEP", r"\d+"
    )  # fmt: skip


def check(file: h5py.File, rows: list[list[str]]) -> set[str]:
    """Compare every dataset with its row; the names of the rows that were met."""
    met = set()
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, node: found.update({name: node}) if isinstance(node, h5py.Dataset) else None)
    for name, dataset in found.items():
        if dataset.is_scale:
            continue
        matching = [
            row for row in rows if re.fullmatch(pattern(row[0]), re.sub(r"^snapshots/\d+/(?=repairs/)", "", name))
        ]
        assert len(matching) == 1, name
        row, axes = matching[0], [re.sub(r"_\d+$", "_N", a) for a in axis_names(dataset)]
        expected = row[1].split(", ")
        assert axes == expected or ("row_N" in expected and axes == ["entry_N"]), name
        dtype = "string" if dataset.dtype.kind == "S" else str(dataset.dtype)
        assert dtype == row[2], name
        met.add(row[0])
    return met


@pytest.fixture
def agents_run(tmp_path: Path) -> Path:
    """A run of GiGPO, one step long, also scored on arithmetic."""
    recipe = Recipe.model_validate({
        "model": "tiny:qwen3", "task": {"name": "corridor", "max_turns": 2}, "layers": [],
        "rl": {"algorithm": "gigpo", "steps": 1, "prompts_per_step": 2, "completions_per_prompt": 2,
               "max_completion_tokens": 4, "updates_per_rollout": 2, "kl_beta": 0.01},
        "evaluation": {"items": 2, "samples": 1, "arithmetic": {"samples": 2, "max_completion_tokens": 3}},
        "also": [{"task": "arithmetic"}], "store": {"probe_items": 1},
    })  # fmt: skip
    run_study(recipe, tmp_path / "agent").close()
    return tmp_path / "agent" / "full-rl.seed-0.h5"


def test_every_dataset_of_a_run_is_described_and_every_description_is_of_a_dataset(
    small_study_folder: Path, agents_run: Path
) -> None:
    rows = table(RUN, "dataset")
    met = set().union(*(check(file, rows) for file in files(small_study_folder)))
    assert check_file(agents_run).status == "good"
    with h5py.File(agents_run, locking=False) as file:
        met |= check(file, rows)
    assert met == {row[0] for row in rows}


def test_every_dataset_of_a_patching_result_is_described(patch_file: Path) -> None:
    rows = table(PATCH, "dataset")
    with h5py.File(patch_file) as file:
        assert check(file, rows) == {row[0] for row in rows}


def test_the_attributes_are_those_of_the_description(small_study_folder: Path, patch_file: Path) -> None:
    described = {row[0] for row in table(RUN, "attribute")}
    for file in files(small_study_folder):
        assert set(file.attrs) == described
    assert described == {*ATTRIBUTES["lensrl-run", 1], *ATTRIBUTES["lensrl-run", 2]}
    with h5py.File(patch_file) as file:
        assert set(file.attrs) == {row[0] for row in table(PATCH, "attribute")}


def test_the_axes_are_those_of_the_description(small_study_folder: Path) -> None:
    for file in files(small_study_folder):
        for name in [name for name in file if isinstance(file[name], h5py.Dataset)]:
            assert f"`{name}`" in RUN


def test_the_seal_can_be_checked_as_described(small_study_folder: Path, tmp_path: Path) -> None:
    code = TEXT.split("```python\n")[1].split("```")[0]
    path = small_study_folder / "full-rl.seed-0.h5"
    exec(code.replace("runs/tiny/full-rl.seed-0.h5", str(path)), {})
    content = bytearray(path.read_bytes())
    with h5py.File(path, locking=False) as file:
        dataset = file["deltas/3/mlp.up_proj.weight"]
        assert isinstance(dataset, h5py.Dataset)
        offset = dataset.id.get_offset()
    assert offset is not None
    content[offset] ^= 1
    (tmp_path / "changed.h5").write_bytes(content)
    with pytest.raises(AssertionError, match=r"deltas/3/mlp\.up_proj\.weight"):
        exec(code.replace("runs/tiny/full-rl.seed-0.h5", str(tmp_path / "changed.h5")), {})
