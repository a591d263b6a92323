"""The options of `lensrl run`, above all for a Ray cluster: contradictions are refused before anything is loaded."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from lensrl.recipe import Recipe, load_recipe, parse_recipe
from tests.cli.typed import lensrl

RECIPE = 'model = "tiny:qwen3"\ntask = "arithmetic"\n[engine]\nnum_cpus = 2\nnum_gpus = 0.25\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--address", "auto"], "--address is for a Ray cluster: add --engine ray"),
        (["--num-gpus", "1"], "--num-gpus is for a Ray cluster: add --engine ray"),
        (["--engine", "ray", "--num-gpus", "1.5"], "engine.num_gpus: above 1 it must be a whole number"),
        (["--engine", "ray", "--num-cpus", "-1"], "engine.num_cpus: Input should be greater than or equal to 0"),
        (["--engine", "ray", "--devices", "0"], "--devices is for processes on this machine"),
        (["--engine", "ray", "--slurm"], "two ways to use a cluster"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1: "),
        (["--engine", "ray", "--address", "ray://head:10001"], "the address of a Ray client: run lensrl on a node"),
        (["--devices", ""], "--devices names no GPU; write --devices 0,1"),
        (["--devices", ",", "--workers", "2"], "--devices names no GPU; write --devices 0,1"),
        (
            ["--devices", "0,1,0"],
            "--devices names GPU 0 2 times; for 2 workers on each GPU write --devices 0,1 --per-device 2",
        ),
        (["--only", "base", "--only", "full-rl"], "--only is given twice, and takes one value"),
    ],
)
def test_contradictions_are_one_line(recipe: Path, options: list[str], line: str) -> None:
    if find_spec("ray") is None and "ray://head:10001" in options:
        pytest.skip("Ray is not installed")
    done = lensrl("run", recipe, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert not recipe.with_suffix("").exists()


def test_the_table_of_a_worker_is_read_and_is_no_part_of_the_study(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert (loaded.engine.num_cpus, loaded.engine.num_gpus) == (2, 0.25)
    kept = loaded.model_dump(mode="json")
    assert "engine" not in json.loads(json.dumps(kept))
    other: Recipe = parse_recipe(kept, "kept")
    assert other.engine.num_cpus == 1
    assert loaded.conflict(other) is None
