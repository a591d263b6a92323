"""Which groups and datasets a run file must have, by the kind of the run and by its algorithm.

The tables here are the tables of `runs/FORMAT.md`, section "Which of them are there". They hold for every version of
the format. Completions are there from version 3 on.
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
DIVERGED = "diverged"  # the value of the attribute `status` of a run without weights

GROUPS: dict[str, dict[Kind, Need]] = {
    "parameters": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST"},
    "scores": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST NOT"},
    "probe": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST NOT"},
    "activations": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST NOT"},
    "completions": {"base": "MUST", "trained": "MUST", "adopted": "MUST", "diverged": "MUST NOT"},
    "training": {"base": "MUST NOT", "trained": "MUST", "adopted": "MUST NOT", "diverged": "MUST"},
    "training_completions": {"base": "MUST NOT", "trained": "MAY", "adopted": "MUST NOT", "diverged": "MAY"},
    "deltas": {"base": "MUST NOT", "trained": "MAY", "adopted": "MAY", "diverged": "MUST NOT"},
    "repairs": {"base": "MUST NOT", "trained": "MAY", "adopted": "MAY", "diverged": "MUST NOT"},
    "snapshots": {"base": "MUST NOT", "trained": "MAY", "adopted": "MAY", "diverged": "MUST NOT"},
}

COLUMNS = ("reward_mean", "reward_std", "loss", "grad_norm", "layer_grad_norm", "outside_grad_norm",
           "completion_length", "truncated_share", "zero_spread_share", "step_time", "peak_memory")  # fmt: skip
COLUMNS_OF_TURNS = ("turns",)  # where the task is in turns
COLUMNS_OF_GIGPO = ("anchor_group_size", "shared_anchor_share")
COLUMNS_OF_SAMPLER = ("sampler_mismatch",)  # where lensrl sampled, from version 0.3 on
COLUMNS_OF_LOGS = ("entropy", "kl")  # from version 0.3 on; kl where the loss has a KL term
COLUMNS_OF_UPDATES = ("clipped_share",)  # where a rollout has several updates
COLUMNS_OF_ALGORITHM = {"gigpo": (*COLUMNS_OF_TURNS, *COLUMNS_OF_GIGPO)}  # its tasks are in turns
SCORES = ("score", "length", "truncated", "reference_logprob")
MAY_SCORES = ("answer", "also")  # where the task names answers; where the recipe has further tasks
SCORES_OF_TASK = {"texts": ("reference_logprob",), "harness": ("score",)}  # of any other task: all of SCORES
SITES = ("block_out", "attn_out", "mlp_out")
OF_SAMPLING = ("completions", "training_completions")
COMPLETIONS_SINCE = 3  # version of the format

# `store.keep` of the recipe -> the groups that a run leaves out
LEFT_OUT = {"deltas": ("probe", "activations"), "norms": ("probe", "activations", "deltas", "repairs", "snapshots")}

# Pattern of a group -> the datasets that a group of this name must have, if it is there.
DATASETS: dict[str, tuple[str, ...]] = {
    "parameters": ("part", "component", "size", "changed", "norm", "base_norm"),
    "scores": ("benchmark",),  # and the columns of its task
    "completions": (
        "text",
        "completion_start",
        "completion_size",
        "prompt_start",
        "prompt_size",
        "reference_start",
        "reference_size",
    ),
    "training": COLUMNS,
    "training_completions": (
        "text",
        "completion_start",
        "completion_size",
        "prompt_start",
        "prompt_size",
        "train_step",
        "train_item",
        "reward",
        "length",
        "truncated",
    ),
    "probe": ("token_id", "prompt", "position", "text"),
    "activations": SITES[:1],  # and the others, unless attribute `sites` says which of them the model has
    r"snapshots/\d+": ("changed", "norm"),
    r".*repairs/[^/]+/[^/]+": ("where", "value"),
}


def check_complete(file: h5py.File, groups: Iterable[str]) -> None:
    """Compare the groups of a run file, and the datasets in them, with the tables above.

    Raises KeyError for the first group or dataset that is missing, ValueError for the first that must not be there.
    """
    kind = _kind(file)
    _check_completions(file)
    for group, needs in GROUPS.items():
        if group in OF_SAMPLING and not _keeps_completions(file):
            continue
        if group in LEFT_OUT.get(keep := keep_of(file), ()):
            if has(file, group):
                raise ValueError(f"{group} is there, and store.keep of the recipe is {keep!r}")
            continue
        if needs[kind] == "MUST" and not has(file, group):
            raise KeyError(f"there is no {group}, and {_described(kind)}")
        if needs[kind] == "MUST NOT" and has(file, group):
            raise ValueError(f"{group} is there, and {_described(kind)}")
    for group in groups:
        for pattern, datasets in DATASETS.items():
            for dataset in datasets if re.fullmatch(pattern, group) else ():
                if not has(file, f"{group}/{dataset}"):
                    raise KeyError(f"there is no {group}/{dataset}")
    if has(file, "activations"):
        _check_sites(file)
    if has(file, "scores"):
        _check_columns_of_task(file)
    if has(file, "training"):
        _check_columns_of_algorithm(file, kind)


def _check_sites(file: h5py.File) -> None:
    """Check that `activations` has each site that attribute `sites` names, and no other; without it, all of them."""
    named = str(attribute(file, "sites")).split(",") if "sites" in file.attrs else [*SITES]
    if SITES[0] not in named or not {*named} <= {*SITES}:
        raise ValueError(
            f"attribute sites is {','.join(named)!r}: not {SITES[0]}, or it and some of {', '.join(SITES)}"
        )
    for site in SITES:
        if site in named and not has(file, f"activations/{site}"):
            raise KeyError(f"there is no activations/{site}")
        if site not in named and has(file, f"activations/{site}"):
            raise ValueError(f"activations/{site} is there, and attribute sites does not name it")


def origin_of(file: h5py.File) -> str:
    """Return where the weights of a run come from: `training`, or `checkpoint` for a model trained elsewhere."""
    return str(attribute(file, "origin")) if "origin" in file.attrs else TRAINING


def keep_of(file: h5py.File) -> str:
    """Return what a run keeps of its model: `all`, `deltas` or `norms`."""
    return str(_named_in_recipe(file, "store", "keep") or "all")


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
    return "diverged" if status == DIVERGED else "trained"


def _described(kind: Kind) -> str:
    return {
        "base": "the run is the base",
        "trained": "the run is not diverged",
        "adopted": "the run was taken from a checkpoint",
        "diverged": "the run diverged",
    }[kind]


def _check_columns_of_algorithm(file: h5py.File, kind: Kind) -> None:
    """Check the columns that an algorithm adds. A run may lack them only if it diverged before its first step."""
    used = _algorithm(file)
    for column in COLUMNS_OF_UPDATES:
        several = _named_in_recipe(file, "rl", "updates_per_rollout") not in (None, 1)
        there = has(file, f"training/{column}")
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


def _check_columns_of_task(file: h5py.File) -> None:
    """Check that `scores` has the columns of its task, and no other."""
    task = _named_in_recipe(file, "task", "name")
    needed = SCORES_OF_TASK.get(str(task), SCORES)
    for column in SCORES:
        there = has(file, f"scores/{column}")
        if column in needed and not there:
            raise KeyError(f"there is no scores/{column}")
        if column not in needed and there:
            raise ValueError(f"scores/{column} is there, and the task is {task}")
    for column in MAY_SCORES if str(task) in SCORES_OF_TASK else ():
        if has(file, f"scores/{column}"):
            raise ValueError(f"scores/{column} is there, and the task is {task}")


def _keeps_completions(file: h5py.File) -> bool:
    """Whether a run's completions are kept: from version 3 on, where lensrl samples."""
    task = _named_in_recipe(file, "task", "name")
    return int(attribute(file, "format_version")) >= COMPLETIONS_SINCE and str(task) not in SCORES_OF_TASK


def _check_completions(file: h5py.File) -> None:
    """Check that there are no completions where none are kept."""
    for group in OF_SAMPLING:
        if has(file, group) and not _keeps_completions(file):
            task, version = _named_in_recipe(file, "task", "name"), int(attribute(file, "format_version"))
            why = f"format version {version} has none" if version < COMPLETIONS_SINCE else f"the task is {task}"
            raise ValueError(f"{group} is there, and {why}")


def _algorithm(file: h5py.File) -> object:
    """`rl.algorithm` of the recipe that the run was made with; None where the recipe names none."""
    return _named_in_recipe(file, "rl", "algorithm")


def _named_in_recipe(file: h5py.File, table: str, key: str) -> object:
    """`TABLE.KEY` of the recipe that the run was made with; None where the recipe does not have it."""
    recipe = json.loads(attribute(file, "recipe"))
    found = recipe.get(table, {}) if isinstance(recipe, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"attribute recipe is no recipe: a JSON object whose `{table}`, if it is there, is another")
    return found.get(key)
