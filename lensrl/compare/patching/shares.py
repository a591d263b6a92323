"""Measuring patches and writing their files, in one process or in several.

    the patches that are missing  ->  a share for each worker  ->  a file for each patch

Each result is written at once, so an interruption loses one. A sampled score takes long, and while it is taken, its
patch is claimed (`lensrl.store.file.claim`): another process, in another shell perhaps, passes over it, and reads its
file at the end. Log-probabilities and activations take one pass for all patches; only `workers`, and the workers of a
Ray cluster (`lensrl.compare.cluster`), share these.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from time import sleep

import numpy as np
from jaxtyping import Float64

from lensrl.compare.cluster import Cluster
from lensrl.compare.patching import OnProgress
from lensrl.errors import LensrlError, Taken
from lensrl.store.file.claim import claimed, is_being_written
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.origin import provenance
from lensrl.store.patch import Metric, PatchKey, PatchResult, read_patch, write_patch
from lensrl.store.study import Study

Metrics = Mapping[str, Float64[np.ndarray, "model item"]]
GRAFT_METRICS: dict[Metric, tuple[str, ...]] = {
    "score": ("score",),
    "logprob": ("reference_logprob",),
    "both": ("score", "reference_logprob"),
}
PAUSE = 1.0  # seconds between two looks at the patches that other processes measure


@dataclass(frozen=True)
class Share:
    """The patches that a worker measures. It can be pickled."""

    study: Path
    keys: Sequence[PatchKey]
    metric: Metric


def stored(study: Study, key: PatchKey, metric: Metric | None = None) -> PatchResult | None:
    """Return the stored result of a patch.

    None when there is none, when a graft lacks the metrics asked for, and when one of its two runs was replaced.
    """
    path = study.path / PATCH_FOLDER / key.file_name
    if not path.exists():
        return None
    result = read_patch(path)
    current = {"donor": study[key.donor, key.seed].run_id, "into": study[key.into, key.seed].run_id}
    asked = GRAFT_METRICS[metric] if metric is not None and key.what == "weights" else ()
    lacks = not {*asked} <= {*result.metrics}
    return None if lacks or result.sources != current else result


def _claimed_name(study: Study, key: PatchKey) -> Path:
    """Return the name that a process claims while it takes the sampled score of a patch."""
    return (study.path / PATCH_FOLDER / key.file_name).with_suffix(".json")


def share_out(
    study: Study,
    keys: Sequence[PatchKey],
    metric: Metric,
    workers: int,
    cluster: Cluster | None,
    *,
    on_progress: OnProgress | None,
    on_estimate: Callable[[float], None] | None,
) -> dict[PatchKey, PatchResult]:
    """Measure patches between the same two runs in `workers` processes, this one among them, and return the results.

    What a worker leaves undone, because it was killed or failed, is measured here. A `cluster` measures all of them.

    Raises LensrlError for a number of workers below 1.
    """
    if workers < 1:
        raise LensrlError(f"{workers} workers measure no patch; ask for 1 or more")
    results: dict[PatchKey, PatchResult] = {}
    if not keys:
        return results
    if cluster is not None:
        measure_left = partial(_by_cluster, cluster)
        if on_estimate is not None and metric != "logprob" and any(key.what == "weights" for key in keys):
            on_estimate(math.nan)  # the nodes may be unlike this one
        results |= _by_cluster(cluster, study, keys, metric, on_progress=on_progress)
    else:
        measure_left = measure
        results |= _by_workers(study, keys, metric, workers, on_progress, on_estimate)
    while left := [key for key in keys if key not in results]:
        found = {key: result for key in left if (result := stored(study, key, metric)) is not None}
        results |= found
        left = [key for key in left if key not in found]
        if left:
            free = [key for key in left if not is_being_written(_claimed_name(study, key))]  # no model for a look
            made = measure_left(study, free, metric, on_progress=on_progress) if free else {}
            results |= made
            if not made:
                sleep(PAUSE)
    return results


def _by_cluster(
    cluster: Cluster, study: Study, keys: Sequence[PatchKey], metric: Metric, *, on_progress: OnProgress | None = None
) -> dict[PatchKey, PatchResult]:
    """Measure patches on a cluster. Patches in the hands of other processes are left out.

    A share that is begun again does not measure again what it had finished: each result is a file in the folder.
    """
    folder = study.path.absolute()

    def share(room: int) -> list[Share]:
        count = min(room, len(keys))
        return [Share(folder, keys[start::count], metric) for start in range(count)]

    def tell() -> None:
        if on_progress is not None:
            done = sum((folder / PATCH_FOLDER / key.file_name).exists() for key in keys)
            on_progress("patches", done, len(keys))

    results: dict[PatchKey, PatchResult] = {}
    for part in cluster.each(study, measure_share, share, tell):
        results |= part
    return results


def _by_workers(
    study: Study,
    keys: Sequence[PatchKey],
    metric: Metric,
    workers: int,
    on_progress: OnProgress | None,
    on_estimate: Callable[[float], None] | None,
) -> dict[PatchKey, PatchResult]:
    """Measure the first of `workers` shares here, and return its results. Other processes measure the others."""
    shares = [keys[start :: min(workers, len(keys))] for start in range(min(workers, len(keys)))]
    with _started([Share(study.path.absolute(), share, metric) for share in shares[1:]], len(shares)) as others:
        results = measure(study, shares[0], metric, on_progress=on_progress, on_estimate=on_estimate)
        for other in others:
            other.wait()
    return results


def measure(
    study: Study,
    keys: Sequence[PatchKey],
    metric: Metric,
    *,
    on_progress: OnProgress | None = None,
    on_estimate: Callable[[float], None] | None = None,
) -> dict[PatchKey, PatchResult]:
    """Measure patches between the same two runs and write their files. Patches in the hands of others are left out."""
    from lensrl.compare.patching.measure import Patcher  # torch and transformers, only where they are needed

    donor, into = (study.runs.find_scored(name, keys[0].seed) for name in (keys[0].donor, keys[0].into))
    patcher = Patcher(study, donor, into)
    sources = {"donor": donor.run_id, "into": into.run_id}
    record = provenance(device=patcher.device, dtypes={"masters": "float32"}, generation=study.recipe.generation)

    @contextmanager
    def in_hand(key: PatchKey) -> Iterator[bool]:
        with ExitStack() as stack:
            path = _claimed_name(study, key)
            path.parent.mkdir(exist_ok=True)
            try:
                stack.enter_context(claimed(path, patience=0.0))
            except Taken:
                yield False
                return
            yield stored(study, key, metric) is None  # else another process was quicker

    results: dict[PatchKey, PatchResult] = {}
    for kind in dict.fromkeys(key.what for key in keys):
        todo = [key for key in keys if key.what == kind]
        measured = patcher.measure(todo, on_progress, metric=metric, on_estimate=on_estimate, in_hand=in_hand)
        for key, metrics, patched in measured:
            # Measuring one metric must not lose the other.
            older = stored(study, key)
            kept: Metrics = metrics if older is None else {**older.metrics, **metrics}
            results[key] = PatchResult(
                key, kept, patcher.benchmark, sources=sources, provenance=record, patched=patched
            )
            write_patch(study.path / PATCH_FOLDER, results[key])
    return results


@contextmanager
def _started(shares: Sequence[Share], workers: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a process for each share, on the GPUs in turns. They end with the block, and with this process."""
    from lensrl.models.base import visible_devices

    devices = visible_devices()
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    start = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as shares; shares.work()"
    started = []
    try:
        for number, share in enumerate(shares, start=1):  # this process has the first GPU
            if devices:
                environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            # In a session of its own: Ctrl-C in the terminal reaches this process alone.
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", start], env=environment, stdin=subprocess.PIPE, start_new_session=True
            )
            started.append(process)
            assert process.stdin is not None
            process.stdin.write(pickle.dumps(share))
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdin.close()


def work() -> None:
    """Measure the share that comes over stdin. This is the main function of a worker; it ends when stdin is closed."""
    share: Share = pickle.load(sys.stdin.buffer)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
    measure_share(share)


def measure_share(share: Share) -> dict[PatchKey, PatchResult]:
    """Measure the patches of a share that have no file yet, write their files, and return their results."""
    with Study(share.study) as study:
        left = [key for key in share.keys if stored(study, key, share.metric) is None]
        return measure(study, left, share.metric) if left else {}
