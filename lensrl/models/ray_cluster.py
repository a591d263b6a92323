"""The Ray cluster that runs are made on, and patches measured: the connection to it, and its room for workers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from lensrl.errors import LensrlError, reason
from lensrl.recipe.settings import Resources

OBJECTS = 128 * 2**20  # bytes of shared memory of a cluster that is started here: results are small


def check_ray(address: str | None) -> None:
    """Raise LensrlError when Ray is not installed, or `address` is that of a Ray client, or nothing listens there."""
    if find_spec("ray") is None:
        raise LensrlError('the engine ray needs Ray: pip install "lensrl[ray]"')
    if address is not None and address.startswith("ray://"):
        raise LensrlError(f"{address} is the address of a Ray client: run lensrl on a node, with auto")
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():  # Ray itself tries for minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise LensrlError(f"no Ray cluster at {address}: {reason(error)}") from None


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at `address`; None starts one on this machine, which ends with the block.

    A connection that this process has already is used, and stays. Raises LensrlError when there is no such cluster.
    """
    if address is None:  # nothing is reported to anybody, and only this machine is listened to
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # read by `import ray`; on Linux, too
    import ray

    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(
                "local", include_dashboard=False, object_store_memory=OBJECTS, _node_ip_address="127.0.0.1", **quiet
            )
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise LensrlError(f"no Ray cluster at {address or 'this machine'}: {reason(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def worker_gpus(size: Resources) -> float:
    """Return the GPUs of a worker: by default 1 where a node has one. Raises LensrlError when no node has the room."""
    nodes = _nodes()
    gpus = size.num_gpus
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    if not any(node.get("CPU", 0) >= size.num_cpus and node.get("GPU", 0) >= gpus for node in nodes):
        have = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise LensrlError(
            f"a worker needs num_cpus = {size.num_cpus:g} and num_gpus = {gpus:g}, and no node has them ({have}); set "
            f"less under [engine], or with --num-cpus and --num-gpus"
        )
    return gpus


def room(size: Resources) -> int:
    """Return how many workers the nodes have room for, at least 1."""
    gpus, count = worker_gpus(size), 0
    for node in _nodes():
        asked = [("CPU", size.num_cpus), ("GPU", gpus)]
        count += int(min((node.get(kind, 0) // amount for kind, amount in asked if amount), default=1))
    return max(1, count)


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
