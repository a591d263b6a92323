"""Measure the parts of a model side by side: one on each core, and each with one thread of linear algebra.

The threads of linear algebra wait for each other in loops. On matrices as small as these, this takes more of the
processor than the work itself, and on a busy machine many times more.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

THREADS = min(8, os.cpu_count() or 1)
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
Part = TypeVar("Part")
Measured = TypeVar("Measured")


def side_by_side(
    measure: Callable[[Part], Measured], parts: Iterable[Part], on_done: Callable[[int], None] | None = None
) -> list[Measured]:
    """Return `measure(part)` of every part, in their order. `on_done` is told how many are measured.

    A part is read from `parts` when a core is free, so no more than `THREADS` are in memory: give the largest first.
    Raises what reading or measuring raised.
    """
    futures: list[Future[Measured]] = []
    running: set[Future[Measured]] = set()

    def measured(part: Part) -> Measured:
        result = measure(part)
        _give_back_memory()
        return result

    def wait_for_one() -> None:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        running.difference_update(done)
        for future in done:
            future.result()
        if on_done is not None:
            on_done(len(futures) - len(running))

    with threadpool_limits(1, "blas"), _one_of_torch(), ThreadPoolExecutor(THREADS) as pool:
        for part in parts:
            futures.append(pool.submit(measured, part))
            running.add(futures[-1])
            del part  # the pool alone holds it until it is measured
            if len(running) == THREADS:
                wait_for_one()
        while running:
            wait_for_one()
    return [future.result() for future in futures]


def _give_back_memory() -> None:
    """Return freed memory to the system, where the C library is GNU's.

    It keeps the freed arrays of each thread for the next ones, which rarely fit: 1 GB after the matrices of a model of
    0.6B parameters, whose arrays take 0.13 GB at once.
    """
    if _TRIM is not None:
        _TRIM(0)


@contextmanager
def _one_of_torch() -> Iterator[None]:
    """Give new threads one thread of torch each, where torch is loaded: threadpoolctl does not know its own library."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
