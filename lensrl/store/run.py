"""One run file, read lazily."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from lensrl.errors import Damaged, LensrlError, reason
from lensrl.measures.item_scores import Samples, item_means
from lensrl.measures.score import mean_score
from lensrl.recipe import LayerSet
from lensrl.recipe.layers import OUTSIDE
from lensrl.recipe.runs import BASE
from lensrl.store.completions import (
    COMPLETIONS,
    TRAINING_COMPLETIONS,
    read_completions,
    read_training_completions,
)
from lensrl.store.contents import fold, list_contents
from lensrl.store.file.checked import (
    DAMAGE,
    attribute,
    dataset_at,
    group_at,
    has,
    located,
    members,
    open_for_reading,
    read_array,
    read_strings,
)
from lensrl.store.file.completeness import CHECKPOINT, COMPLETIONS_SINCE, DIVERGED, LEFT_OUT, SITES, keep_of, origin_of
from lensrl.store.file.lazy import Deltas, LazyArray, Sites
from lensrl.store.file.seal import Seal, dataset_holds, read_seal
from lensrl.store.look import run_html, size
from lensrl.store.write import RUN_FORMAT, RUN_VERSION

if TYPE_CHECKING:  # all are imported where they are used: opening a run does without them
    import pandas as pd
    import xarray
    from transformer_lens.model_bridge import TransformerBridge

MOST_LAYERS = 10_000  # far more than any model has, and few enough to list at once


class Run:
    """One run of a study. Opening it reads the attributes; arrays are read when they are sliced.

    >>> run.scores                       # DataFrame: benchmark, item, sample, score, length, truncated
    >>> run.training                     # DataFrame: one row per step
    >>> run.delta_norms()                # DataFrame: one row per parameter
    >>> run.deltas[4]["mlp.down_proj.weight"][:8]
    >>> run.deltas[4].frobenius
    >>> run.activations["block_out"][4]  # (token, feature)

    The file stays open until `close()` or the end of a `with` block. Pickling a run pickles its path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = open_for_reading(self.path, RUN_FORMAT, RUN_VERSION)
        try:
            self.study = str(attribute(self.file, "study"))
            self.name = str(attribute(self.file, "run"))
            self.seed = int(attribute(self.file, "seed"))
            self.layers = [int(layer) for layer in attribute(self.file, "layers")]
            self.status = str(attribute(self.file, "status"))
            self.reason = str(attribute(self.file, "reason"))
            self.base = str(attribute(self.file, "base"))
            self.fingerprint = str(attribute(self.file, "fingerprint"))
            self.n_layers = int(attribute(self.file, "n_layers"))
            if not 0 <= self.n_layers == len(dataset_at(self.file, "layer")) <= MOST_LAYERS:
                raise ValueError(f"{self.n_layers} layers are too many, or differ from the length of the layer axis")
            self.bytes = os.fstat(self.file.id.get_vfd_handle()).st_size  # the size of the file
            self.run_id = str(attribute(self.file, "run_id"))
            self.format_version = int(attribute(self.file, "format_version"))
            self._score = float(attribute(self.file, "score")) if self.format_version > 1 else None
            self._snapshots = (
                [int(step) for step in attribute(self.file, "snapshots")] if self.format_version > 1 else []
            )
        except DAMAGE as error:
            self.file.close()
            raise Damaged(f"{self.path} is damaged ({reason(error)}); delete it and run again") from None

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe with which the run was made, as JSON data."""
        return self._json("recipe")

    @property
    def layer_set(self) -> LayerSet | None:
        """The named set of layers that the run trained, from its recipe; None when the run is not the run of a set."""
        with located(self.file, "its recipe"):
            found = dict(self.recipe.get("sets", {})).get(self.name)
            return None if found is None else LayerSet.model_validate(found)

    @property
    def provenance(self) -> dict[str, Any]:
        """Library versions, git state, device, dtypes, creation time."""
        return self._json("provenance")

    @property
    def origin(self) -> str:
        """Where the weights come from: `training`, or `checkpoint` for a model trained elsewhere."""
        with located(self.file, "attribute origin"):
            return origin_of(self.file)

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint from which the run was taken; None for a run that was trained here.

        Keys: source, revision, snapshots (step -> source), dtype, commit (empty for a folder); `rounding` and
        `parameter_dtypes`; `merged` of a LoRA adapter, and `vocabulary` where its size is not the base's. `dtype` names
        the stored types. The difference of two checkpoints in bfloat16 is mostly rounding where the update was small.
        """
        if self.origin != CHECKPOINT:
            return None
        found = self.provenance.get("checkpoint")
        unknown: dict[str, Any] = {
            "source": "an unknown place",
            "revision": None,
            "snapshots": {},
            "dtype": "unknown",
            "commit": "",
        }
        return unknown | (found if isinstance(found, dict) else {})

    @property
    def rounding(self) -> dict[str, float] | None:
        """Part -> the norm that rounding to the stored types alone would give its deltas; empty without rounding.

        None for a run from a checkpoint whose file does not say.
        """
        if self.checkpoint is None:
            return {}
        found = self.checkpoint.get("rounding")
        return {str(part): float(norm) for part, norm in found.items()} if isinstance(found, dict) else None

    @property
    def notes(self) -> list[str]:
        """What loading changed about the base model, and what the run lacks, in one line each."""
        found = self.provenance.get("notes", [])
        loading = [str(line) for line in found] if isinstance(found, list) else []
        return [*loading, *self.missing_sites]

    @property
    def missing_sites(self) -> list[str]:
        """Which activations the run lacks, in one line each. A model with linear attention has no `attn_out`."""
        with located(self.file, "attribute sites"):
            kept = str(attribute(self.file, "sites")).split(",") if "sites" in self.file.attrs else SITES
        return [f"activations at {s} are left out: some layers have none that is known" for s in SITES if s not in kept]

    @property
    def has_training(self) -> bool:
        """False for the base, and for a run that was taken from a checkpoint: they have no training curve."""
        with located(self.file, "training"):
            return has(self.file, "training")

    @property
    def has_weights(self) -> bool:
        """False for a run that diverged. The weights of the base are those of its model: it has no deltas."""
        return self.status != DIVERGED

    @property
    def keep(self) -> str:
        """What the file keeps of the model: `all`, `deltas` without activations, or `norms` without both."""
        with located(self.file, "its recipe"):
            return keep_of(self.file)

    @property
    def has_deltas(self) -> bool:
        """False for a run that diverged, and for one that keeps the norms of its deltas alone. The base needs none."""
        return self.has_weights and self.keep != "norms"

    @property
    def has_scores(self) -> bool:
        """False for a run that diverged, and in a study that compares models on texts: it scores nothing."""
        with located(self.file, "scores"):
            return has(self.file, "scores") and has(self.file, "scores/score")

    @property
    def has_activations(self) -> bool:
        """False for a run that diverged, and for one that leaves them out (`keep`)."""
        with located(self.file, "activations"):
            return has(self.file, "activations")

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row per held-out item: benchmark, item, score (mean over samples), reference_logprob (nats per token).

        The score of a text is NaN: nothing judges it. Where scores were made elsewhere, the log-probability is NaN.
        Items of further tasks (`also`) are left out: see `all_items`.
        """
        rows = self.all_items
        return rows.loc[~rows["also"], ["benchmark", "item", "score", "reference_logprob"]]

    @cached_property
    def all_items(self) -> pd.DataFrame:
        """The rows of `items`, then those of further tasks (`also` of the recipe), with a column `also` (bool)."""
        import pandas as pd

        with located(self.file, "scores"):
            group = self._group("scores", "no scores")
            benchmark = self._strings(group, "benchmark")
            unknown = np.full(len(benchmark), np.nan)
            known = has(group, "reference_logprob")
            return pd.DataFrame({
                "benchmark": benchmark,
                "item": self._strings(self.file, "item"),
                "score": self._item_scores(group) if has(group, "score") else unknown,
                "reference_logprob": self._read(group, "reference_logprob").astype(np.float64) if known else unknown,
                "also": self._also(group, len(benchmark)),
            })  # fmt: skip

    @property
    def score(self) -> float:
        """The mean over benchmarks of the mean per-item score; NaN when the run has no scores."""
        if self._score is not None:
            return self._score
        return self.item_score() if self.has_scores else float("nan")

    def item_score(self) -> float:
        """Compute the score from the per-item scores, instead of reading it from the header."""
        with located(self.file, "scores"):
            group = self._group("scores", "no scores")
            benchmark, scores = np.array(self._strings(group, "benchmark")), self._item_scores(group)
            own = ~self._also(group, len(benchmark))
            if not len(benchmark) == len(own) == len(scores):
                raise ValueError(f"{len(benchmark)} items and {len(scores)} scores")
            return mean_score(scores[own], benchmark[own].tolist())

    def samples(self) -> Samples:
        """Return the scores of every sample of every item, those of further tasks included, in the order of the file.

        Raises LensrlError for a run without scores.
        """
        with located(self.file, "scores"):
            group = self._group("scores", "no scores")
            read = {name: self._read(group, name) for name in ("length", "truncated", "answer") if has(group, name)}
            return Samples(
                benchmark=np.array(self._strings(group, "benchmark")),
                score=self._read(group, "score").astype(np.float64),
                truncated=read["truncated"].astype(bool) if "truncated" in read else None,
                length=read["length"].astype(np.int64) if "length" in read else None,
                answer=read.get("answer"),
            )

    @property
    def scores(self) -> pd.DataFrame:
        """One row per item and sample: benchmark, item, sample, score, length (tokens), truncated.

        The last two are missing where scores were made elsewhere. Further tasks (`also`) are left out: see `samples`.
        """
        import pandas as pd

        with located(self.file, "scores"):
            group = self._group("scores", "no scores")
            if not has(group, "score"):
                raise LensrlError(f"{self.path} has no scores: its study compares models on texts")
            score = self._read(group, "score")
            n_items, n_samples = score.shape
            found = {
                "benchmark": np.repeat(self._strings(group, "benchmark"), n_samples),
                "item": np.repeat(self._strings(self.file, "item"), n_samples),
                "sample": np.tile(np.arange(n_samples), n_items),
                "score": score.reshape(-1),
            }
            if has(group, "length"):
                found["length"] = self._read(group, "length").reshape(-1)
                found["truncated"] = self._read(group, "truncated").reshape(-1).astype(bool)
            own = np.isfinite(score) & ~self._also(group, n_items)[:, None]
            return pd.DataFrame(found)[own.reshape(-1)].reset_index(drop=True)

    @property
    def has_completions(self) -> bool:
        """False for a run that diverged, without scores of its own, or in a file of version 1 or 2."""
        with located(self.file, COMPLETIONS):
            return has(self.file, COMPLETIONS)

    @property
    def completions(self) -> pd.DataFrame:
        """Every completion that was judged: one row per item and sample, further tasks (`also`) included.

        Columns: benchmark, item, sample, prompt, reference, completion, score, tokens, finished. In a task in turns, a
        completion is the transcript, with `> ` before each text of the model. Raises LensrlError for a run without
        completions.
        """
        if not self.has_completions:
            raise LensrlError(f"{self.path} has no completions: {self._no_completions()}")
        with located(self.file, COMPLETIONS):
            return read_completions(self.file)

    @property
    def training_completions(self) -> pd.DataFrame:
        """A few completions of a few training steps: step, item, prompt, completion, reward, tokens, finished.

        There are none where `store.training_completions` is 0, and in files of version 1 or 2.
        """
        with located(self.file, TRAINING_COMPLETIONS):
            return read_training_completions(self.file)

    def _no_completions(self) -> str:
        if not self.has_weights:
            return self.reason
        if self.format_version < COMPLETIONS_SINCE and self.has_scores:
            return f"its format version {self.format_version} kept none; move the file away and run its recipe again"
        return "its study samples none"

    @property
    def training(self) -> pd.DataFrame:
        """One row per training step, with the columns:

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

    @property
    def probe(self) -> pd.DataFrame:
        """One row per token of the probe set: token_id, prompt, position, text."""
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

        They are `dtype`, and for a graft of this run's layers `layers` and `into`. Raises as it does, and for a file
        outside the folder of its study.
        """
        lensrl = import_module("lensrl")
        with lensrl.open_study(self.path.parent) as study:
            return lensrl.save_pretrained(study, self.name, folder, seed=self.seed, **options)

    def bridge(self) -> TransformerBridge:
        """Return the model of this run as a TransformerBridge of TransformerLens: `lensrl.load_bridge`."""
        return import_module("lensrl").load_bridge(self)

    def close(self) -> None:
        self.file.close()

    @cached_property
    def _seal(self) -> Seal | None:
        return read_seal(self.path, self.file.id.get_vfd_handle())

    def __reduce__(self) -> tuple[type[Run], tuple[Path]]:
        return Run, (self.path.absolute(),)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _repr_html_(self) -> str:
        about = f"seed {self.seed} of {self.study}, model {self.base}, {size(self.bytes)}"
        score = f"{self.status}, score {self.score:.3f}"
        status = f"{self.status}: {self.reason}" if self.reason else score if self.has_scores else self.status
        contents = [row._asdict() for row in fold(list_contents(self.file))]
        return run_html(self.name, about, status, contents)

    def __repr__(self) -> str:
        return f"<Run {self.name} seed {self.seed} of {self.study}: {self.status}, score {self.score:.3f}>"

    def _item_scores(self, scores: h5py.Group) -> np.ndarray:
        """The mean score of every item over its samples."""
        values = self._read(scores, "score")
        return item_means(values, np.isfinite(values))

    def _also(self, scores: h5py.Group, items: int) -> np.ndarray:
        """True for each item of a further task."""
        return self._read(scores, "also").astype(bool) if has(scores, "also") else np.zeros(items, bool)

    def _group(self, name: str, absence: str) -> h5py.Group:
        """Return the group with this name. An error message names the missing data as `absence`."""
        with located(self.file, name):
            if has(self.file, name):
                return group_at(self.file, name)
        if name in LEFT_OUT.get(self.keep, ()) and self.has_weights:
            raise LensrlError(f"run {self.name!r} has {absence}: {self._left_out()}")
        taken = "it was taken from a checkpoint" if self.origin == CHECKPOINT else "the base is not trained"
        raise LensrlError(f"run {self.name!r} has {absence}: {self.reason or taken}")

    def _left_out(self) -> str:
        return f"it was made with store.keep = {self.keep!r}; run the recipe with keep = 'all' into another folder"

    def _json(self, name: str) -> dict[str, Any]:
        with located(self.file, name):
            value = json.loads(attribute(self.file, name))
            if not isinstance(value, dict):
                raise ValueError("it is not a JSON object")
            return value

    def _read(self, group: h5py.Group, name: str) -> np.ndarray:
        with located(self.file, f"{str(group.name).rstrip('/')}/{name}"):
            return read_array(group, name)

    def _strings(self, group: h5py.Group, name: str) -> list[str]:
        with located(self.file, f"{str(group.name).rstrip('/')}/{name}"):
            return read_strings(group, name)


def open_run(path: str | Path) -> Run:
    """Open a run file for reading. Raises StoreError when it is missing, damaged or too new."""
    return Run(path)
