"""The origin of a result (versions, git state, machine, base model, items), and checks that two results share it.

The weights of a run are the weights of its base plus a delta, and scores are compared item by item. Files may be
edited, data sets on the hub may change, and so may packages that generate problems. A run therefore keeps its origin,
and `check_base` and `check_items` are called before anything is measured beside it.
"""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from lensrl.errors import LensrlError
from lensrl.recipe import Recipe
from lensrl.store.run import Run

ROUNDING = {"bfloat16": 0.4, "float16": 0.05}  # stored type -> the most that rounding moves a weight, in percent
NEAREST = 3  # runs that a note names
PACKAGES = ("lensrl", "torch", "transformers", "trl", "transformer-lens", "numpy", "scipy", "h5py")


def provenance(
    *,
    device: str,
    dtypes: Mapping[str, str],
    items: Mapping[Any, str] | None = None,
    notes: Sequence[str] = (),
    checkpoint: Mapping[str, object] | None = None,
    generation: str | None = None,
    resumed: Sequence[int] = (),
    references: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return the provenance of a result that is made now: time, versions, git state, platform, and the arguments.

    `device` names the hardware. `dtypes` gives the dtypes of the master weights and of the computation. `items` gives
    the sha256 of the items of every split (`lensrl.tasks.digest`). `notes` says what loading changed about the base
    model. `checkpoint` describes the checkpoint that a run was taken from: source, revision, stored dtype. `generation`
    says how completions were sampled. `references` counts those that were judged, and names those that failed their own
    judge. `resumed` names the steps from which training went on after an interruption.
    """
    record: dict[str, object] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | package_versions(*PACKAGES, *engine_packages(generation)),
        "git": git_state(),
        "platform": platform.platform(),
        "device": device,
        "dtypes": dtypes,
    }
    given = {"items": items, "notes": [*notes], "checkpoint": checkpoint, "generation": generation}
    given |= {"resumed": [*resumed], "references": references}
    return record | {name: value for name, value in given.items() if value}


def engine_packages(generation: str | None) -> tuple[str, ...]:
    """Return the packages that sample completions under a recipe's `generation`, beside torch and transformers."""
    return ("vllm",) if generation == "vllm" else ()


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each package, by name."""
    return {name: _version(name) for name in names}


def git_state() -> str:
    """Return `git describe` of the working folder: a commit, with `-dirty` when there are uncommitted changes."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "not a git repository"


def check_base(run: Run, name: str, fingerprint: str) -> None:
    """Raise LensrlError when `run` has another base model than `name`, whose weights have this fingerprint."""
    if run.fingerprint != fingerprint:
        raise LensrlError(
            f"{run.path} was made from another base model (fingerprint {run.fingerprint[:12]}) than {name} "
            f"({fingerprint[:12]}); give it its own study folder with --out"
        )


def item_digests(run: Run) -> dict[str, str]:
    """Return the digests of the items that a run was made with; empty for an older file, which does not hold them."""
    kept = run.provenance.get("items")
    return {str(split): str(digest) for split, digest in kept.items()} if isinstance(kept, dict) else {}


def check_items(run: Run, digests: Mapping[str, str]) -> None:
    """Raise LensrlError when `run` was made with other items than `digests`: split -> sha256 (`lensrl.tasks.digest`).

    Older files do not hold the digests of their items. For such a file there is no check.
    """
    kept = item_digests(run)
    for split, digest in digests.items():
        recorded = kept.get(split, digest)
        if recorded != digest:
            raise LensrlError(
                f"{run.path} was made with other {_items_of(split)} (sha256 {recorded[:12]}) than its recipe gives now "
                f"({digest[:12]}): a file, a data set, a chat template or a package has changed; put it back, or give "
                f"the new items their own study folder with --out"
            )


def checkpoint_note(runs: Iterable[Run]) -> str:
    """Say what the deltas of runs from checkpoints rest on: rounding, and a vocabulary of another size. Empty for none.

    A normal number in bfloat16 is within a factor of 1 +- 2^-8 of the number that was rounded; in float16, 1 +- 2^-11.
    """
    adopted = [run for run in runs if run.checkpoint is not None]
    stored = {kind for run in adopted for kind in str((run.checkpoint or {})["dtype"]).split(" and ")}
    said = [
        f"Checkpoints stored as {kind}: rounding alone moves a weight by up to {percent:g} % of its value. Smaller "
        f"changes are lost in the deltas, and the deltas of small updates are mostly rounding."
        for kind, percent in ROUNDING.items()
        if kind in stored
    ]
    return " ".join([*said, *_beside_rounding(adopted), *_vocabularies(adopted), *_left_out(adopted)])


def _beside_rounding(runs: Iterable[Run]) -> list[str]:
    """Say how the changes of whole runs compare with rounding, for the runs that are nearest to it."""
    found = []
    for run in runs:
        rounding = math.hypot(*(run.rounding or {}).values())
        if rounding:
            table = run.delta_norms()
            norm, moved = float(np.linalg.norm(table["norm"])), float((table["changed_share"] * table["size"]).sum())
            found.append((norm / rounding, run, norm, rounding, moved / float(table["size"].sum())))
    found.sort(key=lambda row: row[0])
    said = [
        f"{run.name} seed {run.seed}: {moved:.1%} of the entries moved, ‖ΔW‖ is {norm:.3g}, and rounding alone would "
        f"give up to {rounding:.3g}."
        for _, run, norm, rounding, moved in found[:NEAREST]
    ]
    return said + ([f"{len(found) - NEAREST} more runs are farther from rounding."] if len(found) > NEAREST else [])


def _vocabularies(runs: Iterable[Run]) -> list[str]:
    """Say of which runs only the common rows of the embeddings are compared."""
    rows: dict[tuple[int, int, int], list[str]] = {}
    for run in runs:
        found = (run.checkpoint or {}).get("vocabulary")
        if isinstance(found, dict):
            rows.setdefault((found["checkpoint"], found["base"], found["common"]), []).append(run.name)
    return [
        f"{', '.join(dict.fromkeys(names))}: the checkpoint has {own} rows of embeddings and the base has {base}; the "
        f"first {common} are compared and scored."
        for (own, base, common), names in rows.items()
    ]


def _left_out(runs: Iterable[Run]) -> list[str]:
    """Say from which checkpoints a value head was left out."""
    found = {run.name: run.checkpoint["left_out"] for run in runs if run.checkpoint and run.checkpoint.get("left_out")}
    return [
        f"{name}: {tensors[0]} is left out: a value head is no part of the policy." for name, tensors in found.items()
    ]


def texts_note(recipe: Recipe) -> str:
    """Say that a study measures activations and log-probabilities on texts; empty for a study of a task."""
    if recipe.task.name not in ("texts", "harness"):
        return ""
    made = "; its scores were made by lm-evaluation-harness" if recipe.task.name == "harness" else ""
    return f"Activations and log-probabilities of this study are of texts, not of the items of a task{made}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _items_of(split: str) -> str:
    return split if split.endswith(("answers", "prompts")) else f"{split} items"
