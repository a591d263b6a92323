"""A study of checkpoints alone, from its recipe to its report, as a person types it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lensrl.models.base import load_base
from tests.cli.typed import lensrl

RECIPE = """
model = "base"
task = "arithmetic"
layers = []

[checkpoints]
full-rl = "full"
{layers}
ends = {{ model = "ends", layers = [0, 7] }}

[rl]
max_completion_tokens = 5

[evaluation]
items = 48
samples = 2

[store]
probe_items = 6
"""
NOISE = 0.05
VERBS = [
    (["show"], "full-rl"),
    (["contribution"], "Layer sets"),
    (["deltas"], "rounding alone moves a weight by up to 0.4 %"),
    (["deltas", "--run", "layer-3", "--by", "component"], "attn"),
    (["cka", "--into", "ends"], "base and ends"),
    (["patch", "--layer", "3", "--what", "weights"], "block of full-rl into base"),
    (["patch", "--from", "ends", "--layer", "0", "--what", "activations"], "block of ends into base"),
    (["correlate"], "relative delta norm"),
    (["bottleneck"], "undetermined"),
    (["report"], "report.html"),
    (["verify"], "files are good"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model plays full RL. The base is this model with noise in its layers; a run takes back its own."""
    folder, good = tmp_path_factory.mktemp("checkpoints"), load_base("tiny:qwen3")
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: weights + NOISE * torch.randn(weights.shape, generator=generator)
        for name, weights in good.weights.items()
        if good.blocks.component(name) in ("attn", "mlp")
    }

    def without_noise(*layers: int) -> Any:
        return good.fresh({n: w for n, w in noisy.items() if good.blocks.layer(n) not in layers})

    without_noise().save_pretrained(folder / "base")
    good.tokenizer.save_pretrained(folder / "base")
    without_noise(*range(8)).bfloat16().save_pretrained(folder / "full")
    for layer in range(8):
        without_noise(layer).save_pretrained(folder / f"l{layer}")
    without_noise(0, 7).save_pretrained(folder / "ends")
    layers = "\n".join(f'layer-{layer} = "l{layer}"' for layer in range(8))
    (folder / "mine.toml").write_text(RECIPE.format(layers=layers))
    done = lensrl("run", "mine.toml", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"study mine: {folder / 'base'}, arithmetic, 10 runs from checkpoints" in done.stdout.replace("\n", " ")
    assert "all 11 runs done in mine" in done.stdout
    return folder / "mine"


@pytest.mark.parametrize(("typed", "said"), VERBS, ids=lambda value: "-".join(value) if isinstance(value, list) else "")
def test_every_verb_works_on_checkpoints(folder: Path, typed: list[str], said: str) -> None:
    done = lensrl(typed[0], folder, *typed[1:])
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_a_run_says_where_it_comes_from(folder: Path) -> None:
    full, single = (lensrl("show", folder / f"{run}.seed-0.h5").stdout for run in ("full-rl", "layer-3"))
    assert f"from checkpoint {folder.parent / 'full'}, stored as bfloat16" in full.replace("\n", " ")
    assert "rounding alone" in full
    assert "stored as float32" in single.replace("\n", " ")
    assert "rounding alone" not in single


def test_whatever_rests_on_rounded_deltas_says_so(folder: Path) -> None:
    for verb in ("deltas", "correlate", "bottleneck"):
        assert "Checkpoints stored as bfloat16: rounding alone" in " ".join(lensrl(verb, folder).stdout.split()), verb
    said = " ".join(lensrl("bottleneck", folder).stdout.split())
    assert "rounding alone would give" in said
    assert "of the delta norms of full RL (median layer)" in said
    assert "full-rl seed 0:" in said
    assert "rounding" not in lensrl("deltas", folder, "--run", "layer-3").stdout


def test_the_report_names_the_checkpoints_and_no_training(folder: Path) -> None:
    lensrl("report", folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Runs from checkpoints have no training curve." in page
    assert "10 from checkpoints" in page
    assert f"{folder.parent / 'full'}</td>" in page
    assert "rounding alone moves a weight by up to 0.4 %" in page
    assert "60 steps of" not in page


def test_a_checkpoint_that_moved_another_part_is_one_line(folder: Path) -> None:
    recipe = folder.parent / "wrong.toml"
    recipe.write_text(RECIPE.format(layers='layer-2 = "l3"'))
    done = lensrl("run", recipe)
    assert done.returncode == 2
    assert "layer-2: the run is said to train layer 2, and in" in done.stderr.replace("\n", " ")
    assert not list((folder.parent / "wrong").glob("*.h5"))
