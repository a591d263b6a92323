"""Load a base model once, with fp32 master weights, and make fresh copies of it.

Every trained, grafted or probed model is a fresh copy of the pristine base plus a set of weights. A trained model is
never copied: accelerate leaves `forward` bound to the original on the instance, so a deep copy of a trained model runs
the original's weights.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.logging import disable_progress_bar

from lensrl.errors import LensrlError, did_you_mean, reason
from lensrl.models.blocks import Blocks, find_blocks

EMBEDDED = ("tiny:qwen3", "tiny:qwen2.5")


@dataclass(frozen=True)
class Base:
    """A pristine base model on the CPU. Nothing trains or hooks `model` itself: take a `fresh` copy."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    blocks: Blocks

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights: parameter name -> fp32 tensor. Tied parameters appear once."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over the names, shapes, types and bytes of all parameters, which tells one base from another."""
        digest = hashlib.sha256()
        for name in sorted(self.weights):
            tensor = self.weights[name]
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def fresh(self, weights: Mapping[str, torch.Tensor] | None = None, *, device: str = "cpu") -> PreTrainedModel:
        """Return a new model on `device`: the base, with `weights` in place of its own weights of the same names."""
        model = copy.deepcopy(self.model)
        if weights:
            parameters = dict(model.named_parameters())
            with torch.no_grad():
                for name, tensor in weights.items():
                    parameters[name].copy_(tensor)
        return model.to(device)  # pyright: ignore[reportArgumentType]


def load_base(name: str) -> Base:
    """Load a base model and its tokenizer in fp32, without running code from a model folder.

    `name` is an embedded model (`tiny:qwen3`, `tiny:qwen2.5`), a local folder, or a Hugging Face name.

    Raises LensrlError in one line if there is no such model, if the hub cannot be reached, or if the model has
    parameters that are not fp32, no usable tokenizer, or no stack of decoder blocks.
    """
    source = _source(name)
    disable_progress_bar()  # lensrl prints its own line for progress, and its own line for an error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = _load_tokenizer(source)
    except (OSError, ValueError, SafetensorError) as error:
        raise LensrlError(
            f"model {name!r} cannot be loaded ({reason(error)}); give a local folder with config.json, safetensors and "
            f"tokenizer files, or a hub name that this machine can reach or has in its cache"
        ) from None
    # Check what the rest of lensrl relies on: fp32 masters, an end of sequence, a padding token.
    other = {p.dtype for p in model.parameters()} - {torch.float32}
    if other:
        raise LensrlError(f"model {name!r} has parameters in {other}: fp32 masters are needed")
    if tokenizer.eos_token_id is None or len(tokenizer) < 2:
        raise LensrlError(
            f"model {name!r} has no usable tokenizer: its folder needs tokenizer.json with an end of sequence"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Drop the checkpoint's sampling defaults: a repetition penalty, for example, would score another policy than the
    # trained one.
    declared = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=declared, pad_token_id=tokenizer.pad_token_id)
    return Base(name, model.eval(), tokenizer, find_blocks(model))


def _load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder, from its tokenizer.json if the folder names no special class.

    AutoTokenizer follows the model's architecture instead for some models. A Qwen2 model gets the splitting rules of
    the published Qwen2, which silently drop text for which another vocabulary has no token.
    """
    declared = get_tokenizer_config(source, trust_remote_code=False).get("tokenizer_class")
    general = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if general else AutoTokenizer).from_pretrained(source, trust_remote_code=False)


def pick_device() -> str:
    """Return `cuda` if there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _source(name: str) -> str:
    """Return the folder or hub name from which transformers loads a model."""
    if name.startswith("tiny:"):
        if name not in EMBEDDED:
            raise LensrlError(f"no embedded model {name!r}{did_you_mean(name, EMBEDDED)}")
        return str(resources.files("lensrl.models.tiny") / name.removeprefix("tiny:"))
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise LensrlError(f"no model folder at {name}; give a folder with config.json, safetensors and tokenizer files")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
