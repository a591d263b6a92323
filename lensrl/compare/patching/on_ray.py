"""Measuring patches on the nodes of a Ray cluster: a share of the patches for each task, each result a file.

    the patches that are missing  ->  a share for each worker that has room  ->  files in the study's folder

Every node has to see the study's folder: a graft needs the runs' deltas. Ray begins a task again when its worker is
killed or its node dies; the patches that it had finished are not measured again.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.shares import Share, measure_share
from lensrl.errors import LensrlError, reason
from lensrl.models.ray_cluster import check_ray, connected, room, worker_gpus
from lensrl.recipe.settings import Resources
from lensrl.store.file.claim import claim_path, claimed
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.patch import Metric, PatchKey, PatchResult
from lensrl.store.study import Study

RETRIES = 3  # of a task whose worker or node ends
PATIENCE = 60.0  # seconds until a new file of a shared folder is seen on another node; NFS caches names
PAUSE = 1.0  # seconds between two looks at what is done


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that measures patches.

    `address` is `auto` for the cluster that this machine belongs to, or its `HOST:PORT`. None starts a cluster on this
    machine alone, which listens on 127.0.0.1 and ends with the patches. Each worker gets `num_cpus` CPUs and `num_gpus`
    GPUs; by default one GPU where the cluster has GPUs.

    Raises LensrlError when Ray is not installed.
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None

    def __post_init__(self) -> None:
        check_ray(self.address)

    def measure(
        self, study: Study, keys: Sequence[PatchKey], metric: Metric, on_progress: OnProgress | None = None
    ) -> Mapping[PatchKey, PatchResult]:
        """Measure patches between the same two runs. Patches in the hands of other processes are left out.

        Raises LensrlError when there is no cluster, when no node has room for a worker, when a node does not see the
        study's folder, and when a task's workers end again and again. An error in a worker is raised here.
        """
        folder = study.path.absolute()
        size = Resources(num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        sign = folder / f"ray-{secrets.token_hex(4)}.json"  # a node that sees the claim on it sees the folder
        with connected(self.address), claimed(sign):
            import ray
            from ray.exceptions import RayError, RayTaskError

            # max_calls=0: a process measures share after share, also on a GPU.
            task = ray.remote(num_cpus=size.num_cpus, num_gpus=worker_gpus(size), max_retries=RETRIES, max_calls=0)(
                _measure_here
            )
            count = min(room(size), len(keys))
            due = [
                task.remote(Share(folder, keys[start::count], metric), claim_path(sign), PATIENCE)
                for start in range(count)
            ]
            results: dict[PatchKey, PatchResult] = {}
            try:
                while due:
                    ready, due = ray.wait(due, timeout=PAUSE)
                    for answer in ready:
                        results |= ray.get(answer)
                    if on_progress is not None:
                        on_progress("patches", _done(folder, keys), len(keys))
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, LensrlError) else error) from None
            except RayError as error:
                raise LensrlError(
                    f"the workers that measure patches ended {1 + RETRIES} times: {reason(error)} (look into Ray's "
                    f"logs on this node)"
                ) from None
            finally:
                for task_left in due:
                    ray.cancel(task_left, force=True)
        return results


def _done(folder: Path, keys: Sequence[PatchKey]) -> int:
    return sum((folder / PATCH_FOLDER / key.file_name).exists() for key in keys)


def _measure_here(share: Share, mark: Path, patience: float) -> dict[PatchKey, PatchResult]:
    """Measure a share on this node. `mark` is a file that the driver has just created in the study's folder."""
    until = time.monotonic() + patience
    while not mark.exists():
        if time.monotonic() > until:
            raise LensrlError(
                f"the node {socket.gethostname()} does not see {share.study}: `lensrl patch` on Ray needs a folder "
                f"that all nodes share"
            )
        time.sleep(PAUSE)
    return measure_share(share)
