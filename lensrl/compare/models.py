"""Compare two models without a study, and keep nothing: their weights from the files alone, or their activations."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensrl.compare.activations import SITE, check_sequences, representation_table
from lensrl.compare.device import Device, algebra_on
from lensrl.compare.patching import OnProgress
from lensrl.compare.precision import Kinds
from lensrl.compare.progress import with_bar
from lensrl.compare.weights import By, Weight, weight_table
from lensrl.errors import LensrlError, did_you_mean
from lensrl.measures.hsic import Pairs
from lensrl.recipe import ModelPlace
from lensrl.store.file.exact import same_bits
from lensrl.tasks import Texts

if TYPE_CHECKING:
    from lensrl.models.adapter import MergedAdapter  # torch, only where weights are needed
    from lensrl.models.checkpoint import CheckpointWeights
    from lensrl.models.pair import Pair


@with_bar("weight deltas")
def compare_models(
    base: Path | str, trained: Path | str, *, by: By = "parameter", draws: int = 0,
    device: Device | None = None, on_progress: OnProgress | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Measure how training changed the weights, from two model folders or hub names. Nothing is kept.

    `trained` may be a LoRA adapter of PEFT, which is merged into the base (`lensrl.models.adapter`).

    The columns are those of `lensrl.compare_weights`, which also explains `by`, `draws` and `device`. Four columns
    follow:

    - `base_dtype`, `trained_dtype`: the types in which the weights of the row are stored;
    - `rounding_norm`: the norm of the errors of rounding to these types, of both models together, in the parameters
      that moved (`lensrl.measures.rounding.rounding_norm`). A `frobenius` near or below it may be mostly rounding.
      Where training started from the stored base itself, only the second model has errors, and this norm is too
      large: by a factor of sqrt(2) where both have one type;
    - `common_rows`: of embeddings and heads with more rows in one of the two models, as padding gives them, the first
      rows, which both have. These alone are compared. <NA> where all rows are compared.

    `table.attrs` has the same of the whole models: `base_dtype`, `trained_dtype`, `frobenius`, `rounding_norm`, and
    `changed_share`, the share of entries that changed; `base_rows`, `trained_rows` and `common_rows` of the
    vocabulary, where they differ, else None; `left_out`, the tensors of a value head; `merged`, the rank and scale of a
    LoRA adapter that was merged, else None; and `by_svd`, as in `compare_weights`.

    The tensors are read from safetensors, one matrix at a time on each core, before and after, in fp32. A row of
    several matrices is read once more for each pass over its entries. No tokenizer is needed.

    Raises LensrlError where one of the two is no complete model, where they are different architectures, for weights
    that are not finite, and for `cuda` without a GPU.
    """
    from lensrl.models.pair import open_pair

    algebra = algebra_on(device)
    pair = open_pair(str(base), str(trained))
    kinds = Kinds(pair.base.dtypes, pair.trained.dtypes, exact=pair.trained.merged is not None)
    table, stored = weight_table(_weights_of(pair), by, kinds, on_progress, draws=draws, algebra=algebra)
    kept = pd.DataFrame(stored)
    table["common_rows"] = pd.array([_common_rows(pair, row) for row in table.itertuples()], dtype="Int64")
    vocabulary = pair.trained.vocabulary
    table.attrs |= {
        "base_dtype": pair.base.dtype,
        "trained_dtype": pair.trained.dtype,
        "frobenius": float(np.linalg.norm(table["frobenius"])),
        "rounding_norm": math.sqrt(kept["rounding"].sum()),
        "changed_share": float(kept["changed"].sum() / kept["entries"].sum()),
        "base_rows": None if vocabulary is None else vocabulary.base,
        "trained_rows": None if vocabulary is None else vocabulary.checkpoint,
        "common_rows": None if vocabulary is None else vocabulary.common,
        "left_out": pair.trained.left_out,
        "merged": None if pair.trained.merged is None else dict(pair.trained.merged),
    }
    return table


