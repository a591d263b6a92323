"""Check the files of a model folder before anything is loaded: of a base, and of a checkpoint that comes in.

transformers looks for `model.safetensors` or its index, and passes over everything else in a folder. The checks here
name the other kinds of checkpoints, and the command that turns each of them into a model folder. `called` is what a
message calls the model: `model 'x'`, or `checkpoint x`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lensrl.errors import LensrlError, reason

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # safetensors' names -> torch's
# Recipes in runs/ take models that are made for them from data/. It could be an owner on the hub as well.
MADE = "a recipe in runs/ says in its first comment what makes the folder"
REACHED = "a hub name that this machine can reach or has in its cache"
_POINTER = b"version https://git-lfs"
_VERL, _DCP, _ZERO = "model_world_size_*_rank_*.pt", "*.distcp", "*mp_rank_*"
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "RewardModel")


def not_found(called: str, name: str, error: Exception) -> LensrlError:
    """Return the error for a name that is no folder, and for which the hub gives no model because of `error`."""
    return LensrlError(
        f"{called} cannot be loaded: there is no such folder, and the hub gives no model ({reason(error)}); "
        + (MADE if name.startswith("data/") else f"give a local folder, or {REACHED}")
    )


def check_files(folder: Path, called: str) -> None:
    """Raise LensrlError in one line for a folder that holds no complete model in safetensors files.

    Shards of a training framework are refused when they lie in the folder itself, and also in its subfolders when the
    folder has no weights. A checkpoint of the Trainer may keep the optimizer's shards below complete weights.
    """
    has_weights = (folder / WEIGHTS).exists() or (folder / INDEX).exists()
    if (folder / ADAPTER).exists():  # before the shards: an adapter's checkpoint may hold those of its optimizer
        raise LensrlError(adapter_message(called, str(folder), beside=has_weights))
    for place in [folder] if has_weights else [folder, *_subfolders(folder)]:
        _check_shards(place, folder, called)
    if has_weights:
        _check_safetensors(folder, called)
    else:
        _check_other_weights(folder, called)
    if not (folder / "config.json").exists():
        raise LensrlError(f"{called} has no config.json; {_advice_without_config(folder, has_weights=has_weights)}")
    if not has_weights:
        raise LensrlError(f"{called} has no {WEIGHTS}; give a folder with config.json, safetensors and tokenizer files")


def check_config(called: str, config: Mapping[str, Any]) -> None:
    """Raise LensrlError in one line for a `config.json` of quantised weights, of a classifier, or with impossible ids.

    `config` holds the values of the file. The class of a configuration would fill in defaults.
    """
    text = {**config, **(config.get("text_config") or {})}
    quantised = text.get("quantization_config") or text.get("compression_config")
    if quantised:
        method = quantised.get("quant_method", "an unnamed method") if isinstance(quantised, dict) else quantised
        raise LensrlError(
            f"{called} is quantised ({method}, quantization_config in its config.json): deltas need full "
            f"weights; give the model that was quantised, or delete that entry if the weights are not quantised"
        )
    for architecture in config.get("architectures") or []:
        if architecture.endswith(_CLASSIFIERS):
            raise LensrlError(
                f"{called} is a {architecture}: it has a classifier in place of a language model's head; "
                f"give the causal language model itself (the policy, not its reward model)"
            )
    vocabulary = text.get("vocab_size")
    for key in ("pad_token_id", "eos_token_id"):
        ids = text.get(key)
        for token in ids if isinstance(ids, list) else [ids]:
            # A pad id of -1 is how older configurations say that there is none.
            if isinstance(token, int) and isinstance(vocabulary, int) and not -1 <= token < vocabulary:
                raise LensrlError(
                    f"{called}: {key} {token} in its config.json is outside the vocabulary of {vocabulary}; "
                    f"set it to the id of a token"
                )


def _advice_without_config(folder: Path, *, has_weights: bool) -> str:
    """Say what to give in place of a folder without config.json."""
    if has_weights:  # accelerate's save_state, or merged shards
        return "copy config.json and the tokenizer files of the model that was trained into it"
    below = [path for name in ("config.json", ADAPTER) for path in folder.glob(f"*/{name}")]
    if below:  # the output folder of a trainer
        return f"give one of its folders, such as {max(below, key=lambda path: path.stat().st_mtime).parent}"
    return "give a folder with config.json, safetensors and tokenizer files"


def adapter_message(called: str, name: str, *, beside: bool) -> str:
    """Return the refusal of an adapter, alone or `beside` a full model."""
    code = (
        f"from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; "
        f'M.from_pretrained({json.dumps(name)}).merge_and_unload().save_pretrained("OUT"); '
        f'T.from_pretrained({json.dumps(name)}).save_pretrained("OUT")'
    )
    if beside:
        return (
            f"{called} holds an adapter ({ADAPTER}) beside a full model, so it may mean either; move {ADAPTER} "
            f"and adapter_model.safetensors to another folder for the full model alone, or merge the adapter: "
            f"python -c {shlex.quote(code)}"
        )
    return f"{called} is an adapter ({ADAPTER}), not a full model; merge it: python -c {shlex.quote(code)}"


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders up to two levels below `folder`; for the `huggingface` folder of verl, its parent as well."""
    below = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_dir())
    return [*below, folder.absolute().parent] if folder.name == "huggingface" else below


