"""The sentence on sharpening, on studies in which full RL solves what the base sometimes solves, or something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensrl import open_study
from lensrl.judge.sharpening import sharpening
from lensrl.store.names import run_path
from tests.store.synthetic import (
    PARAMETERS,
    before_weights,
    header,
    make_study,
    score_arrays,
    write_run,
)

OFTEN, NEVER = [1.0, 0.0, 1.0, 0.0], [0.0] * 4  # four samples of an item
RIGHT = [1.0] * 4


@pytest.mark.parametrize(
    ("full", "layer", "sentence"),
    [
        # The base solves half of its samples of 60 items, and none of 40.
        ([RIGHT] * 60 + [NEVER] * 40, [RIGHT] * 48 + [OFTEN] * 22 + [NEVER] * 30, True),
        ([OFTEN] * 60 + [RIGHT] * 40, [OFTEN] * 60 + [NEVER] * 40, False),
    ],
    ids=["sharpened", "found"],
)
def test_only_a_gain_on_what_the_base_already_solves_is_called_sharpening(
    tmp_path: Path, full: list[list[float]], layer: list[list[float]], sentence: bool
) -> None:
    folder = make_study(tmp_path / "study")
    for run, scores in (("base", [OFTEN] * 60 + [NEVER] * 40), ("full-rl", full), ("layer-0", layer)):
        write_run(
            run_path(folder, run, 0), header(run), PARAMETERS, before_weights(), scores=score_arrays(np.array(scores))
        )
    with open_study(folder) as study:
        said = sharpening(study)
    if not sentence:
        assert said == ""
        return
    # Base, full RL, layer: 0.3, 0.6, 0.59 in the mean; 0.6, 0.6, 0.7 at pass@4.
    assert said == (
        "full RL sharpened: it closes 0.43 of the gap to 1 in the mean score, 0.00 at pass@4; "
        "1 of 1 layers alone gain more than full RL at pass@4, 0 in the mean score"
    )
