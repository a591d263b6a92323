"""Check a model after loading: every tensor came from its folder, every weight is a number, and sampling works.

transformers fills a tensor that a folder lacks with random numbers, and drops a tensor that the model does not know.
It says so only in its report. The checks here read the report and refuse the model.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from lensrl.errors import LensrlError, reason
from lensrl.models.tokenizer import embedding_rows

# Tables that older checkpoints store and that a model computes itself: rotary frequencies, causal masks, positions.
TABLE = re.compile(
    r"(^|\.)(inv_freq|masked_bias|position_ids|causal_mask|cos_cached|sin_cached|(attn|attention)\.bias)$"
)
VALUE_HEAD = "v_head."  # PPO in TRL saves the value head with the policy; the policy is complete without it
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "PEFT",
    "base_layer.": "PEFT",
    "pretrained_model.": "TRL's value head",
}
_QUANTISED = re.compile(r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale(_inv)?|scales|SCB|absmax|weight\.absmax)$")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.")


def check_tensors(name: str, source: str, model: PreTrainedModel, report: Mapping[str, Any]) -> list[str]:
    """Check transformers' loading report, and return notes on tensors that were left out.

    `report` has `missing_keys`, `unexpected_keys` and `mismatched_keys` (name, shape in the files, shape in the model).

    Raises LensrlError in one line, with the first tensor and the likely cause, if the model lacks a tensor, has one of
    another shape, or if a tensor of the folder is left over. Tied heads and tables of positions are no missing weights.
    """
    missing = weights_of(report["missing_keys"])
    left_over = weights_of(report["unexpected_keys"])
    value_head = [key for key in left_over if key.startswith(VALUE_HEAD)]
    left_over = [key for key in left_over if not key.startswith(VALUE_HEAD)]
    mismatched = sorted(report["mismatched_keys"], key=lambda found: _in_order(found[0]))
    check_complete(f"model {name!r}", source, model, missing, left_over)
    if mismatched:
        key, found, expected = mismatched[0]
        raise LensrlError(
            f"model {name!r}: {key} has shape {tuple(found)} in the weights and {tuple(expected)} by config.json; "
            f"give the config.json that was saved with these weights"
        )
    return [f"left out {value_head[0]}: a value head is no part of the policy"] if value_head else []


def check_complete(
    called: str, source: str, model: PreTrainedModel, missing: Sequence[str], left_over: Sequence[str]
) -> None:
    """Raise LensrlError in one line for the first tensor that is missing or left over, with the likely cause.

    `called` is what the line calls the model, and `source` its folder. `model` may be without weights.
    """
    if missing or left_over:
        first = f"lacks {missing[0]}" if missing else f"has a tensor that its model does not know, {left_over[0]}"
        more = len(missing or left_over) - 1
        also = f" and {more} more" if more else ""
        raise LensrlError(f"{called} {first}{also}: {_cause(source, model, missing, left_over)}")


def check_finite(name: str, model: PreTrainedModel) -> None:
    """Raise LensrlError for a weight that is not a finite number, with the first parameter.

    This is one pass over the weights.
    """
    for key, parameter in model.named_parameters():
        low, high = torch.aminmax(parameter.detach())  # NaN goes through both, and nothing is allocated
        if not (torch.isfinite(low) and torch.isfinite(high)):
            kind = "NaN" if torch.isnan(low) else "infinite"
            raise LensrlError(
                f"model {name!r} has {kind} weights, first in {key}: its training diverged or its file is damaged; "
                f"give an earlier checkpoint, or copy it again"
            )


def untie_different_head(model: PreTrainedModel) -> list[str]:
    """Make the configuration say what was loaded, where it ties a head that the weights do not tie. Returns notes."""
    config = model.config.get_text_config()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not config.tie_word_embeddings or head is None or head.weight is embedding.weight:
        return []
    config.tie_word_embeddings = model.config.tie_word_embeddings = False
    return [
        "its config.json ties the head to the embedding, and its weights hold two different ones: they are used as two"
    ]


@torch.no_grad()
def check_drives(name: str, model: PreTrainedModel) -> None:
    """Raise LensrlError in one line for a model that cannot be sampled, before anything is trained.

    Two rows of two tokens get two more tokens each, sampled with the cache. The logits of the last token must be the
    logits of a pass without the cache, to 1 % of their range. All logits must be finite. The rows begin with the same
    token, and later tokens must not change its logits.
    """
    last = embedding_rows(model) - 1
    ids = torch.tensor([[0, 1], [0, last]], device=model.device)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=2, min_new_tokens=2, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    try:
        sampled = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
        read = sampled.sequences[:, :-1]
        logits = model(input_ids=read, attention_mask=torch.ones_like(read)).logits
    except Exception as error:  # whatever a model's own code raises: it cannot be used
        raise LensrlError(
            f"model {name!r} cannot be sampled ({type(error).__name__}: {reason(error)}): lensrl needs a causal "
            f"language model that transformers generates with"
        ) from None
    # The same tolerance for all: noise of fp32 is a thousand times smaller, another token's logits are not near.
    tolerance = 0.01 * float(logits.max() - logits.min())
    if not torch.isfinite(logits).all():
        raise LensrlError(
            f"model {name!r} gives logits that are not finite: its weights are finite and too large; give an earlier "
            f"checkpoint"
        )
    if (logits[0, 0] - logits[1, 0]).abs().max() > tolerance:
        raise LensrlError(
            f"model {name!r} is not causal: a token changes the logits of the token before it; give a decoder "
            f"(for an encoder, is_decoder must be true in its config.json)"
        )
    if (sampled.logits[-1] - logits[:, -1]).abs().max() > tolerance:
        raise LensrlError(
            f"model {name!r} gives other logits with its cache than without: samples would not come from the model "
            f"that is trained; update transformers, or give another model"
        )


def weights_of(keys: Iterable[str]) -> list[str]:
    """Return the names that are weights, layer by layer."""
    return sorted((key for key in keys if not TABLE.search(key)), key=_in_order)


def _in_order(key: str) -> list[tuple[int, str]]:
    """Sort names with their numbers as numbers: layer 2 before layer 10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in key.split(".")]