def _check_shards(place: Path, model: Path, called: str) -> None:
    """Raise LensrlError if `place` holds the shards of a training framework. `model` is the folder that was given."""
    ready = _complete_model_near(place, model)
    at = shlex.quote(str(place))
    # Each framework names its shards in its own way, and merges them by its own command.
    if next(place.glob(_VERL), None) is not None:
        kind, command = (
            "verl's FSDP shards",
            f"python -m verl.model_merger merge --backend fsdp --local_dir {at} --target_dir OUT",
        )
    elif place.name == "dist_ckpt" and next(place.glob(_DCP), None) is not None:
        at = shlex.quote(str(place.parent))
        kind = "verl's Megatron shards"
        command = f"python -m verl.model_merger merge --backend megatron --local_dir {at} --target_dir OUT"
    elif next(place.glob(_DCP), None) is not None:
        kind = "FSDP or DCP shards"
        command = f"accelerate merge-weights {at} OUT ; then copy config.json and the tokenizer files to OUT"
    elif next(place.glob(_ZERO), None) is not None:
        top = place.parent if place.name.startswith("global_step") else place
        at, script = shlex.quote(str(top)), shlex.quote(str(top / "zero_to_fp32.py"))
        kind = "DeepSpeed ZeRO shards"
        command = (
            f"python {script} {at} OUT --safe_serialization ; then copy config.json and the tokenizer files to OUT"
        )
    else:
        return
    advice = f"give {ready}, which holds a complete model" if ready else f"merge them: {command}"
    raise LensrlError(f"{called} holds {kind} (in {place}), not a model's safetensors; {advice}")


def _complete_model_near(place: Path, model: Path) -> Path | None:
    """Return a folder beside or below the shards in `place` that holds a complete model, if there is one."""
    for folder in (place / "huggingface", place.parent / "huggingface", *model.glob("*/")):
        has_weights = (folder / WEIGHTS).exists() or (folder / INDEX).exists()
        if folder != model and has_weights and (folder / "config.json").exists():
            return folder
    return None


def _check_safetensors(folder: Path, called: str) -> None:
    """Raise LensrlError that names the file if a safetensors file is absent, incomplete or a pointer of Git LFS."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).exists():  # transformers prefers one file to an index
        try:
            names = sorted({*json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LensrlError(
                f"{called}: its {INDEX} cannot be read ({reason(error)}); copy or download it again"
            ) from None
    for name in names:
        path = folder / name
        if not path.exists():
            raise LensrlError(
                f"{called}: its {INDEX} names {name}, which is not in the folder; copy or download {name}"
            )
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
        if pointer:
            raise LensrlError(f"{called}: {name} is a pointer of Git LFS; type git lfs pull in the folder")
        try:
            with safe_open(path, "pt") as file:  # reads the header alone, and compares it with the size of the file
                kinds = {key: file.get_slice(key).get_dtype() for key in file.keys() if key.endswith(".weight")}  # noqa: SIM118
        except SafetensorError as error:
            raise LensrlError(
                f"{called}: {name} is damaged or cut short ({reason(error)}); copy or download it again"
            ) from None
        # transformers would take the codes of a quantised matrix for its weights.
        for key, kind in kinds.items():
            if kind not in DTYPES:
                raise LensrlError(quantised_message(called, key, kind))


def quantised_message(called: str, key: str, kind: str) -> str:
    """Return the refusal of a tensor that is stored as `kind`, a type of quantised weights."""
    return f"{called} is quantised ({key} is stored as {kind}): deltas need full weights; give one in bf16 or fp32"


def _check_other_weights(folder: Path, called: str) -> None:
    """Raise LensrlError for weights that are no safetensors: pickle, or shards without an index."""
    if next(folder.glob("model-*-of-*.safetensors"), None) is not None:
        raise LensrlError(
            f"{called} holds shards without {INDEX}, which says which shards there are; copy or download that file too"
        )
    if next(folder.glob("*.gguf"), None) is not None:
        raise LensrlError(
            f"{called} holds a GGUF file, whose weights are quantised or renamed; give the model that it was made from"
        )
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickles:
        # Tensors keep their names: from_pretrained would fill missing ones with random numbers before saving.
        code = (
            "import glob, sys, torch; from safetensors.torch import save_file; "
            'files = glob.glob(sys.argv[1] + "/pytorch_model*.bin"); '
            "weights = {k: w.clone() for f in files for k, w in torch.load(f, weights_only=True).items()}; "
            'save_file(weights, sys.argv[1] + "/model.safetensors", {"format": "pt"})'
        )
        raise LensrlError(
            f"{called} holds its weights as pickle ({pickles[0]}), which can run code; convert them: "
            f"python -c {shlex.quote(code)} {shlex.quote(str(folder))}"
        )
