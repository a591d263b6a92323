"""Load a base model once, with fp32 master weights, and make fresh copies of it.

Every trained, scored, grafted or probed model is a new one: the pristine base with a set of weights. A trained model is
never copied: accelerate leaves `forward` bound to the original on the instance, so a deep copy of a trained model runs
the original's weights.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import has_file
from transformers.utils.logging import disable_progress_bar

from lensrl.errors import LensrlError, did_you_mean, reason
from lensrl.models.blocks import Blocks, find_blocks
from lensrl.models.folder import ADAPTER, MADE, REACHED, adapter_message, check_config, check_files, not_found
from lensrl.models.loading import check_drives, check_finite, check_tensors, untie_different_head
from lensrl.models.prompts import Prompts
from lensrl.models.tokenizer import check_ids, drop_final_end, load_tokenizer
from lensrl.recipe import Prompt

EMBEDDED = ("tiny:qwen3", "tiny:qwen2.5", "tiny:qwen3-deep")
_FILES = "with config.json, safetensors and tokenizer files"
_ADVICE = f"give a local folder {_FILES}, or {REACHED}"


@dataclass(frozen=True)
class Base:
    """A pristine base model on the CPU. Nothing trains or hooks `model` itself: take a `fresh` copy."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    blocks: Blocks
    notes: tuple[str, ...] = ()  # changes that loading made to what the folder says, each in one line
    prompt: Prompt = field(default_factory=Prompt)  # how the text of an item becomes the text that the model reads

    @cached_property
    def prompts(self) -> Prompts:
        """What the model reads: items, and histories of turns, as tokens."""
        return Prompts(self.tokenizer, self.prompt, self.name)

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights: parameter name -> fp32 tensor. Tied parameters appear once."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of its weights, which tells one base from another (`fingerprint`)."""
        return fingerprint({name: tensor.numpy() for name, tensor in self.weights.items()})

    def fresh(self, weights: Mapping[str, torch.Tensor] | None = None, *, device: str = "cpu") -> PreTrainedModel:
        """Return a new model on `device`: the base, with `weights` in place of its own weights of the same names."""
        model = copy.deepcopy(self.model)
        if weights:
            parameters = dict(model.named_parameters())
            with torch.no_grad():
                for name, tensor in weights.items():
                    parameters[name].copy_(tensor)
        return model.to(device)  # pyright: ignore[reportArgumentType]

    def reading(self, weights: Mapping[str, torch.Tensor] | None = None, *, device: str = "cpu") -> PreTrainedModel:
        """Return the same as `fresh` for forward passes alone: on the CPU, it holds no copy of any weight.

        Its weights are those of the base and of `weights` themselves. Nothing may write to them: put others in their
        place (`lensrl.compare.patching.graft.holding`), or take a `fresh` copy. Raises KeyError for a weight that the
        base does not have.
        """
        own = {**self.weights, **(weights or {})}
        if unknown := own.keys() - self.weights.keys():
            raise KeyError(f"{self.name} has no parameter {sorted(unknown)[0]!r}")
        shared = {
            id(parameter): torch.nn.Parameter(own[name], requires_grad=parameter.requires_grad)
            for name, parameter in self.model.named_parameters()
        }
        model = copy.deepcopy(self.model, dict(shared))  # what a deep copy finds there, it takes
        return model.to(device)  # pyright: ignore[reportArgumentType]


def fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 over the names, shapes, types and bytes of all weights of a base, which are fp32."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name], np.float32)
        digest.update(f"{name} {values.shape} torch.float32\n".encode())  # as torch spells the type
        digest.update(values.data)
    return digest.hexdigest()


