"""Which groups and datasets a run file must have, by the kind of the run and by its algorithm.

The tables here are the tables of `runs/FORMAT.md`, section "Which of them are there". They hold for every version of
the format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Literal

import h5py

from lensrl.recipe.runs import BASE
from lensrl.store.file.checked import attribute, has

# trained: full RL, a single layer or a set, completed or collapsed; adopted: the same, taken from a checkpoint
Kind = Literal["base", "trained", "adopted", "diverged"]
Need = Literal["MUST", "MAY", "MUST NOT"]

TRAINING, CHECKPOINT = "training", "checkpoint"  # values of the attribute `origin`

GROUPS: dict[str, dict[Kind, Need]] = {
    "parameters": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST"},
    "scores": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST NOT"},
    "probe": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST NOT"},
    "activations": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST NOT"},
    "training": {"base": "MUST NOT", "trained": "MUST", "adopted": "MUST NOT", "diverged": "MUST"},
    "deltas": {"base": "MUST NOT", "trained": "MAY", "adopted": "MAY", "diverged": "MUST NOT"},
    "repairs": {"base": "MUST NOT", "trained": "MAY", "adopted": "MAY", "diverged": "MUST NOT"},
    "snapshots": {"base": "MUST NOT", "trained": "MAY", "adopted": "MAY", "diverged": "MUST NOT"},
}

COLUMNS = ("reward_mean", "reward_std", "loss", "grad_norm", "layer_grad_norm", "outside_grad_norm",
           "completion_length", "truncated_share", "zero_spread_share", "step_time", "peak_memory")  # fmt: skip
COLUMNS_OF_TURNS = ("turns",)  # where the task is in turns
COLUMNS_OF_GIGPO = ("anchor_group_size", "shared_anchor_share")
COLUMNS_OF_SAMPLER = ("sampler_mismatch",)  # where lensrl sampled, from version 0.3 on
COLUMNS_OF_UPDATES = ("clipped_share",)  # where a rollout has several updates
COLUMNS_OF_ALGORITHM = {"gigpo": (*COLUMNS_OF_TURNS, *COLUMNS_OF_GIGPO)}  # its tasks are in turns
SITES = ("block_out", "attn_out", "mlp_out")

DATASETS = {  # pattern of a group -> the datasets that a group of this name must have, if it is there
    "parameters": ("part", "component", "size", "changed", "norm", "base_norm"),
    "scores": ("benchmark", "score", "length", "truncated", "reference_logprob"),
    "training": COLUMNS,
    "probe": ("token_id", "prompt", "position", "text"),
    "activations": SITES,
    r"snapshots/\d+": ("changed", "norm"),
    r".*repairs/[^/]+/[^/]+": ("where", "value"),
}


def check_complete(file: h5py.File, groups: Iterable[str]) -> None:
    """Compare the groups of a run file, and the datasets in them, with the tables above.

    Raises KeyError for the first group or dataset that is missing, ValueError for the first that must not be there.
    """
    kind = _kind(file)
    for group, needs in GROUPS.items():
        if needs[kind] == "MUST" and not has(file, group):
            raise KeyError(f"there is no {group}, and {_described(kind)}")
        if needs[kind] == "MUST NOT" and has(file, group):
            raise ValueError(f"{group} is there, and {_described(kind)}")
    for group in groups:
        for pattern, datasets in DATASETS.items():
            for dataset in datasets if re.fullmatch(pattern, group) else ():
                if not has(file, f"{group}/{dataset}"):
                    raise KeyError(f"there is no {group}/{dataset}")
    if has(file, "training"):
        _check_columns_of_algorithm(file, kind)


def origin_of(file: h5py.File) -> str:
    """Return where the weights of a run come from: `training`, or `checkpoint` for a model trained elsewhere."""
    return str(attribute(file, "origin")) if "origin" in file.attrs else TRAINING


def _kind(file: h5py.File) -> Kind:
    run, status = str(attribute(file, "run")), str(attribute(file, "status"))
    if run == BASE:
        if status != "completed":
            raise ValueError(f"attribute status is {status!r}, and the base is always 'completed'")
        return "base"
    if origin_of(file) == CHECKPOINT:
        if status != "completed":
            raise ValueError(f"attribute status is {status!r}, and a run from a checkpoint is always 'completed'")
        return "adopted"
    return "diverged" if status == "diverged" else "trained"


def _described(kind: Kind) -> str:
    return {
        "base": "the run is the base",
        "trained": "the run is not diverged",
        "adopted": "the run was taken from a checkpoint",
        "diverged": "the run diverged",
    }[kind]


def _check_columns_of_algorithm(file: h5py.File, kind: Kind) -> None:
    """Check the columns that an algorithm adds. A run may lack them only if it diverged before its first step."""
    rl = _rl(file)
    used = rl.get("algorithm")
    for column in COLUMNS_OF_UPDATES:
        several, there = rl.get("updates_per_rollout", 1) != 1, has(file, f"training/{column}")
        if several and kind == "trained" and not there:
            raise KeyError(f"there is no training/{column}, and a rollout has several updates")
        if there and not several:
            raise ValueError(f"training/{column} is there, and a rollout has one update")
    for algorithm, columns in COLUMNS_OF_ALGORITHM.items():
        for column in columns:
            there = has(file, f"training/{column}")
            if used == algorithm and kind == "trained" and not there:
                raise KeyError(f"there is no training/{column}, and the algorithm is {algorithm}")
            if used != algorithm and there and column not in COLUMNS_OF_TURNS:
                raise ValueError(f"training/{column} is there, and the algorithm is not {algorithm}")


def _rl(file: h5py.File) -> dict[str, object]:
    """The table `rl` of the recipe that the run was made with."""
    recipe = json.loads(attribute(file, "recipe"))
    rl = recipe.get("rl", {}) if isinstance(recipe, dict) else None
    if not isinstance(rl, dict):
        raise ValueError("attribute recipe is no recipe: a JSON object whose `rl`, if it is there, is another")
    return rl
