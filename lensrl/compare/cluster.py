"""Measuring on the nodes of a Ray cluster: one share of the work for each worker that has room.

    what is missing  ->  a share for each worker  ->  what each worker returns, in the order in which they end

Every node has to see the study's folder: a measurement reads the runs' files. Ray begins a share again when its worker
is killed or its node dies.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lensrl.errors import LensrlError, reason
from lensrl.models.ray_cluster import check_ray, connected, room, worker_gpus
from lensrl.recipe.settings import Resources
from lensrl.store.file.claim import claim_path, claimed
from lensrl.store.study import Study

RETRIES = 3  # of a share whose worker or node ends
PATIENCE = 60.0  # seconds until a new file of a shared folder is seen on another node; NFS caches names
PAUSE = 1.0  # seconds between two looks at what is done

Asked = TypeVar("Asked")
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that measures patches and rivals.

    `address` is `auto` for the cluster that this machine belongs to, or its `HOST:PORT`. None starts a cluster on this
    machine alone, which listens on 127.0.0.1 and ends with the measurement. Each worker gets `num_cpus` CPUs and
    `num_gpus` GPUs; by default one GPU where the cluster has GPUs.

    Raises LensrlError when Ray is not installed.
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None

    def __post_init__(self) -> None:
        check_ray(self.address)

    def each(
        self,
        study: Study,
        work: Callable[[Asked], Measured],
        share: Callable[[int], Sequence[Asked]],
        on_pause: Callable[[], None] = lambda: None,
    ) -> Iterator[Measured]:
        """Yield what `work` returns for each share, on whichever node it ran.

        `share` is given the number of workers that have room, and returns the shares. They and the results can be
        pickled. `on_pause` is called about once a second.

        Raises LensrlError when there is no cluster, when no node has room for a worker, when a node does not see the
        study's folder, and when a share's workers end again and again. An error in a worker is raised here.
        """
        folder = study.path.absolute()
        size = Resources(num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        sign = folder / f"ray-{secrets.token_hex(4)}.json"  # a node that sees the claim on it sees the folder
        with connected(self.address), claimed(sign):
            import ray
            from ray.exceptions import RayError, RayTaskError

            # max_calls=0: a process measures share after share, also on a GPU.
            task = ray.remote(num_cpus=size.num_cpus, num_gpus=worker_gpus(size), max_retries=RETRIES, max_calls=0)(
                _work_here
            )
            due = [task.remote(work, one, folder, claim_path(sign), PATIENCE) for one in share(room(size))]
            try:
                while due:
                    ready, due = ray.wait(due, timeout=PAUSE)
                    for answer in ready:
                        yield ray.get(answer)
                    on_pause()
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, LensrlError) else error) from None
            except RayError as error:
                raise LensrlError(
                    f"the workers that measure ended {1 + RETRIES} times: {reason(error)} (look into Ray's logs on "
                    f"this node)"
                ) from None
            finally:
                for task_left in due:
                    ray.cancel(task_left, force=True)


def _work_here(work: Callable[[Asked], Measured], asked: Asked, study: Path, mark: Path, patience: float) -> Measured:
    """Measure a share on this node. `mark` is a file that the driver has just created in the study's folder."""
    until = time.monotonic() + patience
    while not mark.exists():
        if time.monotonic() > until:
            raise LensrlError(
                f"the node {socket.gethostname()} does not see {study}: a measurement on Ray needs a folder that all "
                f"nodes share"
            )
        time.sleep(PAUSE)
    return work(asked)
