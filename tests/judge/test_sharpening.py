"""The sentences on sharpening, on studies in which full RL solves what the base sometimes solves, or something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensrl import open_study, write_report
from lensrl.judge.sharpening import sharpening
from lensrl.store.names import run_path
from tests.cli.typed import lensrl
from tests.show.planted import PROVENANCE
from tests.store.synthetic import (
    PARAMETERS,
    activations,
    before_weights,
    header,
    make_study,
    probe,
    score_arrays,
    training,
    write_run,
)

OFTEN, NEVER = [1.0, 0.0, 1.0, 0.0], [0.0] * 4  # four samples of an item
RIGHT = [1.0] * 4


BASE = [OFTEN] * 60 + [NEVER] * 40
# The base solves half of its samples of 60 items, and none of 40.
SHARPENED = {
    "base": BASE,
    "full-rl": [RIGHT] * 60 + [NEVER] * 40,
    "layer-0": [RIGHT] * 48 + [OFTEN] * 22 + [NEVER] * 30,
}
SAID = [
    # Base, full RL, layer: 0.3, 0.6, 0.59 in the mean; 0.6, 0.6, 0.7 at pass@4.
    "Full RL sharpens: it closes 0.43 [0.33, 0.53] of the gap to 1 in the mean score, and 0.00 [0.00, 0.00] at pass@4.",
    "1 of 1 layers alone certainly gains more than full RL at pass@4, and not in the mean score: 0.",
]
FOUND = {"base": BASE, "full-rl": [OFTEN] * 60 + [RIGHT] * 40, "layer-0": BASE}
# The layer solves 3 more items than full RL, which is within the error: 0.03 with a standard error of 0.017.
BY_LUCK = {"base": BASE, "full-rl": [RIGHT] * 80 + [NEVER] * 20, "layer-0": [OFTEN] * 83 + [NEVER] * 17}


def study_of(folder: Path, scores: dict[str, list[list[float]]]) -> Path:
    make_study(folder)
    for run, values in scores.items():
        about = replace(header(run), provenance=PROVENANCE)
        curve = None if run == "base" else training()
        arrays = score_arrays(np.array(values))
        write_run(
            run_path(folder, run, 0), about, PARAMETERS, before_weights(), scores=arrays, training=curve,
            probe=probe(), activations=activations(),
        )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("scores", "said"), [(SHARPENED, SAID), (FOUND, []), (BY_LUCK, [])], ids=["sharpened", "found", "by luck"]
)
def test_only_a_certain_gain_on_what_the_base_already_solves_is_called_sharpening(
    tmp_path: Path, scores: dict[str, list[list[float]]], said: list[str]
) -> None:
    with open_study(study_of(tmp_path / "study", scores)) as study:
        assert sharpening(study) == said


@pytest.mark.parametrize(("scores", "said"), [(SHARPENED, SAID), (BY_LUCK, [])], ids=["sharpened", "by luck"])
def test_terminal_and_page_say_the_same(tmp_path: Path, scores: dict[str, list[list[float]]], said: list[str]) -> None:
    folder = study_of(tmp_path / "study", scores)
    printed = lensrl("contribution", folder).stdout
    with open_study(folder) as study:
        page = write_report(study).read_text(encoding="utf-8")
    assert "The contribution by other scores" in page
    for text in (" ".join(each.split()) for each in (printed, page)):  # split at no-break spaces, too
        assert [sentence for sentence in SAID if sentence in text] == said
        assert ("Full RL sharpens" in text, "alone certainly" in text) == (bool(said), bool(said))
