"""Processes that are killed at any moment: what was committed stays whole, and what they leave is in nobody's way."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensrl.errors import StoreError
from lensrl.store.file.atomic import final_path, new_file, remove_litter
from lensrl.store.file.claim import PATIENCE, STALE, claim_path, read_claim
from lensrl.store.file.deltas import Parameter
from lensrl.store.file.exact import add
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.store.verify import check_file
from lensrl.store.write import write_run as write_partial
from tests.store.synthetic import (
    activations,
    add_run,
    header,
    make_study,
    probe,
    score_arrays,
    training,
    write_run,
)

FORK = multiprocessing.get_context("fork")
WIDE = Parameter("model.layers.0.wide", "0", "wide", "mlp", 100_000, 1.0)
MEASURED: dict[str, Any] = {
    "training": training(), "scores": score_arrays(np.ones((2, 1))), "probe": probe(), "activations": activations(),
}  # fmt: skip
FEW, MANY = 7, 70  # kills for each of the three things that a process may be at


def wide_weights(generation: int) -> dict[str, np.ndarray]:
    return {WIDE.name: np.random.default_rng(generation).normal(size=(200, 500)).astype(np.float32)}


def write_generation(path: Path, generation: int) -> None:
    about = header("full-rl", reason=str(generation))
    write_run(path, about, [WIDE], wide_weights(0), after=wide_weights(generation), **MEASURED)


def write_for_ever(path: Path, _: Connection) -> None:
    for generation in range(2, 1_000_000):
        write_generation(path, generation)


def write_and_tell(path: Path, parent: Connection) -> None:
    """Says when a file, or a folder, is about to be synced, and when it is about to be renamed."""
    fsync, rename = os.fsync, os.replace

    def telling_fsync(descriptor: int) -> None:
        parent.send(None)
        fsync(descriptor)

    def telling_rename(old: Path, new: Path) -> None:
        parent.send(None)
        rename(old, new)

    os.fsync, os.replace = telling_fsync, telling_rename
    write_for_ever(path, parent)


def read_for_ever(path: Path, _: Connection) -> None:
    while True:
        generation_in(path)


def generation_in(path: Path) -> int:
    """Which generation of the weights a file holds, all of them bit for bit."""
    with Run(path) as run:
        (_, change) = run.deltas.exact(0)[WIDE.inner]
        generation = int(run.reason)
        assert add(wide_weights(0)[WIDE.name], change).tobytes() == wide_weights(generation)[WIDE.name].tobytes()
    return generation


def sometime_in_four_writes(moments: random.Random, one_write: float, _: Connection) -> None:
    time.sleep(0.02 + moments.uniform(0, 4) * one_write)


def around_a_sync_or_a_rename(moments: random.Random, _: float, child: Connection) -> None:
    for _ in range(moments.randint(1, 8)):  # a write syncs three times and renames once
        child.recv()
    time.sleep(moments.choice([0, moments.uniform(0, 0.001), moments.uniform(0, 0.005)]))


def age_a_claim_without_an_owner(path: Path) -> None:
    """A process killed between creating its claim and writing its name into it is in the way for `STALE` seconds."""
    claim = read_claim(path)
    if claim is not None and not claim.token:
        long_ago = time.time() - 2 * STALE
        os.utime(claim_path(path), (long_ago, long_ago))


@pytest.mark.parametrize("kills", [FEW, pytest.param(MANY, marks=[pytest.mark.crash, pytest.mark.timeout(0)])])
@pytest.mark.parametrize(
    ("work", "wait"),
    [
        pytest.param(write_for_ever, sometime_in_four_writes, id="writing"),
        pytest.param(write_and_tell, around_a_sync_or_a_rename, id="committing"),
    ],
)
def test_a_killed_writer_leaves_whole_files_and_only_litter_that_is_removed(
    tmp_path: Path,
    work: Callable[[Path, Connection], None],
    wait: Callable[[random.Random, float, Connection], None],
    kills: int,
) -> None:
    folder = make_study(tmp_path / "study")
    untouched = add_run(folder, "base", {"only": [0.0, 1.0]})
    committed, replaced = untouched.read_bytes(), folder / "full-rl.seed-0.h5"
    moments, litter = random.Random(0), 0
    start = time.perf_counter()
    write_generation(replaced, 1)
    one_write = time.perf_counter() - start
    for kill in range(kills):
        ours, theirs = FORK.Pipe()
        writer = FORK.Process(target=work, args=(replaced, theirs))
        writer.start()
        wait(moments, one_write, ours)
        writer.kill()
        writer.join()
        partial = [*folder.glob(".*.partial")]
        assert {final_path(path) for path in partial} <= {replaced}
        assert len(partial) < 2
        litter += len(partial)
        age_a_claim_without_an_owner(replaced)
        with Study(folder) as study:
            assert not study.broken
            assert set(study.runs) == {("base", 0), ("full-rl", 0)}
        assert generation_in(replaced)
        assert check_file(replaced).status == "good"
        assert untouched.read_bytes() == committed
        if kill % 2:
            assert remove_litter(tmp_path) == partial
        else:
            write_generation(replaced, 1)  # over what the killed process left
            assert generation_in(replaced) == 1
        assert sorted(folder.iterdir()) == sorted([folder / "recipe.json", untouched, replaced])
    assert litter, "no kill came during a write"


@pytest.mark.parametrize("kills", [FEW, pytest.param(MANY, marks=[pytest.mark.crash, pytest.mark.timeout(0)])])
def test_a_killed_reader_leaves_no_trace_and_does_not_disturb_another(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "full-rl.seed-0.h5"
    write_generation(path, 1)
    content, moments = path.read_bytes(), random.Random(0)
    _, theirs = FORK.Pipe()
    other = FORK.Process(target=read_for_ever, args=(path, theirs))
    other.start()
    for _ in range(kills):
        reader = FORK.Process(target=read_for_ever, args=(path, theirs))
        reader.start()
        time.sleep(moments.uniform(0, 0.1))
        reader.kill()
        reader.join()
        assert path.read_bytes() == content
        assert [*tmp_path.iterdir()] == [path]
        assert other.is_alive(), "the other reader met an error"
    write_generation(path, 2)  # no lock is left
    assert check_file(path).status == "good"
    other.kill()
    other.join()


def write_when_told(path: Path, start: Barrier, end: Barrier, parent: Connection, me: int, rounds: int) -> None:
    for turn in range(rounds):
        start.wait()
        said = ""
        try:
            with new_file(path, replace=turn % 2 == 0) as partial:
                about = header("full-rl", reason=str(me))
                write_partial(partial, about, [WIDE], wide_weights(0), after=wide_weights(me), **MEASURED)
                if turn % 4 < 2:
                    time.sleep(2 * PATIENCE)
        except StoreError as error:
            said = str(error)
        parent.send(said)
        end.wait()


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=[pytest.mark.crash, pytest.mark.timeout(0)])])
def test_two_processes_that_write_the_same_run_at_once_leave_one_whole_run(tmp_path: Path, rounds: int) -> None:
    path = tmp_path / "full-rl.seed-0.h5"
    start, end = FORK.Barrier(3), FORK.Barrier(3)
    pipes = [FORK.Pipe() for _ in range(2)]
    writers = [
        FORK.Process(target=write_when_told, args=(path, start, end, theirs, me, rounds), daemon=True)
        for me, (_, theirs) in enumerate(pipes, start=1)
    ]
    for writer in writers:
        writer.start()
    for turn in range(rounds):
        start.wait(timeout=30)
        said = [ours.recv() for ours, _ in pipes]
        won = [me for me, text in enumerate(said, start=1) if not text]
        assert [*tmp_path.iterdir()] == [path]
        assert generation_in(path) in won
        assert check_file(path).status == "good"
        lost = [text for text in said if text]
        if turn % 4 < 2:  # the winner takes longer than the other waits
            assert [f"{path} is being written by another process" in text for text in lost] == [True]
        elif turn % 2:
            assert [f"{path} was made by another process meanwhile" in text for text in lost] == [True]
        else:
            assert not lost, "short writes take turns"
        path.unlink()
        end.wait(timeout=30)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0


def test_who_reads_while_the_file_is_replaced_sees_one_writing_or_another(tmp_path: Path) -> None:
    path = tmp_path / "full-rl.seed-0.h5"
    write_generation(path, 1)
    _, theirs = FORK.Pipe()
    writer = FORK.Process(target=write_for_ever, args=(path, theirs))
    writer.start()
    try:
        seen = {generation_in(path) for _ in range(100)}
    finally:
        writer.kill()
        writer.join()
    assert len(seen) > 1, "nothing was replaced meanwhile"
