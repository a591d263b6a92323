"""The completions that a study keeps: judged again they have the scores that are stored, and h5py alone reads them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from lensrl import LensrlError, Study, open_run, run_study
from lensrl.models.base import Base
from lensrl.recipe import Recipe
from lensrl.store.completions import BETWEEN, as_text, for_people
from lensrl.store.file.checked import dataset_at
from lensrl.store.run import Run
from lensrl.store.verify import check_file
from lensrl.tasks import evaluation_items, load_task
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from tests.conftest import SMALL
from tests.reseal import resealed
from tests.store.synthetic import PARAMETERS, before_weights, header, score_arrays, write_full_run, write_run
from tests.store.test_format import TEXT

RELEASED = Path(__file__).parent / "released"


def test_every_completion_is_kept_as_it_was_judged(small_study: Study, base: Base) -> None:
    task = load_task(SMALL)
    assert isinstance(task, Arithmetic)
    items = {item.id: item for item in evaluation_items(task, SMALL)}
    for name in ("base", "full-rl", "layer-3", "ends"):
        run = small_study[name]
        table = run.completions()
        assert len(table) == 48 * 2
        assert table[["benchmark", "item", "sample"]].equals(run.scores()[["benchmark", "item", "sample"]])
        for row in table.to_dict("records"):
            item = items[row["item"]]
            assert (row["prompt"], row["reference"]) == (item.prompt, item.reference)
            assert task.score(item, row["completion"]) == row["score"]
            assert len(base.tokenizer.encode(row["completion"])) + row["finished"] == row["tokens"]
        assert table["completion"].nunique() > 10


def test_a_few_completions_of_training_are_kept(small_study: Study) -> None:
    run = small_study["full-rl"]
    task, table = load_task(SMALL), run.training_completions()
    assert isinstance(task, Arithmetic)
    assert table["step"].tolist() == [step for step in (1, 2, 3, 4) for _ in range(4)]
    assert table.groupby("step")["item"].nunique().eq(4).all()  # of different prompts
    items = {item.id: item for item in task.items("train")}
    assert [task.reward(items[row["item"]], row["completion"]) for row in table.to_dict("records")] == [
        *table["reward"]
    ]
    assert [items[row["item"]].prompt for row in table.to_dict("records")] == [*table["prompt"]]
    assert small_study["base"].training_completions().empty


@pytest.mark.parametrize(
    ("steps", "kept", "expected"),
    [(4, 4, [1, 2, 3, 4]), (1, 4, [1]), (100, 0, []), (39, 1, [*range(1, 40, 2)]), (400, 4, 20)],
)
def test_the_steps_are_spaced_evenly(steps: int, kept: int, expected: list[int] | int) -> None:
    recipe = SMALL.model_copy(update={"store": SMALL.store.model_copy(update={"training_completions": kept})})
    found = recipe.completion_steps(steps)
    if isinstance(expected, list):
        assert found == expected
    else:
        assert (len(found), found[0], found[-1]) == (expected, 1, steps)
        assert np.ptp(np.diff(found)) <= 1


def test_how_much_is_kept_of_training_is_no_other_recipe() -> None:
    fewer = SMALL.model_copy(update={"store": SMALL.store.model_copy(update={"training_completions": 0})})
    assert fewer.conflict(SMALL) is None


def test_one_line_of_h5py_reads_a_completion(small_study_folder: Path) -> None:
    code = TEXT.split("### Texts")[1].split("```python\n")[1].split("```")[0]
    path = small_study_folder / "full-rl.seed-0.h5"
    opening, reading = code.replace("runs/tiny/full-rl.seed-0.h5", str(path)).strip().splitlines()
    known: dict[str, object] = {"h5py": h5py}
    exec(opening, known)
    with open_run(path) as run:
        assert eval(reading, known) == run.completions().loc[6, "completion"]  # two samples an item


def test_a_transcript_shows_who_wrote_what() -> None:
    assert for_people(as_text(("right\n", "a door\n", "open"))) == "> right\na door\n> open"
    assert for_people(as_text(("open",))) == "> open"
    assert as_text((f"a{BETWEEN}b", "c")).split(BETWEEN) == ["a b", "c"]
    assert for_people("> 3") == "> 3"


def test_an_agents_transcript_is_its_episode(tmp_path: Path) -> None:
    """Played again from the kept file, move by move, the environment says the same, and gives the same score."""
    recipe = Recipe.model_validate({
        "model": "tiny:qwen3", "task": {"name": "corridor", "max_turns": 12}, "layers": [],
        "rl": {"algorithm": "gigpo", "steps": 1, "prompts_per_step": 2, "completions_per_prompt": 2,
               "max_completion_tokens": 8},
        "evaluation": {"items": 8, "samples": 1, "arithmetic": {"items": 2, "samples": 2, "max_completion_tokens": 3}},
        "also": [{"task": "arithmetic"}], "store": {"probe_items": 1},
    })  # fmt: skip
    run_study(recipe, tmp_path / "agent", only="base").close()
    task = load_task(recipe)
    assert isinstance(task, Corridor)
    with open_run(tmp_path / "agent" / "base.h5") as run:
        table = run.completions()
        assert table["benchmark"].value_counts().to_dict() == {"corridor": 8, "arithmetic": 4}
        file = run.file
        text = dataset_at(file, "completions/text")[...].tobytes()
        solved = 0
        for row, item in enumerate(evaluation_items(task, recipe)):
            start, size = (dataset_at(file, f"completions/completion_{of}")[row, 0] for of in ("start", "size"))
            pieces = text[start : start + size].decode().split(BETWEEN)
            episode, seen = task.reset(item), []
            for move in pieces[::2]:
                turn = episode.step(move.strip())
                seen.append(turn.text)
            assert [said for said in seen if said] == [said for said in pieces[1::2] if said]
            assert episode.score == table.loc[row, "score"]
            assert str(table.loc[row, "completion"]).startswith(f"> {pieces[0].strip()}")
            solved += int(episode.score)
        assert 0 < solved < 8


def test_texts_of_thousands_of_bytes_take_the_space_of_what_they_say(tmp_path: Path) -> None:
    """2,000 texts of 16 kB, the pieces of 64 of them: written, read back, and checked, in little memory and space."""
    rng = np.random.default_rng(0)
    words = np.array(["so", "then", "=", "4", "therefore", "we", "have", "x", "é", "\n"])
    long = [" ".join(rng.choice(words, 4000)) for _ in range(64)]
    completion = [[f"{row} {long[row % 64]}" for _ in range(4)] for row in range(500)]
    scores = score_arrays(np.zeros((500, 4)))
    assert scores.completions is not None
    object.__setattr__(scores.completions, "completion", completion)
    path = tmp_path / "base.h5"
    write_run(path, header("base"), PARAMETERS, before_weights(), scores=scores)
    with Run(path) as run:
        assert run.completions()["completion"].tolist() == [text for row in completion for text in row]
        assert run.bytes < 3e6  # of 500 different texts, 8 MB


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_from_before_completions_says_so_in_one_line(version: int) -> None:
    with Run(RELEASED / f"run-{version}.h5") as run:
        with pytest.raises(LensrlError, match=rf"has no completions: its format version {version} kept none") as caught:
            _ = run.completions()
        assert "\n" not in str(caught.value)
        assert run.training_completions().empty


@pytest.mark.parametrize(
    ("dataset", "value", "complaint"),
    [
        ("completions/completion_size", 5000, "completion_start and completion_size lie outside of text"),
        ("completions/prompt_start", -1, "prompt_start and prompt_size lie outside of text"),
        ("training_completions/train_step", 4, "training_completions/train_step does not ascend from 1 to at most 3"),
        ("training_completions/completion_size", 1, "unexpected end of data"),  # half a letter
    ],
)
def test_places_outside_of_the_texts_are_damage(tmp_path: Path, dataset: str, value: int, complaint: str) -> None:
    path = tmp_path / "full-rl.seed-3.h5"
    write_full_run(path)
    assert check_file(path).status == "good"
    with resealed(path) as file:
        node = dataset_at(file, dataset)
        node[1 if "size" in dataset and "training" in dataset else -1] = value
    verdict = check_file(path)
    assert (verdict.status, complaint in verdict.where) == ("damaged", True), verdict.where


def test_a_released_file_with_completions_has_them() -> None:
    with Run(RELEASED / "run-3.h5") as run:
        assert run.completions()["completion"].tolist() == ["", "é", "éé", "ééé", "éééé", "ééééé"]
        assert run.completions()["prompt"].tolist() == ["0+1=", "0+1=", "1+1=", "1+1=", "2+1=", "2+1="]
        assert run.training_completions().to_dict("list") == {
            "step": [1, 1, 3], "item": ["item-7", "item-8", "item-7"], "prompt": ["1+1=", "1+2=", "1+1="],
            "completion": ["2", "語", ""], "reward": [1.0, 0.0, 0.0], "tokens": [2, 5, 1],
            "finished": [True, False, True],
        }  # fmt: skip
