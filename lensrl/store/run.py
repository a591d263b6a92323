"""One run file, read lazily."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensrl.errors import LensrlError
from lensrl.recipe.layers import OUTSIDE
from lensrl.recipe.runs import BASE
from lensrl.store.contents import fold, list_contents
from lensrl.store.file.checked import (
    dataset_at,
    group_at,
    has,
    located,
    members,
)
from lensrl.store.file.lazy import Deltas, LazyArray, Sites
from lensrl.store.file.seal import dataset_holds
from lensrl.store.look import run_html, size
from lensrl.store.old_names import table_method

if TYPE_CHECKING:  # all are imported where they are used: opening a run does without them
    import pandas as pd
    import xarray
    from transformer_lens.model_bridge import TransformerBridge
from lensrl.store.run_scores import RunScores


class Run(RunScores):
    """One run of a study. Opening it reads the attributes; arrays are read when they are sliced.

    >>> run.scores()                     # DataFrame: benchmark, item, sample, score, length, truncated
    >>> run.training()                   # DataFrame: one row per step
    >>> run.delta_norms()                # DataFrame: one row per parameter
    >>> run.deltas[4]["mlp.down_proj.weight"][:8]
    >>> run.deltas[4].frobenius
    >>> run.activations["block_out"][4]  # (token, feature)

    The file stays open until `close()` or the end of a `with` block. Pickling a run pickles its path.
    """

    @cached_property
    def has_training(self) -> bool:
        """False for the base, and for a run that was taken from a checkpoint: they have no training curve."""
        with located(self.file, "training"):
            return has(self.file, "training")

    @property
    def has_deltas(self) -> bool:
        """False for a run that diverged, and for one that keeps the norms of its deltas alone. The base needs none."""
        return self.has_weights and self.keep != "norms"

    @cached_property
    def has_activations(self) -> bool:
        """False for a run that diverged, and for one that leaves them out (`keep`)."""
        with located(self.file, "activations"):
            return has(self.file, "activations")

    @table_method
    def training(self) -> pd.DataFrame:
        """Return one row per training step, with the columns:

        - `step`, from 1;
        - `reward_mean`, `reward_std`: over the completions of the step;
        - `loss`;
        - `grad_norm`: before clipping; also for each part, `grad_norm_3`, `grad_norm_embed`;
        - `completion_length`: tokens;
        - `truncated_share`: the share of completions that were cut, or of episodes that ran out of turns;
        - `zero_spread_share`: the share of groups whose rewards are all equal;
        - `step_time`: seconds;
        - `peak_memory`: bytes;
        - `turns`, in a task in turns: the mean per episode;
        - `anchor_group_size`, under GiGPO: the mean number of turns taken in one state;
        - `shared_anchor_share`, under GiGPO: the share of turns whose state another turn of the group has, too;
        - `sampler_mismatch`, where lensrl sampled: the mean |log p of the sampler - log p of the trainer|, in nats;
        - `clipped_share`, with several updates per rollout: the share of tokens outside the clip;
        - `entropy`: of the next token at the sampled positions, mean, in nats;
        - `kl`, where the loss has a KL term: to the base, in nats a token.
        """
        return self._training.copy()

    def grad_norm(self) -> np.ndarray:
        """Return the norm of the gradient of each step, before clipping: one column of `training`, read alone."""
        with located(self.file, "training"):
            return self._read(self._group("training", "no training curve"), "grad_norm")

    @cached_property
    def _training(self) -> pd.DataFrame:
        import pandas as pd

        with located(self.file, "training"):
            group = self._group("training", "no training curve")
            curves = {name: self._read(group, name) for name in members(group)}
            columns = {"step": self._read(self.file, "step")} | {n: c for n, c in curves.items() if c.ndim == 1}
            for name, labels in (("layer_grad_norm", range(self.n_layers)), ("outside_grad_norm", OUTSIDE)):
                norms = zip(labels, curves[name].T, strict=True)
                columns |= {f"grad_norm_{label}": norm for label, norm in norms}
            return pd.DataFrame(columns)

    def delta_norms(self) -> pd.DataFrame:
        """Return one row per parameter: the size of its weights and of their change, as Frobenius norms.

        Columns: parameter, layer (<NA> outside the layers), part, component, size (entries), norm (of the delta),
        base_norm, relative_norm (norm / base_norm), changed_share (the share of entries whose bits changed).
        """
        return self._delta_norms.copy()

    @cached_property
    def _delta_norms(self) -> pd.DataFrame:
        import pandas as pd

        with located(self.file, "parameters"):
            group = self._group("parameters", "no parameter table")
            part = self._strings(group, "part")
            norm, base_norm = self._read(group, "norm"), self._read(group, "base_norm")
            size = self._read(group, "size")
            return pd.DataFrame({
                "parameter": self._strings(self.file, "parameter"),
                "layer": pd.array([int(p) if p.isdecimal() else None for p in part], dtype="Int64"),
                "part": part,
                "component": self._strings(group, "component"),
                "size": size,
                "norm": norm,
                "base_norm": base_norm,
                "relative_norm": np.divide(norm, base_norm, out=np.full_like(norm, np.nan), where=base_norm > 0),
                "changed_share": np.divide(self._read(group, "changed"), size, out=np.zeros(len(size)), where=size > 0),
            })  # fmt: skip

    def layer_delta_norms(self) -> pd.DataFrame:
        """Return one row per layer: norm, base_norm and relative_norm over all parameters of the layer together.

        `rounding_norm` is the norm that rounding alone would give; 0 for a run trained here, NaN where it is unknown.
        """
        return self._layer_delta_norms.copy()

    @cached_property
    def _layer_delta_norms(self) -> pd.DataFrame:
        table = self.delta_norms().dropna(subset=["layer"])
        squares = (table[["norm", "base_norm"]] ** 2).groupby(table["layer"].astype(int)).sum() ** 0.5
        squares["relative_norm"] = squares["norm"] / squares["base_norm"]
        rounding = self.rounding
        squares["rounding_norm"] = [
            float("nan") if rounding is None else rounding.get(str(n), 0.0) for n in squares.index
        ]
        return squares.reset_index()

    @property
    def deltas(self) -> Deltas:
        """Weight deltas by part: `run.deltas[4]`, `run.deltas["embed"]`. Raises LensrlError where `keep` is norms."""
        if self.keep == "norms" and self.name != BASE:
            raise LensrlError(f"run {self.name!r} has no deltas: {self._left_out()}")
        return Deltas(self.file, self.n_layers, self._seal)

    @property
    def snapshots(self) -> dict[int, Deltas]:
        """Step -> weight deltas after this step: of the recipe's `store.snapshots`, or of a checkpoint's own."""
        with located(self.file, "snapshots"):
            kept = members(group_at(self.file, "snapshots")) if has(self.file, "snapshots") else []
        return {
            step: Deltas(self.file, self.n_layers, self._seal, f"snapshots/{step}")
            if str(step) in kept
            else self.deltas
            for step in self._snapshots
        }

    @property
    def activations(self) -> Mapping[str, LazyArray]:
        """Site (`block_out`, `attn_out`, `mlp_out`) -> lazy array (layer, token, feature)."""
        group = self._group("activations", "no activations")
        with located(self.file, "activations"):
            return Sites({site: LazyArray(dataset_at(group, site)) for site in members(group)})

    @table_method
    def probe(self) -> pd.DataFrame:
        """Return one row per token of the probe set: token_id, prompt, position, text."""
        return self._probe.copy()

    @cached_property
    def _probe(self) -> pd.DataFrame:
        import pandas as pd

        with located(self.file, "probe"):
            group = self._group("probe", "no probe set")
            columns = {name: self._read(group, name) for name in ("token_id", "prompt", "position")}
            return pd.DataFrame({**columns, "text": self._strings(group, "text")})

    def preview(self, name: str, rows: int = 4) -> str:
        """Return the first rows of one dataset as text. Raises Damaged when the seal has another hash of its bytes."""
        with located(self.file, name):
            dataset = dataset_at(self.file, name)
            extent = None if self._seal is None else self._seal.datasets.get(str(dataset.name).lstrip("/"))
            if extent is not None and not dataset_holds(self.file.id.get_vfd_handle(), extent):
                raise ValueError("its sha256 differs from the sha256 in the seal")
            corner = tuple(slice(min(n, rows if i == 0 else 6)) for i, n in enumerate(dataset.shape))
            values = dataset[corner]
        if dataset.dtype.kind == "S":
            return repr([text.decode(errors="replace") for text in np.ravel(values).tolist()])
        return str(np.array2string(np.asarray(values), precision=4, suppress_small=False))

    def to_xarray(self) -> xarray.DataTree:
        """Return the file as an xarray.DataTree of named variables with coordinates, read lazily. Close it when done.

        A node inherits the coordinates of the nodes above it: `tree["parameters"].to_dataset(inherit=False)` leaves
        them out. Raises LensrlError when xarray or h5netcdf is not installed.
        """
        from lensrl.store.file.tree import open_tree

        return open_tree(self.path, self.file)

    # A run file knows no model. The next two methods ask the front door of the package, which does.

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write the model of this run as a Hugging Face folder: `lensrl.save_pretrained`, which explains `options`.

        They are `dtype`, and for a graft of this run's layers `layers` and `into_run`. Raises as it does, and for a
        file outside the folder of its study.
        """
        lensrl = import_module("lensrl")
        with lensrl.open_study(self.path.parent) as study:
            return lensrl.save_pretrained(study, self.name, folder, seed=self.seed, **options)

    def bridge(self) -> TransformerBridge:
        """Return the model of this run as a TransformerBridge of TransformerLens: `lensrl.load_bridge`."""
        return import_module("lensrl").load_bridge(self)

    def __reduce__(self) -> tuple[type[Run], tuple[Path]]:
        return Run, (self.path.absolute(),)

    def _repr_html_(self) -> str:
        about = f"seed {self.seed} of {self.study}, model {self.base}, {size(self.bytes)}"
        score = f"{self.status}, score {self.score:.3f}"
        status = f"{self.status}: {self.reason}" if self.reason else score if self.has_scores else self.status
        contents = [row._asdict() for row in fold(list_contents(self.file))]
        return run_html(self.name, about, status, contents)

    def __repr__(self) -> str:
        return f"<Run {self.name} seed {self.seed} of {self.study}: {self.status}, score {self.score:.3f}>"


def open_run(path: str | Path) -> Run:
    """Open a run file for reading. Raises StoreError when it is missing, damaged or too new."""
    return Run(path)
