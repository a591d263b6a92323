"""Models leave a study: the weights of a run, or of a graft, as a transformers model or as a Hugging Face folder.

- `load_model(run)` and `graft(study, layers=[20])` return a model and its tokenizer, ready to generate.
- `save_pretrained(study, "full-rl", folder)` writes the folder. `run.save_pretrained(folder)` calls it.

The weights are base + deltas, which is exact: an fp32 folder opens to the trained weights bit for bit. The folder also
has the config, the tokenizer files and the generation config of the base, and a model card (`model_card`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from lensrl.compare.model_card import Exported, model_card, spell_parts
from lensrl.compare.patching.graft import check_has_weights, run_weights
from lensrl.compare.patching.graft import graft as graft_weights
from lensrl.errors import LensrlError, StoreError, did_you_mean, reason
from lensrl.models.base import Base, load_base
from lensrl.recipe.layers import OUTSIDE, LayerSpec, parse_layers
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.file.atomic import check_vacant, new_folder
from lensrl.store.look import result_html
from lensrl.store.old_names import renamed
from lensrl.store.run import Run
from lensrl.store.study import Study

Dtype = Literal["float32", "bfloat16", "float16"]
GENERATION_CONFIG = "generation_config.json"
CARD = "README.md"

# Every file from which transformers makes a tokenizer that has a tokenizer.json.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
)  # fmt: skip


class LoadedModel(NamedTuple):
    """A model and its tokenizer: `model, tokenizer = lensrl.load_model(run)`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        return f"<LoadedModel: {type(self.model).__name__} with {size:.3g} parameters; {type(self.tokenizer).__name__}>"

    def _repr_html_(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        row = {"model": type(self.model).__name__, "parameters": f"{size:.3g}"}
        return result_html("LoadedModel", [row | {"tokenizer": type(self.tokenizer).__name__}])


@dataclass(frozen=True)
class Source:
    """The stored weights to take: all of `run`, or the `parts` of `run` put into the run `into`."""

    run: Run
    into: Run | None = None
    parts: tuple[int | str, ...] = ()

    def weights(self, base: Base) -> dict[str, torch.Tensor]:
        """Return the fp32 weights. Raises LensrlError for a graft that changes nothing."""
        weights = run_weights(self.run, base)
        if self.into is None:
            return weights
        receiver = run_weights(self.into, base)
        grafted = graft_weights(base, receiver, weights, self.parts)
        if all(torch.equal(grafted[name], receiver[name]) for name in receiver):
            raise LensrlError(
                f"{self.run.name!r} and {self.into.name!r} have the same weights in {spell_parts(self.parts)}: "
                f"the graft would be {self.into.name!r}; {self.run.name!r} changed {spell_parts([*self.run.deltas])}"
            )
        return grafted


def load_model(run: Run) -> LoadedModel:
    """Return the model of a run with its tokenizer, ready to generate: on the CPU, in fp32, bit for bit as trained.

    The model has the generation config of the base model, with its sampling defaults. `save_pretrained` of this module
    writes a folder with a model card; the model's own method of this name writes weights and configs alone.

    Raises LensrlError when the run diverged, and when its base model cannot be loaded or has changed.
    """
    return _load(Source(run))


def graft(
    study: Study, layers: LayerSpec, *, from_run: str = FULL, into_run: str = BASE, seed: int | None = None
) -> LoadedModel:
    """Return the run `into_run` with `layers` of the run `from_run` in it, and its tokenizer: see `load_model`.

    `layers` is a number, a range `0-7`, a list, or `all`. It may also name parts outside the layers: `embed`,
    `final_norm`, `lm_head`. `seed=None`: see `lensrl.store.runs.Runs`.

    Raises LensrlError as `load_model` does, for layers or runs that do not exist, and for a graft that changes nothing.
    """
    return _load(find_source(study, from_run, seed=seed, layers=layers, into=into_run))


@renamed(into="into_run")
def save_pretrained(
    study: Study,
    run: str,
    folder: str | Path,
    *,
    seed: int | None = None,
    dtype: Dtype = "float32",
    layers: LayerSpec | None = None,
    into_run: str | None = None,
) -> Path:
    """Write a run, or a graft, as a Hugging Face folder, and return the folder's path.

    `AutoModelForCausalLM.from_pretrained(folder)` opens it. The folder holds the config, the weights as safetensors
    (in shards where they are large), the tokenizer files and the generation config of the base model, and README.md,
    a model card that says where the weights come from.

    With `dtype="float32"` the weights are the trained ones, bit for bit. `bfloat16` and `float16` round each weight to
    the nearest number of that type, as torch does; the model card then says how much of the change is left.

    With `layers`, the weights are a graft: these layers of `run`, put into `into_run` (by default the base). See
    `graft` for the words and for `seed=None`.

    The folder appears whole or not at all. It is opened once before that, and its weights are compared.

    Raises LensrlError as `graft` does, when `folder` has files in it, when a weight is too large for `dtype`, and when
    the written folder does not open to the same weights.
    """
    path = check_new_folder(folder)
    if dtype not in get_args(Dtype):
        raise LensrlError(f"dtype={dtype!r}: weights are not written as this{did_you_mean(dtype, get_args(Dtype))}")
    source = find_source(study, run, seed=seed, layers=layers, into=into_run)
    base = load_base(source.run.base)
    # The weights, and what the card says about them.
    exact = source.weights(base)
    rounded = exact if dtype == "float32" else _rounded(exact, dtype)
    model = base.fresh(rounded)
    about = Exported(
        study=study.name,
        run=source.run,
        into=source.into,
        parts=source.parts,
        base=study.runs.of(BASE).get(0),
        dtype=dtype,
        fingerprint=fingerprint_of(base, model),
        kept_share=None if dtype == "float32" else _kept_share(base.weights, exact, dtype),
        changed=changed_parts(base, exact),
        tokenizer_class=_tokenizer_class(base.tokenizer),
        generation_config=_original(base, GENERATION_CONFIG) is not None,
    )
    del exact, rounded  # a model and its weights may fill the memory
    # The folder of the base may hold code for its model. None of it was run, and none is copied.
    vars(model.config).pop("auto_map", None)
    with new_folder(path) as partial:
        try:
            model.to(getattr(torch, dtype)).save_pretrained(partial)  # pyright: ignore[reportArgumentType]
        except SafetensorError as error:  # a full disk, for example
            raise StoreError(f"{path} could not be written ({reason(error)}); nothing was changed") from error
        del model
        for shard in partial.glob("*.safetensors"):  # written for their owner alone
            shard.chmod((partial / "config.json").stat().st_mode)
        _copy_from_base(base, partial)
        _check_opens(partial, base, about.fingerprint)
        (partial / CARD).write_text(model_card(about), encoding="utf-8")
    return path


def check_new_folder(folder: str | Path) -> Path:
    """Return the absolute path of a folder to write. Raises LensrlError when something is there."""
    path = Path(folder).expanduser().resolve()
    check_vacant(path)
    if path == Path.cwd():
        raise LensrlError(f"{path} is the folder you are in, and it would be replaced: name a new folder")
    return path


def find_source(study: Study, run: str, *, seed: int | None, layers: LayerSpec | None, into: str | None) -> Source:
    """Find the runs of an export. Raises LensrlError where they do not exist, diverged, or make no graft."""
    if layers is None and into is not None:
        raise LensrlError(f"into {into!r} needs the layers to put there: add --layers 20, 0-7, 1,3,5, or all")
    names = [run] if layers is None else [run, into or BASE]
    if len(set(names)) < len(names):
        raise LensrlError(f"layers of {run!r} in {run!r} are {run!r} itself: choose another run with --into")
    training_seed = study.runs.shared_seed(*names, scored=True) if seed is None else seed
    runs = [study.runs.find_scored(name, training_seed) for name in names]
    if layers is None:
        return Source(runs[0])
    return Source(runs[0], runs[1], _parse_parts(layers, study.n_layers))


def _parse_parts(layers: LayerSpec, n_layers: int) -> tuple[int | str, ...]:
    """Parse layers and parts outside the layers: `0-2,embed` gives (0, 1, 2, "embed")."""
    given = [layers] if isinstance(layers, int | str) else layers
    words = [word.strip() for part in given for word in str(part).split(",")]
    parts = (
        *parse_layers([word for word in words if word not in OUTSIDE], n_layers),
        *(p for p in OUTSIDE if p in words),
    )
    if not parts:
        raise LensrlError("no layers are named: give a number, a range such as 0-7, a list 1,3,5, or all")
    return parts


def _load(source: Source) -> LoadedModel:
    check_has_weights(source.run)
    base = load_base(source.run.base)
    model = base.fresh(source.weights(base))
    declared = _original(base, GENERATION_CONFIG)
    if declared is not None:
        model.generation_config = GenerationConfig.from_pretrained(declared.parent)
        if model.generation_config.pad_token_id is None:
            model.generation_config.pad_token_id = base.tokenizer.pad_token_id
    return LoadedModel(model, base.tokenizer)


def _original(base: Base, file: str) -> Path | None:
    """Return the path of a file in the folder, or in the cached snapshot of the hub, from which the base was loaded."""
    found = cached_file(
        str(base.model.name_or_path),
        file,
        revision=getattr(base.model.config, "_commit_hash", None),
        _raise_exceptions_for_missing_entries=False,
    )
    return None if found is None else Path(found)


def _copy_from_base(base: Base, folder: Path) -> None:
    """Copy the generation config and the tokenizer files of the base, byte for byte.

    The base in memory has other ones: no sampling defaults, and a padding token. A tokenizer without tokenizer.json is
    written as it is in memory.
    """
    names = [GENERATION_CONFIG, *TOKENIZER_FILES]
    if _original(base, "tokenizer.json") is None:
        base.tokenizer.save_pretrained(folder)
        names = [GENERATION_CONFIG]
    for name in names:
        original = _original(base, name)
        if original is not None:
            shutil.copyfile(original, folder / name)


def _rounded(weights: Mapping[str, torch.Tensor], dtype: Dtype) -> dict[str, torch.Tensor]:
    """Round weights to a narrower type, and return them as fp32 tensors.

    Raises LensrlError where a weight is too large for the type.
    """
    rounded = {name: weight.to(getattr(torch, dtype)).float() for name, weight in weights.items()}
    for name, weight in rounded.items():
        if not weight.isfinite().all() and weights[name].isfinite().all():
            largest = float(weights[name].abs().max())
            raise LensrlError(f"{name} has a weight of size {largest:.3g}, too large for {dtype}: use --dtype bfloat16")
    return rounded


def _kept_share(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], dtype: Dtype) -> float:
    """Return the share of the entries that differ from the base which still differ when both are rounded."""
    changed = kept = 0
    for name, weight in after.items():
        if weight is before[name]:
            continue
        narrow = getattr(torch, dtype)
        changed += int((weight != before[name]).sum())
        kept += int((weight.to(narrow) != before[name].to(narrow)).sum())
    return kept / changed if changed else 1.0


def changed_parts(base: Base, weights: Mapping[str, torch.Tensor]) -> list[int | str]:
    """Return the parts in which a weight differs from the base: layers by depth, then the parts outside."""
    changed = {base.blocks.part(name) for name in weights if not torch.equal(weights[name], base.weights[name])}
    return [part for part in (*range(base.blocks.n_layers), *OUTSIDE) if part in changed]


def fingerprint_of(base: Base, model: PreTrainedModel) -> str:
    """Return the fingerprint of an fp32 model with the parameters of the base: see `Base.fingerprint`."""
    return replace(base, model=model).fingerprint


def _check_opens(folder: Path, base: Base, fingerprint: str) -> None:
    """Raise LensrlError unless transformers opens a folder to the weights with this fingerprint."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    )
    if fingerprint_of(base, model) != fingerprint:
        raise LensrlError(
            f"transformers opens the files of this {type(model).__name__} to other weights than were written: nothing "
            f"is exported"
        )


def _tokenizer_class(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the class that opens the tokenizer. AutoTokenizer would give some models the rules of another tokenizer.

    See `lensrl.models.base`.
    """
    general = type(tokenizer).__name__ in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return "PreTrainedTokenizerFast" if general else "AutoTokenizer"