def load_base(name: str, prompt: Prompt | None = None) -> Base:
    """Load a base model and its tokenizer in fp32, without running code from a model folder.

    `name` is an embedded model (`EMBEDDED`), a local folder, or a Hugging Face name. `prompt` is the table `[prompt]`
    of a recipe. Where it asks for a chat, the token that ends an answer there also ends sampling.

    Raises LensrlError in one line for each of these:

    - There is no such model, or the hub cannot be reached.
    - The folder is not a complete model in safetensors files (`lensrl.models.folder`).
    - Tensors are missing, left over, of another shape or not finite, or sampling fails (`lensrl.models.loading`).
    - The tokenizer does not fit the model (`lensrl.models.tokenizer`).
    - A chat is asked for, and there is no chat template that can be used (`lensrl.models.prompts`).
    - The model has no stack of decoder blocks.
    """
    source, called = find_source(name), f"model {name!r}"
    quiet_hub()
    # 1. The files and the configuration, before any weight is read.
    if Path(source).is_dir():
        check_files(Path(source), called)
    elif _hub_has(source, ADAPTER):
        raise LensrlError(adapter_message(called, name, beside=_hub_has(source, "config.json")))
    try:
        written, _ = PreTrainedConfig.get_config_dict(source)
    except Exception as error:
        if Path(source).is_dir():
            raise LensrlError(f"{called} cannot be loaded ({reason(error)}); {_ADVICE}") from None
        raise not_found(called, name, error) from None
    check_config(called, written)
    with _in_one_line(name, "correct its config.json, or update transformers for a newer model"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    # 2. The model. Each of its tensors must come from its files.
    with _in_one_line(name), _silent("transformers.modeling_utils"):
        model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            source,
            config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True,
            output_loading_info=True, ignore_mismatched_sizes=True,  # refused below, with the name and both shapes
        )  # fmt: skip
    notes = check_tensors(name, source, model, report)
    other = {p.dtype for p in model.parameters()} - {torch.float32}
    if other:
        raise LensrlError(f"model {name!r} has parameters in {other}: fp32 masters are needed")
    check_finite(name, model)
    notes += untie_different_head(model)
    # 3. The tokenizer: an end of sequence, a padding token, and an embedding for each of its tokens.
    with _in_one_line(name):
        tokenizer = load_tokenizer(source)
    if tokenizer.eos_token_id is None or len(tokenizer) < 2:
        raise LensrlError(
            f"model {name!r} has no usable tokenizer: its folder needs tokenizer.json with an end of sequence"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_ids(name, model, tokenizer)
    if drop_final_end(name, tokenizer):
        notes.append(f"its tokenizer appends {tokenizer.eos_token} to every text: prompts come without it")
    # 4. Sampling. Drop the checkpoint's sampling defaults: a repetition penalty, for example, would score another
    # policy than the trained one.
    declared = model.generation_config.eos_token_id
    prompts = Prompts(tokenizer, prompt or Prompt(), name)
    if prompts.closing:
        ends = declared if isinstance(declared, list) else [] if declared is None else [declared]
        declared = sorted({*ends, prompts.end})
    model.generation_config = GenerationConfig(eos_token_id=declared, pad_token_id=tokenizer.pad_token_id)
    check_drives(name, model.eval())
    return Base(name, model, tokenizer, find_blocks(model), tuple(notes), prompts.settings)


def quiet_hub() -> None:
    """Let lensrl alone speak of loading: it prints its own line for progress, and its own line for an error."""
    disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _hub_has(name: str, file: str) -> bool:
    """Return whether a model of the hub has a file. False where loading will fail, and say why in its own line."""
    try:
        with _silent("transformers.utils.hub"):
            return has_file(name, file)
    except Exception:  # no such model, no right to read it, no name of a model
        return False


@contextmanager
def _in_one_line(name: str, advice: str = _ADVICE) -> Iterator[None]:
    """Turn every error of loading into one line. transformers and tokenizers raise plain `Exception`, too."""
    try:
        yield
    except Exception as error:
        raise LensrlError(f"model {name!r} cannot be loaded ({reason(error)}); {advice}") from None


@contextmanager
def _silent(module: str) -> Iterator[None]:
    """Keep a module of transformers from printing what is read here from its results and its errors."""
    logger = logging.getLogger(module)
    logger.addFilter(_never)  # at a higher level, `modeling_utils` would print about tensor parallelism instead
    try:
        yield
    finally:
        logger.removeFilter(_never)


def _never(record: logging.LogRecord) -> bool:
    return False


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none on a machine without."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def pick_device() -> str:
    """Return `cuda` if there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_source(name: str) -> str:
    """Return the folder or hub name from which transformers loads a model."""
    if name.startswith("tiny:"):
        if name not in EMBEDDED:
            raise LensrlError(f"no embedded model {name!r}{did_you_mean(name, EMBEDDED)}")
        return str(resources.files("lensrl.models.tiny") / name.removeprefix("tiny:"))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:  # a name of the hub has one slash at most
        made = MADE if name.startswith("data/") else f"give a folder {_FILES}"
        raise LensrlError(f"no model folder at {name}; {made}")
    return name
