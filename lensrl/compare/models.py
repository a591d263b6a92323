"""Compare two models without a study, and keep nothing: their weights from the files alone, or their activations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from lensrl.compare.activations import SITE, representation_table
from lensrl.compare.weights import By, PartWeights, weight_table
from lensrl.errors import LensrlError, did_you_mean
from lensrl.measures.weights import rounding_norm
from lensrl.recipe import ModelPlace
from lensrl.store.file.exact import same_bits
from lensrl.tasks import Texts

if TYPE_CHECKING:
    from lensrl.models.checkpoint import CheckpointWeights, Pair  # torch, only where weights are needed


def compare_models(base: Path | str, trained: Path | str, *, by: By = "parameter") -> pd.DataFrame:
    """Measure how training changed the weights, from two model folders or hub names. Nothing is kept.

    The columns are those of `lensrl.compare_weights`, which also explains `by`. Three columns follow:

    - `base_dtype`, `trained_dtype`: the types in which the weights of the row are stored;
    - `rounding_norm`: the norm of the errors of rounding to these types, of both models together, in the parameters
      that moved (`lensrl.measures.weights.rounding_norm`). A `frobenius` near or below it may be mostly rounding.
      Where training started from the stored base itself, only the second model has errors, and this norm is too
      large: by a factor of sqrt(2) where both have one type.

    `table.attrs` has the same of the whole models: `base_dtype`, `trained_dtype`, `frobenius`, `rounding_norm`, and
    `changed_share`, the share of entries that changed.

    The tensors are read from safetensors, for one layer at a time, or one part outside the layers. The measures of
    the largest of these, often the embeddings, need several copies of it in float64. No tokenizer is needed.

    Raises LensrlError where one of the two is no complete model, where they are different architectures, and for
    weights that are not finite.
    """
    from lensrl.models.checkpoint import open_pair

    pair, stored = open_pair(str(base), str(trained)), []
    table = weight_table(_read_parts(pair, by, stored), by)
    kept = pd.DataFrame(stored, columns=Stored._fields)
    rows = kept.groupby("row").agg({"base_dtype": _spell, "trained_dtype": _spell, "rounding": "sum"})
    if by == "parameter":
        keys = table["parameter"]
    else:
        keys = [_group(None if pd.isna(n) else n, c) for n, c in zip(table["layer"], table["component"], strict=True)]
    rows = rows.loc[keys]
    table["base_dtype"], table["trained_dtype"] = rows["base_dtype"].to_numpy(), rows["trained_dtype"].to_numpy()
    table["rounding_norm"] = np.sqrt(rows["rounding"].to_numpy(float))
    table.attrs = {
        "base_dtype": pair.base.dtype,
        "trained_dtype": pair.trained.dtype,
        "frobenius": float(np.linalg.norm(table["frobenius"])),
        "rounding_norm": math.sqrt(kept["rounding"].sum()),
        "changed_share": float(kept["changed"].sum() / kept["entries"].sum()),
    }
    return table


def compare_model_activations(
    base: Path | str,
    trained: Path | str,
    *,
    texts: Path | str | None = None,
    site: str = SITE,
    first_token: bool = True,
) -> pd.DataFrame:
    """Compare the activations of two models, folders or hub names, on the same texts. Nothing is kept.

    `texts` is a .txt file with a text a line or a .jsonl file with {"text": ...}; by default the texts of
    `lensrl.tasks.texts.BUILT_IN`. The columns, `site` and `first_token` are those of `lensrl.compare_activations`.

    Both models are in memory in fp32, one of them twice. The tokenizer is the base's. Raises LensrlError as
    `compare_models`, for texts that cannot be read, and for models that TransformerLens does not know.
    """
    import torch

    from lensrl.models.base import find_source, load_base, pick_device
    from lensrl.models.bridge import SITES, capture, probe_set
    from lensrl.models.checkpoint import CheckpointWeights
    from lensrl.models.references import check_positions

    if site not in SITES:
        raise LensrlError(f"no activations at {site!r}{did_you_mean(site, SITES)}")
    items = Texts(None if texts is None else Path(texts)).items("test")
    loaded = load_base(str(base))
    check_positions(loaded.model, loaded.prompts, items)
    # The trained model is the base with its weights in place of the base's: bridge and tokens are the same.
    other = str(trained)
    opened = CheckpointWeights(ModelPlace(model=find_source(other) if other.startswith("tiny:") else other), loaded)
    weights = {name: torch.from_numpy(_read(opened, name)) for name in opened}
    x, y = (
        capture(loaded.fresh(w, device=pick_device()), loaded.prompts, items, loaded.blocks.n_layers)[site]
        for w in (None, weights)
    )
    probe = probe_set(loaded.prompts, items)
    tokens = np.flatnonzero(probe.position >= (0 if first_token else 1))
    return representation_table(((x[i][tokens], y[i][tokens]) for i in range(len(x))), probe.prompt[tokens])


class Stored(NamedTuple):
    """How one parameter is stored in the two models, and what rounding does to it."""

    row: str  # the row of the table to which the parameter belongs
    base_dtype: str
    trained_dtype: str
    rounding: float  # the squared norm of the errors of rounding
    entries: int
    changed: int


def _read_parts(pair: Pair, by: By, stored: list[Stored]) -> Iterator[PartWeights]:
    """Read both models part by part, the layers first, and append a record of each parameter to `stored`."""
    names: dict[int | str, list[str]] = {}
    for name in pair.names:
        names.setdefault(pair.blocks.part(name), []).append(name)
    for part in sorted(names, key=lambda part: (isinstance(part, str), part)):
        components = {name: pair.blocks.component(name) or "" for name in names[part]}
        before, after = {}, {}
        for name, component in components.items():
            one, other = _read(pair.base, name), _read(pair.trained, name)
            before[name], after[name] = one, one if same_bits(one, other) else other
            dtypes = pair.base.dtypes[name], pair.trained.dtypes[name]
            # A parameter that both models store with the same bits has no error in its difference.
            errors = () if after[name] is one else zip((one, other), dtypes, strict=True)
            rounding = sum(rounding_norm(weights, kind) ** 2 for weights, kind in errors)
            group = (
                _group(part, component if by == "component" else "") if isinstance(part, int) else _group(None, part)
            )
            changed = 0 if after[name] is one else int(np.count_nonzero(one != other))
            stored.append(Stored(name if by == "parameter" else group, *dtypes, rounding, one.size, changed))
        yield PartWeights(part, components, before, after)


def _read(weights: CheckpointWeights, name: str) -> np.ndarray:
    """Read one tensor. Raises LensrlError where it is not finite."""
    values = weights[name]
    if not np.isfinite(values).all():
        raise LensrlError(
            f"checkpoint {weights.place.spelled}: {name} holds a NaN or an infinity: its training diverged or its file "
            f"is damaged; give an earlier checkpoint, or copy it again"
        )
    return values


def _group(layer: int | None, component: str) -> str:
    """Name a row of the table by layer or by component."""
    return f"{'' if layer is None else layer}/{component}"


def _spell(kinds: pd.Series) -> str:
    return " and ".join(sorted(set(kinds)))