def compare_model_activations(
    base: Path | str,
    trained: Path | str,
    *,
    texts: Path | str | None = None,
    site: str = SITE,
    first_token: bool = False,
    pairs: Pairs = "sequence",
    device: Device | None = None,
) -> pd.DataFrame:
    """Compare the activations of two models, folders or hub names, on the same texts. Nothing is kept.

    `texts` is a .txt file with a text a line or a .jsonl file with {"text": ...}; by default the texts of
    `lensrl.tasks.texts.BUILT_IN`. The columns, `site`, `first_token`, `pairs` and `device` are those
    of `lensrl.compare_activations`. `table.attrs["same_weights"]` says whether the models are one and the same.

    Both models are in memory in fp32, one of them twice. The tokenizer is the base's. Raises LensrlError as
    `compare_models`, for texts that are too few or cannot be read, and for models that TransformerLens does not know.
    """
    import torch

    from lensrl.models.adapter import open_weights
    from lensrl.models.base import find_source, load_base, pick_device
    from lensrl.models.bridge import SITES, capture, probe_set
    from lensrl.models.references import check_positions, references
    from lensrl.models.vocabulary import check_vocabulary

    if site not in SITES:
        raise LensrlError(f"no activations at {site!r}{did_you_mean(site, SITES)}")
    algebra = algebra_on(device)
    items = Texts(None if texts is None else Path(texts)).items("test")
    loaded = load_base(str(base))
    check_positions(loaded.model, references(loaded.prompts, items).ids.shape[1])
    probe = probe_set(loaded.prompts, items)
    kept = probe.position >= (0 if first_token else 1)
    check_sequences(probe.prompt[kept], pairs, "built-in texts" if texts is None else str(texts), "give more texts")
    # The trained model is the base with its weights in place of the base's: bridge and tokens are the same.
    other = str(trained)
    place = ModelPlace(model=find_source(other) if other.startswith("tiny:") else other)
    opened = open_weights(place, loaded, before=loaded.weights, fill=loaded.weights)
    check_vocabulary(opened, loaded)
    weights = {name: torch.from_numpy(_read(opened, name)) for name in opened}
    x, y = (
        capture(loaded.reading(w, device=pick_device()), loaded.prompts, items, loaded.blocks.n_layers)
        for w in (None, weights)
    )
    if site not in x:
        raise LensrlError(f"{base} has no activations at {site!r} in some layers{did_you_mean(site, x)}")
    layers = zip(x[site], y[site], strict=True)
    table = representation_table(layers, probe.prompt, kept, pairs=pairs, algebra=algebra)
    table.attrs["same_weights"] = all(same_bits(loaded.weights[name].numpy(), w.numpy()) for name, w in weights.items())
    return table


def _weights_of(pair: Pair) -> list[Weight]:
    """Return the weights of both models, unread."""

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        one, other = _read(pair.base, name), _read(pair.trained, name)
        one = one[: len(other)] if name in pair.trained.resized else one  # the rows that both have
        return one, one if same_bits(one, other) else other

    return [
        Weight(name, pair.blocks.part(name), pair.blocks.component(name) or "", entries, partial(read, name))
        for name, entries in pair.entries.items()
    ]


def _common_rows(pair: Pair, row: Any) -> int | None:
    """Return the rows of embeddings that are compared in a row of the table; None where all are."""
    vocabulary = pair.trained.vocabulary
    resized = {row.parameter} if row.parameter else {n for n in pair.entries if pair.blocks.part(n) == row.component}
    return None if vocabulary is None or resized.isdisjoint(pair.trained.resized) else vocabulary.common


def _read(weights: CheckpointWeights | MergedAdapter, name: str) -> np.ndarray:
    """Read one tensor. Raises LensrlError where it is not finite."""
    values = weights[name]
    if not np.isfinite(values).all():
        raise LensrlError(
            f"checkpoint {weights.place.spelled}: {name} holds a NaN or an infinity: its training diverged or its file "
            f"is damaged; give an earlier checkpoint, or copy it again"
        )
    return values
