"""One worker: a process that plans a study and makes runs, as orders come over a pipe, and says what happens."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from lensrl.errors import LensrlError
from lensrl.train.engine import Here
from lensrl.train.plan import load_workshop
from lensrl.train.relay import Event, Sender

Order = tuple[Any, ...]  # ("plan", recipe, folder, only) or ("make", job)


def work(descriptor: int, must_have_gpu: bool) -> None:
    """Carry out the orders that come over a pipe, until it is closed. This is the main function of a worker.

    Without a GPU where there must be one, the first order is answered with an error.
    """
    pipe = Connection(descriptor)
    orders: SimpleQueue[Order | None] = SimpleQueue()
    watcher = _PipeSender(pipe)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, watcher.interrupt)

    def receive() -> None:
        try:
            while True:
                orders.put(pipe.recv())
        except (EOFError, OSError):  # the study has ended, or its process
            orders.put(None)
            os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=receive, daemon=True).start()
    load_workshop()  # before the first order comes, most often; a copy has it already
    here = Here()
    try:
        while (order := orders.get()) is not None:
            watcher.is_busy = True
            try:
                if must_have_gpu:
                    _check_gpu()
                answer = _carried_out(order, here, watcher)
            except Exception as error:
                pipe.send(("failed", *_picklable(error)))
                return
            finally:
                watcher.is_busy = False
            pipe.send(answer)
    except (KeyboardInterrupt, BrokenPipeError):
        return  # the partial file is gone


def _check_gpu() -> None:
    """Raise LensrlError where the GPU that CUDA_VISIBLE_DEVICES names is not there."""
    from lensrl.models.base import pick_device, visible_devices

    if pick_device() == "cpu":
        named = ", ".join(visible_devices())
        raise LensrlError(f"there is no GPU {named!r} here, which --devices names: nvidia-smi -L lists those there are")


def _carried_out(order: Order, here: Here, watcher: Sender) -> Event:
    """Plan a study or make a run. The workshop that planning opens is kept for the runs."""
    said, *what = order
    if said == "make":
        here.make(what, watcher)
        return ("done",)
    with here.planned(*what) as plan:
        return ("planned", plan)


class _PipeSender(Sender):
    """Sends what happens in a worker to the study's process, and stops the worker at the next event after a signal."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(self._put)
        self._pipe = pipe
        self._interrupted = False
        self.is_busy = False  # whether an order is being carried out

    def interrupt(self, *_: object) -> None:
        """Handle a signal once. The next event raises KeyboardInterrupt again: a library may swallow it."""
        if self.is_busy and not self._interrupted:
            self._interrupted = True
            raise KeyboardInterrupt

    def noted(self, line: str) -> None:
        with suppress(BrokenPipeError):  # the study's process may be gone before a checkpoint is written
            self._pipe.send(("noted", line))

    def _put(self, event: Event) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._pipe.send(event)


def _picklable(error: Exception) -> tuple[Exception, str]:
    """Return an error as it can be sent, and where it was raised."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its class wants arguments that are not in its pickle
        return RuntimeError(f"{type(error).__name__}: {error}"), traceback.format_exc()
    return error, traceback.format_exc()
