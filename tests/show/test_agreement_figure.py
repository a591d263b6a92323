"""The heat map of agreements holds every pair twice, in words and in colour."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensrl.judge.agreement import StudyAgreement
from lensrl.show.figures.agreement import draw_agreement
from lensrl.show.figures.style import canvas
from lensrl.show.words import Look


def found() -> StudyAgreement:
    studies = pd.DataFrame(
        {"study": ["a", "b", "c"], "reliability": [0.97, np.nan, np.nan], "reason": ["", "", "undefined: no gain"]}
    )
    pairs = pd.DataFrame(
        {
            "first": ["a", "a", "b"], "second": ["b", "c", "c"], "status": ["defined", "undefined", "undefined"],
            "spearman": [-0.5, np.nan, np.nan], "spearman_low": [-0.8, np.nan, np.nan],
            "spearman_high": [-0.1, np.nan, np.nan],
        }
    )  # fmt: skip
    return StudyAgreement(studies, pairs)


def test_cells_say_what_is_known_of_every_pair() -> None:
    axes = draw_agreement(canvas(Look(shown=False))[0], found(), title="title")
    said = {text.get_position(): text.get_text() for text in axes.texts}
    assert said[0, 1] == said[1, 0] == "−0.50\n[−0.80, −0.10]"
    assert said[2, 0] == said[1, 2] == "×"
    assert [said[i, i] for i in range(3)] == ["reliability\n0.97", "table", "no\nprofile"]
    array = axes.images[0].get_array()
    assert array is not None
    drawn = np.ma.filled(array, np.nan)
    assert drawn[0, 1] == drawn[1, 0] == -0.5
    assert np.isfinite(drawn).sum() == 2
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
