"""The completions that a run file keeps: those of scoring, all of them, and a few of training.

They are written with a run (`write_completions`, `write_training_completions`) and read as tables. A completion in a
task in turns is a transcript: the texts of the model and of the environment in alternation. In the file the character
U+001E stands between two of them. For people, `> ` stands before each text of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from lensrl.store.file.checked import group_at, has, read_array, read_strings
from lensrl.store.file.hdf5 import axis, create
from lensrl.store.file.texts import Column, Texts, write_texts

if TYPE_CHECKING:
    import pandas as pd

BETWEEN = "\x1e"  # between two texts of a transcript: the record separator
COMPLETIONS, TRAINING_COMPLETIONS = "completions", "training_completions"  # groups of a run file


@dataclass(frozen=True)
class Completions:
    """The texts of scoring: prompt and reference of each item, and the completion of each sample that an item has."""

    prompt: Sequence[str]
    reference: Sequence[str]
    completion: Sequence[Sequence[str]]


class TrainingCompletion(NamedTuple):
    """A completion, or an episode, of a training step."""

    step: int
    item: str
    prompt: str
    completion: str
    reward: float
    length: int  # tokens that the model wrote
    truncated: bool


def as_text(pieces: str | Sequence[str]) -> str:
    """Return a completion or a reference as one text; the texts of a transcript with `BETWEEN` between them."""
    if isinstance(pieces, str):
        return pieces
    joined = BETWEEN.join(piece.replace(BETWEEN, " ") for piece in pieces)
    return joined if len(pieces) > 1 else joined + BETWEEN  # one turn is a transcript, too


def for_people(text: str) -> str:
    """Return a transcript with `> ` before each text of the model, and any other text as it is."""
    if BETWEEN not in text:
        return text
    pieces = [piece.strip("\n") for piece in text.split(BETWEEN)]
    return "\n".join(f"> {piece}" if place % 2 == 0 else piece for place, piece in enumerate(pieces)).rstrip("\n")


def write_completions(file: h5py.File, texts: Completions, samples: int) -> None:
    """Write the texts of scoring below `completions`. The axes `item` and `sample` are there already."""
    items = len(texts.prompt)
    columns = {
        "completion": Column(texts.completion, ("item", "sample"), (items, samples)),
        "prompt": Column(texts.prompt, ("item",), (items,)),
        "reference": Column(texts.reference, ("item",), (items,)),
    }
    write_texts(file.create_group(COMPLETIONS), columns)


def write_training_completions(file: h5py.File, kept: Sequence[TrainingCompletion]) -> None:
    """Write completions of training below `training_completions`."""
    group = file.create_group(TRAINING_COMPLETIONS)
    axis(group, "kept", len(kept))
    columns = {
        "completion": Column([row.completion for row in kept], ("kept",), (len(kept),)),
        "prompt": Column([row.prompt for row in kept], ("kept",), (len(kept),)),
    }
    write_texts(group, columns)
    create(group, "train_step", np.array([row.step for row in kept], np.int32), ("kept",))
    create(group, "train_item", [row.item for row in kept], ("kept",))
    create(group, "reward", np.array([row.reward for row in kept], np.float64), ("kept",))
    create(group, "length", np.array([row.length for row in kept], np.int32), ("kept",))
    create(group, "truncated", np.array([row.truncated for row in kept], np.uint8), ("kept",))


def read_completions(file: h5py.File) -> pd.DataFrame:
    """Return a row for each sample of each item, those of further tasks included, in the order of the file.

    Columns: benchmark, item, sample, prompt, reference, completion, score, tokens, finished.
    """
    import pandas as pd

    texts = Texts(group_at(file, COMPLETIONS))
    scores = group_at(file, "scores")
    score = read_array(scores, "score")
    items, samples = score.shape

    def of_items(values: Sequence[str]) -> np.ndarray:
        return np.repeat(np.array([for_people(text) for text in values], object), samples)

    table = pd.DataFrame({
        "benchmark": np.repeat(np.array(read_strings(scores, "benchmark"), object), samples),
        "item": np.repeat(np.array(read_strings(file, "item"), object), samples),
        "sample": np.tile(np.arange(samples), items),
        "prompt": of_items(texts.column("prompt")),
        "reference": of_items(texts.column("reference")),
        "completion": [for_people(text) for text in texts.column("completion")],
        "score": score.reshape(-1).astype(np.float64),
        "tokens": read_array(scores, "length").reshape(-1),
        "finished": ~read_array(scores, "truncated").reshape(-1).astype(bool),
    })  # fmt: skip
    return table[np.isfinite(table["score"])].reset_index(drop=True)


def read_training_completions(file: h5py.File) -> pd.DataFrame:
    """Return a row for each kept completion of training, without rows where none was kept.

    Columns: step, item, prompt, completion, reward, tokens, finished.
    """
    import pandas as pd

    columns = ("step", "item", "prompt", "completion", "reward", "tokens", "finished")
    if not has(file, TRAINING_COMPLETIONS):
        return pd.DataFrame(columns=[*columns])
    group = group_at(file, TRAINING_COMPLETIONS)
    texts = Texts(group)
    return pd.DataFrame({
        "step": read_array(group, "train_step"),
        "item": read_strings(group, "train_item"),
        "prompt": texts.column("prompt"),
        "completion": [for_people(text) for text in texts.column("completion")],
        "reward": read_array(group, "reward"),
        "tokens": read_array(group, "length"),
        "finished": ~read_array(group, "truncated").astype(bool),
    })  # fmt: skip


def beside(run: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Return the completions of a run with those of the base for the same items and samples.

    Further columns: `base_completion` and `base_score` of the same sample; `item_score` and `base_item_score`, means
    over the item's samples. Sample n of both was drawn with the same random numbers.
    """
    key = ["benchmark", "item", "sample"]
    other = base[[*key, "completion", "score"]]
    joined = run.merge(other.rename(columns={"completion": "base_completion", "score": "base_score"}), on=key)
    of_item = joined.groupby(key[:2], sort=False)
    joined["item_score"] = of_item["score"].transform("mean")
    joined["base_item_score"] = of_item["base_score"].transform("mean")
    return joined
