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
    # 10 of 100 items differ by 1 at pass@4: 1.984 standard errors of 0.0302. In the mean, 12 differ by -0.5, 10 by 0.5.
    "At pass@4 the order turns. Full RL solves 0.600; every one of the single layers solves more, 0.700 on average "
    "(difference 0.100 [0.040, 0.160]). The difference in the mean score is -0.010 [-0.057, 0.037].",
    "So full RL is right more often, but solves fewer items in 4 samples than layers alone.",
]
FOUND = {"base": BASE, "full-rl": [OFTEN] * 60 + [RIGHT] * 40, "layer-0": BASE}
# The layer solves 3 more items than full RL, which is within the error: 0.03 with a standard error of 0.017.
BY_LUCK = {"base": BASE, "full-rl": [RIGHT] * 80 + [NEVER] * 20, "layer-0": [OFTEN] * 83 + [NEVER] * 17}
UNCERTAIN = [
    "At pass@4 the order turns. Full RL solves 0.800; every one of the single layers solves more, 0.830 on average "
    "(difference 0.030 [-0.004, 0.064]). The difference in the mean score is -0.385 [-0.434, -0.336].",
    "The interval at pass@4 contains 0: the turn is not certain.",
]
# Of two layers, one is above full RL within the error.
ONE_OF_TWO = BY_LUCK | {"layer-1": [OFTEN] * 80 + [NEVER] * 20}


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
    ("scores", "said"),
    [(SHARPENED, SAID), (FOUND, []), (BY_LUCK, UNCERTAIN), (ONE_OF_TWO, [])],
    ids=["sharpened", "found", "by luck", "one of two"],
)
def test_sharpening_is_said_where_it_is_so_and_how_certain_it_is(
    tmp_path: Path, scores: dict[str, list[list[float]]], said: list[str]
) -> None:
    with open_study(study_of(tmp_path / "study", scores)) as study:
        assert sharpening(study) == said


@pytest.mark.parametrize(("scores", "said"), [(SHARPENED, SAID), (FOUND, [])], ids=["sharpened", "found"])
def test_terminal_and_page_say_the_same(tmp_path: Path, scores: dict[str, list[list[float]]], said: list[str]) -> None:
    folder = study_of(tmp_path / "study", scores)
    printed = lensrl("contribution", folder).stdout
    with open_study(folder) as study:
        page = write_report(study).read_text(encoding="utf-8")
    assert "The contribution by other scores" in page
    for text in (" ".join(each.split()).replace("\N{MINUS SIGN}", "-") for each in (printed, page)):
        assert [sentence for sentence in SAID if sentence in text] == said
        assert ("Full RL sharpens" in text, "the order turns" in text) == (bool(said), bool(said))
