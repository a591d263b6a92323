"""One run on several devices: the processes that a launcher starts for it, each with a device and a rank.

    lensrl run RECIPE --devices-per-run 2
    torchrun --nproc-per-node 2 -m lensrl_cli.main run RECIPE      # the same; this way also over several machines

    rank 0                                       every other rank
    plans the study, claims a run          ->    waits for a job
    trains and scores its share            <->   trains and scores its share: whole groups, then a range of items
    writes the file, and the next job      ->    writes nothing

Training is data parallel (torch's DistributedDataParallel, through TRL): each rank holds the whole model, samples and
judges the completions of its share of a step's prompts, and all apply the mean gradient. With `--shard`, each rank
holds a part of the weights, gradients and moments between steps (`lensrl.models.shards`). What ends a run, and the
training curve, are computed from the values of all ranks, so each rank comes to the same decision.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread
from typing import Any, TypeVar

from lensrl.errors import LensrlError, RecipeError
from lensrl.recipe import Recipe
from lensrl.train.job import Job

T = TypeVar("T")
REFUSED = "refused"  # sent in place of a job
PATIENCE = timedelta(days=7)  # rank 0 writes files, and waits for other processes, while the others wait for it
GRACE = 20.0  # seconds that the other ranks have to end after the study, and rank 0 after the loss of another
PAUSE = 1.0  # seconds between two looks at the other ranks
LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun beside WORLD_SIZE
OTHERS = {  # set by `accelerate launch` -> the way to share a run out that is not known here
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}

_group: Any = None  # of torch.distributed, on CPUs: for jobs, rewards and scores
_in_hand = False  # whether the other ranks are making a run


class Refused(LensrlError):
    """Rank 0 has ended with an error. Raised on the other ranks."""


def world() -> int:
    """Return the number of ranks: 1 without a launcher."""
    said = os.environ.get("WORLD_SIZE") or "1"
    if not said.isdecimal():
        raise LensrlError(f"WORLD_SIZE is {said!r}, and must be a number of processes: unset it")
    return int(said) or 1


def rank() -> int:
    """Return the rank of this process: 0 without a launcher."""
    return int(os.environ.get("RANK") or 0) if world() > 1 else 0


def check_launcher() -> None:
    """Raise LensrlError for a launcher that cannot be used."""
    count = world()
    other = next((name for key, name in OTHERS.items() if os.environ.get(key, "").lower() in ("1", "true")), None)
    if other is not None:
        share = f" --devices-per-run {count}, with --shard for a model that does not fit one device" * (count > 1)
        raise LensrlError(f"accelerate's {other} is not supported: type lensrl run RECIPE{share}")
    if count == 1:
        return
    missing = [name for name in LAUNCHED if name not in os.environ]
    if missing:
        raise LensrlError(
            f"WORLD_SIZE is {count} and {missing[0]} is not set: type lensrl run RECIPE --devices-per-run {count}, or "
            f"unset WORLD_SIZE"
        )


def check_ranks(recipe: Recipe) -> None:
    """Raise LensrlError for a recipe whose runs cannot be shared out over the ranks."""
    count, rl = world(), recipe.rl
    if count == 1:
        if recipe.engine.shard:
            raise LensrlError("--shard shares the weights of a run out over its devices: add --devices-per-run 2")
        return
    if recipe.engine.shard and (lora := next((name for name, s in recipe.sets.items() if s.lora), None)):
        raise RecipeError(f"sets.{lora}: LoRA adapters are not put in shards; leave the set or --shard out")
    if recipe.engine.shard and rl.sampler_dtype == "bfloat16":
        raise RecipeError("rl.sampler_dtype = 'bfloat16' copies whole weights; leave it out, or leave out --shard")
    if recipe.generation != "pieces":
        raise RecipeError(f"generation = {recipe.generation!r} samples on one device; {count} ranks need 'pieces'")
    if rl.checkpoint_every is not None:
        raise RecipeError(f"rl.checkpoint_every: a run on {count} ranks keeps no checkpoints; leave it out")
    if rl.prompts_per_step % count:
        raise RecipeError(
            f"rl.prompts_per_step is {rl.prompts_per_step}, and {count} ranks share the prompts of a step equally: "
            f"make it a multiple of {count}"
        )
    share = rl.completions_per_update // count
    if rl.completions_per_update % count or share % (rl.micro_batch or share):
        raise RecipeError(
            f"an update has {rl.completions_per_update} completions: {count} ranks cannot share them equally in "
            f"micro-batches of {rl.micro_batch or share}; change rl.micro_batch"
        )


@contextmanager
def started(count: int, command: Sequence[str]) -> Iterator[None]:
    """Be rank 0 of `count` on this machine. `command` starts each of the others, and they end with the block.

    To be used once in a process: accelerate keeps the number of ranks until the process ends.

    Raises LensrlError where the machine has GPUs, and fewer than `count`, and when another rank is lost. Where rank 0
    hangs then, since a GPU waits for the lost rank, the process ends with the same line.
    """
    import torch

    if 0 < torch.cuda.device_count() < count:
        raise LensrlError(f"a run is to have {count} devices, and this machine shows {torch.cuda.device_count()} GPUs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    of_rank = [common | {"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]
    before = dict(os.environ)
    # Each in a session of its own: Ctrl-C in the terminal reaches rank 0 alone.
    others = [subprocess.Popen(command, env=before | one, start_new_session=True) for one in of_rank[1:]]
    os.environ.update(of_rank[0])
    over = Event()
    Thread(target=_end_with_a_lost_rank, args=(others, over), daemon=True).start()
    try:
        yield
    except RuntimeError as error:  # also that of a collective operation whose other end is gone
        line = _lost(others) if _in_hand else None  # between runs, they end because rank 0 tells them to
        if line is None:
            raise
        raise LensrlError(line) from error
    finally:
        over.set()
        for name in of_rank[0]:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
        for other in others:
            try:
                other.wait(timeout=GRACE if not _in_hand else 0)
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()


def _lost(others: Sequence[subprocess.Popen[bytes]]) -> str | None:
    """Return a line on the first of the other ranks that has failed or was killed, and None when there is none."""
    for number, other in enumerate(others, 1):
        with suppress(subprocess.TimeoutExpired):
            code = other.wait(timeout=1)  # it may be ending
            if code:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
                return f"rank {number} of {len(others) + 1} {how}; the same command continues with the missing runs"
    return None


def _end_with_a_lost_rank(others: Sequence[subprocess.Popen[bytes]], over: Event) -> None:
    """End this process where it has not ended by itself GRACE seconds after another rank was lost."""
    while not over.wait(PAUSE):
        if any(other.poll() for other in others) and not over.wait(GRACE):
            print(f"lensrl: {_lost(others)}", file=sys.stderr, flush=True)
            os._exit(2)


def join() -> None:
    """Meet the other ranks. Each takes the device of its number on its machine."""
    global _group
    if world() == 1 or _group is not None:
        return
    import torch
    from torch import distributed

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    if not distributed.is_initialized():
        distributed.init_process_group("cuda:nccl,cpu:gloo" if on_gpu else "gloo", timeout=PATIENCE)
    _group = distributed.new_group(backend="gloo", timeout=PATIENCE)


def gathered(values: Sequence[T]) -> list[T]:
    """Return the values of all ranks, in the order of the ranks. Every rank must call it."""
    if world() == 1:
        return list(values)
    from torch import distributed

    of_ranks: list[Any] = [None] * world()
    distributed.all_gather_object(of_ranks, list(values), group=_group)
    return [value for one in of_ranks for value in one]


def share(count: int) -> range:
    """Return this rank's share of `count` things that stand in a row."""
    return range(count * rank() // world(), count * (rank() + 1) // world())


@contextmanager
def led() -> Iterator[None]:
    """On rank 0: let the other ranks wait for jobs, and end them. An error in a run ends them through the launcher."""
    join()
    made = False
    try:
        yield
        made = True
    finally:
        if not _in_hand:
            _tell(None if made else REFUSED)


@contextmanager
def together(job: Job) -> Iterator[None]:
    """On rank 0: make a run with the other ranks. After an error they are still in the run, and hear no more."""
    global _in_hand
    _in_hand = True
    _tell(job)
    yield
    _in_hand = False


def next_job() -> Job | None:
    """On every other rank: wait for the next run. Returns None when the study is made.

    Raises Refused when rank 0 has ended with an error.
    """
    job = _tell(None)
    if job == REFUSED:
        raise Refused("rank 0 has ended with an error, and said so")
    return job


def _tell(job: Any) -> Any:
    """Send a job from rank 0 to all, and return it on every rank."""
    if world() == 1:
        return job
    from torch import distributed

    sent = [job]
    distributed.broadcast_object_list(sent, src=0, group=_group)
    return sent[0]
