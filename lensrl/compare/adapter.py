"""A run, or a graft, as a LoRA adapter of its base model, where the changes of all weights have a low rank.

RL on whole matrices changes them in all directions, and its changes are refused. A model that was trained with LoRA and
merged has changes of low rank. The adapter gives them back up to rounding, not bit for bit.

The folder has the format of PEFT: `PeftModel.from_pretrained(base_model, folder)` opens it. lensrl itself does not need
PEFT.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from lensrl.compare.export import CARD, changed_parts, check_new_folder, find_source, fingerprint_of
from lensrl.compare.model_card import Adapter, Exported, model_card
from lensrl.errors import LensrlError, StoreError, reason
from lensrl.measures.low_rank import LowRank, low_rank
from lensrl.models.base import Base, load_base
from lensrl.recipe.layers import LayerSpec
from lensrl.recipe.runs import BASE
from lensrl.store.file.atomic import new_folder
from lensrl.store.study import Study

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(
    study: Study,
    run: str,
    folder: str | Path,
    *,
    seed: int | None = None,
    layers: LayerSpec | None = None,
    into_run: str | None = None,
) -> Path:
    """Write the difference of a run, or of a graft, from its base as a PEFT adapter, and return the folder's path.

    Each changed matrix W becomes W + B A. A and B have the rank of the change, and the scale is 1. The arguments are
    those of `lensrl.save_pretrained`. The folder holds adapter_config.json, adapter_model.safetensors and a model card,
    which gives the ranks and the error. It appears whole or not at all.

    Raises LensrlError as `lensrl.save_pretrained` does, and also: where nothing changed, where a weight changed that is
    no matrix of a linear layer, and where the rank of a change is so high that the adapter is no smaller than the
    change. The error names the weight, its rank, and the share of the change that the best smaller adapter would miss.
    """
    path = check_new_folder(folder)
    source = find_source(study, run, seed=seed, layers=layers, into=into_run)
    base = load_base(source.run.base)
    weights = source.weights(base)
    factors = _factors(base, weights)
    if not factors:
        raise LensrlError(f"{run!r} has the weights of the base: there is nothing to put into an adapter")
    about = Exported(
        study=study.name,
        run=source.run,
        into=source.into,
        parts=source.parts,
        base=study.runs.of(BASE).get(0),
        dtype="float32",
        fingerprint=fingerprint_of(base, base.fresh(weights)),
        kept_share=None,
        changed=changed_parts(base, weights),
        tokenizer_class="",
        generation_config=False,
        adapter=Adapter({name: f.rank for name, f in factors.items()}, _error(base, weights, factors)),
    )
    with new_folder(path) as partial:
        try:
            save_file(_tensors(factors), partial / WEIGHTS, {"format": "pt"})
        except SafetensorError as error:  # a full disk, for example
            raise StoreError(f"{path} could not be written ({reason(error)}); nothing was changed") from error
        (partial / CONFIG).write_text(json.dumps(_config(base.name, factors), indent=2), encoding="utf-8")
        (partial / WEIGHTS).chmod((partial / CONFIG).stat().st_mode)  # written for its owner alone
        (partial / CARD).write_text(model_card(about), encoding="utf-8")
    return path


def _factors(base: Base, weights: Mapping[str, torch.Tensor]) -> dict[str, LowRank]:
    """Return the name of every changed parameter with the factors of its change. Raises LensrlError: `save_adapter`."""
    factors = {}
    for name, weight in weights.items():
        before = base.weights[name]
        if torch.equal(weight, before):
            continue
        if (
            not name.endswith(".weight")
            or type(base.model.get_submodule(name.removesuffix(".weight"))) is not nn.Linear
        ):
            raise LensrlError(
                f"{name} changed, and it is no matrix of a linear layer: a LoRA adapter cannot hold its change; leave "
                f"out --peft"
            )
        found = low_rank(before.numpy(), weight.numpy())
        if not found.pays:
            raise LensrlError(
                f"the change of {name} has rank {found.rank} of {min(weight.shape)}: an adapter would be no smaller "
                f"than the change, and one of rank {len(found.right)} would miss {found.error:.1%} of it; leave out "
                f"--peft"
            )
        factors[name] = found
    return factors


def _error(base: Base, weights: Mapping[str, torch.Tensor], factors: Mapping[str, LowRank]) -> float:
    """Return || merged - weights || / || weights - base || over all changed parameters together."""
    size = {name: float((weights[name].double() - base.weights[name]).norm()) for name in factors}
    return math.hypot(*(factors[name].error * size[name] for name in factors)) / math.hypot(*size.values())


def _tensors(factors: Mapping[str, LowRank]) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter under the names that PEFT gives them."""
    tensors = {}
    for name, found in factors.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = torch.from_numpy(found.right).contiguous()
        tensors[f"{module}.lora_B.weight"] = torch.from_numpy(found.left).contiguous()
    return tensors


def _config(base: str, factors: Mapping[str, LowRank]) -> dict[str, object]:
    """Return the configuration of PEFT: each module by its full name, with its own rank, and alpha = rank."""
    ranks = {name.removesuffix(".weight"): found.rank for name, found in factors.items()}
    most = max(ranks.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
