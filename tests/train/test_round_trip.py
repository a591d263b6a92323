"""A study that was trained here goes out as Hugging Face folders and comes in again: nothing differs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lensrl
from lensrl import Study
from lensrl.recipe import Recipe
from tests.conftest import SMALL

LAYERS = (0, 3, 7)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(small_study_folder: Path) -> Iterator[Study]:
    with lensrl.open_study(small_study_folder) as study:
        yield study


@pytest.fixture(scope="module")
def returned(trained: Study, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Every run exported with its base, and taken in again as checkpoints, in a folder of the same name."""
    out = tmp_path_factory.mktemp("exported")
    names = dict.fromkeys(name for name, _ in trained.runs)
    places = {name: str(lensrl.save_pretrained(trained, name, out / name)) for name in names}
    runs = {name: place for name, place in places.items() if name not in ("base", "ends")}
    data = SMALL.model_dump(exclude={"rl", "sets"}) | {
        "model": places["base"], "layers": [], "rl": {"max_completion_tokens": 5},
        "checkpoints": runs | {"ends": {"model": places["ends"], "layers": [0, 7]}},
    }  # fmt: skip
    with lensrl.run_study(Recipe.model_validate(data), tmp_path_factory.mktemp("again") / trained.name) as study:
        yield study


def test_deltas_scores_and_activations_are_the_same_bits(trained: Study, returned: Study) -> None:
    assert [*returned.runs] == [*trained.runs]
    for key, run in returned.runs.items():
        before = trained.runs[key]
        assert run.fingerprint == before.fingerprint
        assert run.scores().equals(before.scores())
        assert run.scores_by_item().equals(before.scores_by_item())
        assert [*run.deltas] == [*before.deltas]
        for part in before.deltas:
            assert [*run.deltas[part]] == [*before.deltas[part]]
            for name, delta in before.deltas[part].items():
                assert run.deltas[part][name][...].tobytes() == delta[...].tobytes(), (key, name)
        for site, values in before.activations.items():
            assert run.activations[site][...].tobytes() == values[...].tobytes(), (key, site)


def test_contributions_are_the_same(trained: Study, returned: Study) -> None:
    assert returned.contributions().equals(trained.contributions())
    assert returned.set_contributions().equals(trained.set_contributions())


def test_patches_and_the_verdict_are_the_same(trained: Study, returned: Study) -> None:
    """The verdict reads the contributions, the deltas, the activations and the grafts of every layer."""
    for reverse in (False, True):
        mine, theirs = (lensrl.patch(s, layers=LAYERS, what="both", reverse=reverse) for s in (returned, trained))
        assert mine.equals(theirs)
    mine, theirs = lensrl.verdict(returned), lensrl.verdict(trained)
    assert {"sufficiency", "necessity"} <= {*theirs.correlations["predictor"]}
    assert repr(mine.as_dict()) == repr(theirs.as_dict())  # as text: NaN is not equal to itself