def _cause(source: str, model: PreTrainedModel, missing: Sequence[str], left_over: Sequence[str]) -> str:
    """Return the likely cause of missing and left-over tensors, and what to do."""
    lora = next((key for key in left_over if "lora_" in key), None)
    if lora is not None:
        return f"{lora} is an adapter that was not merged; merge it with merge_and_unload() of peft, and save again"
    quantised = next((key for key in left_over if _QUANTISED.search(key)), None)
    if quantised is not None:
        return f"{quantised} belongs to quantised weights; give the model that was quantised"
    # A tensor that is there under another name: one of a known wrapper, or one with something before it.
    lacking = {*missing}
    for wrapper, tool in _WRAPPERS.items():
        key = next((key for key in left_over if wrapper in key and key.replace(wrapper, "") in lacking), None)
        if key is not None:
            return f"its files hold {key}, a name that {tool} gave; rename: {_rename_command(source, wrapper)}"
    prefix = next((key.removesuffix(end) for key in left_over if (end := _known_end(key, lacking))), "")
    if prefix:
        key = next(key for key in left_over if key.startswith(prefix))
        return f"its files hold {key}, with {prefix} before each name; rename: {_rename_command(source, prefix)}"
    if lacking >= {name for name, _ in model.named_parameters()}:
        names = f" (its files hold {left_over[0]})" if left_over else ""
        return f"its weights are of another architecture than its config.json{names}; give the folder as it was saved"
    return _cause_in_part(model, missing, left_over)


def _known_end(key: str, known: set[str]) -> str:
    """Return the longest end of a tensor's name that is in `known`, or nothing."""
    pieces = key.split(".")
    ends = (".".join(pieces[start:]) for start in range(1, len(pieces)))
    return next((end for end in ends if end in known), "")


def _cause_in_part(model: PreTrainedModel, missing: Sequence[str], left_over: Sequence[str]) -> str:
    """Return the likely cause where most tensors are there."""
    # Whole layers too many or too few: the config is of another depth.
    declared = int(model.config.get_text_config().num_hidden_layers)
    lacking, beyond = _layers(missing), {layer for layer in _layers(left_over) if layer >= declared}
    if beyond:
        return (
            f"its weights have {max(beyond) + 1} layers and its config.json says {declared}; give the config.json that "
            f"was saved with these weights"
        )
    if lacking and lacking == {*range(min(lacking), declared)} and _whole_layers(model, missing, lacking):
        return (
            f"its weights have {min(lacking)} layers and its config.json says {declared}; give the config.json that "
            f"was saved with these weights"
        )
    # All but the head is there.
    head = model.get_output_embeddings()
    heads = {name for name, module in model.named_modules() if module is head}
    if missing and all(key.rpartition(".")[0] in heads for key in missing):
        if any(not _LAYER.search(key) for key in left_over):
            return f"{left_over[0]} is the head of a classifier; give the causal language model itself"
        return (
            "it is a base model without its head, or a model whose head is the embedding; give the folder with its "
            "head, or set tie_word_embeddings to true in its config.json if the head is the embedding"
        )
    # Nothing is missing, and something is left over.
    if not missing and not _layers(left_over):
        return "the head of a classifier or of another task; give the causal language model itself"
    if not missing:
        return "it was saved from another architecture than its config.json says; give the config.json of these weights"
    return "it was saved or copied in part; save or copy it again"


def _layers(keys: Iterable[str]) -> set[int]:
    """Return the numbers of the layers in tensor names."""
    return {int(found[1]) for key in keys if (found := _LAYER.search(key))}


def _whole_layers(model: PreTrainedModel, missing: Iterable[str], layers: set[int]) -> bool:
    """Return whether `missing` holds every parameter of these layers."""
    names = [name for name, _ in model.named_parameters() if (found := _LAYER.search(name)) and int(found[1]) in layers]
    return {*names} <= {*missing}


def _rename_command(source: str, wrapper: str) -> str:
    """Return a command that makes a copy of a folder without `wrapper` in the names of its tensors."""
    # from_pretrained with another mapping of names would fill what is still missing with random numbers.
    code = (
        "import glob, shutil, sys; from safetensors.torch import load_file, save_file; "
        'files = glob.glob(sys.argv[1] + "/*.safetensors"); '
        f'weights = {{k.replace("{wrapper}", ""): w for f in files for k, w in load_file(f).items()}}; '
        'shutil.copytree(*sys.argv[1:], ignore=shutil.ignore_patterns("*.safetensors*")); '
        'save_file(weights, sys.argv[2] + "/model.safetensors", {"format": "pt"})'
    )
    return f"python -c {shlex.quote(code)} {shlex.quote(source)} OUT"
