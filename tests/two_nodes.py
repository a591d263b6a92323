"""A Ray cluster of two nodes on 127.0.0.1, for tests and benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {  # read by `import ray`, so Ray is imported after they are set
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # 127.0.0.1 stays 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other processes of the machine are none of its business
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A head node and a second node, with one CPU each. Their processes work in another folder than this one."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="lr") as folder:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("RAY_TMPDIR", folder)  # short: the paths of sockets are limited to 107 bytes
        (Path(folder) / "ray").mkdir()  # where the address of the cluster is kept for `auto`
        with chdir(folder):
            from ray.cluster_utils import Cluster

            node = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80 * 2**20}
            cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
            try:
                cluster.add_node(**node)
                yield cluster
            finally:
                cluster.shutdown()
