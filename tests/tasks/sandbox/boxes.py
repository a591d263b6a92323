"""Run programs in a sandbox, and look at the processes that it has."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lensrl.tasks import sandbox
from lensrl.tasks.sandbox import Outcome, Sandbox


def server_of(box: Sandbox) -> sandbox._Server:
    assert box._server is not None
    return box._server


def outcome(box: Sandbox, *parts: str, timeout: float = 0.25, memory: int = 256) -> Outcome:
    """Run one program; afterwards nothing but the guard and the server is there."""
    (result,) = box.run([parts], timeout=timeout, memory=memory)
    server = server_of(box)
    assert len(descendants(server.process.pid)) == 1
    assert os.listdir(server.folder) == []
    return result


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = Path(f"/proc/{name}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        waiting += (below := children.get(waiting.pop(), []))
        found += below
    return found


def gone(pid: int) -> bool:
    """Whether a process ends within 20 seconds: a guard looks each second, and later on a busy machine."""
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.02)
    return not os.path.exists(f"/proc/{pid}")
