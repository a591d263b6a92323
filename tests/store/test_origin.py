"""A run is not set beside results of another base model, or of other items."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lensrl import Study, open_study, patch, run_study
from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.recipe import MathTask, Recipe
from lensrl.store.origin import check_base, check_items
from lensrl.store.run import Run
from lensrl.tasks import Item
from lensrl.tasks.digest import digests_of
from tests.conftest import SMALL

ITEM = Item("1", "1+1=", "2", "sums")


def test_another_base_is_refused(base: Base, small_study: Study) -> None:
    norm = base.weights["model.norm.weight"] + 1
    other = Base("other", base.fresh({"model.norm.weight": norm}), base.tokenizer, base.blocks)
    with pytest.raises(LensrlError, match=r"made from another base model \(fingerprint [0-9a-f]{12}\) than other"):
        check_base(small_study["full-rl"], other.name, other.fingerprint)


@pytest.mark.parametrize(
    "changed",
    [
        [replace(ITEM, prompt="1+2=")], [replace(ITEM, reference="3")], [replace(ITEM, reference=("2", "", ""))],
        [replace(ITEM, id="2")], [replace(ITEM, benchmark="x")], [ITEM, ITEM], [],
    ],
)  # fmt: skip
def test_whatever_changes_in_an_item_changes_the_digest(changed: list[Item]) -> None:
    assert digests_of("test", changed) != digests_of("test", [ITEM]) == digests_of("test", [replace(ITEM)])


def test_what_completions_are_judged_by_has_a_digest_of_its_own() -> None:
    judged = replace(ITEM, judged_by="2.0")
    assert set(digests_of("test", [ITEM])) == {"test"}
    found = digests_of("test", [judged])
    assert set(found) == {"test", "test answers"}
    assert found["test"] == digests_of("test", [ITEM])["test"], "files that were made without it are still compared"
    assert found["test answers"] != digests_of("test", [replace(judged, judged_by="2.1")])["test answers"]


def test_files_that_do_not_say_their_items_are_taken_as_they_are(small_study: Study) -> None:
    class Older(Run):
        provenance = property(lambda _: {"device": "cpu"})  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    with Older(small_study["base"].path) as older:
        check_items(older, {"test": "0" * 64})
    with pytest.raises(LensrlError, match=r"full-rl.seed-0.h5 was made with other test items \(sha256 [0-9a-f]{12}\)"):
        check_items(small_study["full-rl"], {"test": "0" * 64})


def test_answers_that_were_corrected_are_others_though_the_solutions_stay(
    study_of_a_file: tuple[Recipe, Path],
) -> None:
    recipe, folder = study_of_a_file
    file = folder.parent / "test.jsonl"
    rows = [json.loads(line) | {"solution": "3 more"} for line in file.read_text().splitlines()]
    for answer in ("1", "2"):
        file.write_text("".join(json.dumps(row | {"answer": answer}) + "\n" for row in rows))
        if answer == "1":
            run_study(recipe.model_copy(update={"layers": []}), folder).close()
    with pytest.raises(LensrlError, match=r"base.h5 was made with other test answers \(sha256 [0-9a-f]{12}\)"):
        run_study(recipe, folder)


def additions(path: Path, numbers: range) -> Path:
    path.write_text("".join(json.dumps({"question": f"{n}+3=", "answer": str(n + 3)}) + "\n" for n in numbers))
    return path


@pytest.fixture
def study_of_a_file(tmp_path: Path) -> tuple[Recipe, Path]:
    """A study whose items lie in files, before any of its runs."""
    task = MathTask(
        name="math", prompt="{question}", train=additions(tmp_path / "train.jsonl", range(30, 60)),
        test={"sums": additions(tmp_path / "test.jsonl", range(10, 20))},
    )  # fmt: skip
    changes = {"task": task, "layers": [3], "sets": {}, "seeds": [0]}
    return Recipe.model_validate(SMALL.model_dump() | changes), tmp_path / "study"


@pytest.mark.parametrize("edited", ["train", "test"])
@pytest.mark.slow
def test_a_study_is_not_continued_with_edited_problems(study_of_a_file: tuple[Recipe, Path], edited: str) -> None:
    recipe, folder = study_of_a_file
    run_study(recipe, folder).close()
    (folder / "layer-3.seed-0.h5").unlink()
    file, before = folder.parent / f"{edited}.jsonl", sorted(path.name for path in folder.iterdir())
    kept = file.read_bytes()
    file.write_bytes(kept.replace(b"13", b"14", 1).replace(b"33", b"34", 1))
    with pytest.raises(LensrlError, match=f"base.h5 was made with other {edited} items"):
        run_study(recipe, folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    with open_study(folder) as study:
        if edited == "test":
            with pytest.raises(LensrlError, match=r"full-rl\.seed-0\.h5 was made with other test items"):
                patch(study, layers=[3])
        else:
            assert len(patch(study, layers=[3])) > 0  # patching reads no training items
    file.write_bytes(kept)
    with run_study(recipe, folder) as study:
        assert ("layer-3", 0) in study
