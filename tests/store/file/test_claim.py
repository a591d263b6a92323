"""Claims: one process writes a file, dead claims are taken over, living ones never."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lensrl.errors import Taken
from lensrl.store.file import claim as claims
from lensrl.store.file.atomic import new_file, remove_litter
from lensrl.store.file.claim import STALE, claim_path, claimed, give_name, is_being_written, read_claim, tell


def foreign(path: Path, *, silent: float) -> Path:
    """Put a claim of another machine beside `path`, whose last sign is `silent` seconds old."""
    with claimed(path):
        owner, state = claim_path(path).read_text().split("\n", 1)
    there = json.loads(owner) | {"host": "node7", "place": "node7 other", "token": "f" * 8, "since": time.time() - 600}
    claim_path(path).write_text(f"{json.dumps(there)}\n{state}")
    os.utime(claim_path(path), (time.time(), time.time() - silent))
    return claim_path(path)


def test_a_claim_says_who_since_when_and_how_far(tmp_path: Path) -> None:
    path = tmp_path / "layer-3.seed-0.h5"
    with claimed(path):
        tell(path, "step 3/4, reward 0.500")
        claim = read_claim(path)
        assert claim is not None
        assert claim.process == os.getpid()
        assert abs(claim.since - time.time()) < 5
        assert claim.in_words().endswith("s: step 3/4, reward 0.500")
        size = claim_path(path).stat().st_size
        tell(path, "scoring")
        assert claim_path(path).stat().st_size == size, "a reader never finds it cut short"
        claim = read_claim(path)
        assert claim is not None
        assert claim.state == "scoring"
    assert not [*tmp_path.iterdir()]
    tell(path, "nothing")  # without a claim
    assert not [*tmp_path.iterdir()]


def test_a_claim_of_another_machine_lives_while_it_gives_signs(tmp_path: Path) -> None:
    path = tmp_path / "base.h5"
    foreign(path, silent=STALE - 30)
    assert is_being_written(path)
    with pytest.raises(Taken, match=r"by another process \(process \d+ on node7\)"), claimed(path, patience=0.0):
        pytest.fail("it is living")
    claim_path(path).unlink()
    claim = foreign(path, silent=STALE + 30)
    assert not is_being_written(path)
    found = read_claim(path)
    assert found is not None
    assert "on node7 gave no sign for" in found.in_words()
    with new_file(path) as partial:
        assert is_being_written(path)
        partial.write_text("x")
    assert [*tmp_path.iterdir()] == [path]
    assert not claim.exists()


def test_the_age_of_a_sign_is_told_by_the_file_systems_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "base.h5", time.time
    foreign(path, silent=5)
    monkeypatch.setattr(claims.time, "time", lambda: real() + 3600)  # the clock of this machine is wrong by an hour
    claims._clock.cache_clear()
    assert is_being_written(path)
    claims._clock.cache_clear()


def test_a_writer_that_slept_and_lost_its_claim_does_not_write_its_file(tmp_path: Path) -> None:
    path = tmp_path / "base.h5"
    with pytest.raises(Taken, match="was taken over by another process"), new_file(path) as partial:  # noqa: PT012
        partial.write_text("late")
        claim_path(path).unlink()
        with new_file(path) as other:
            assert other != partial, "two writers never share a partial file"
            other.write_text("quick")
    assert path.read_text() == "quick"
    assert [*tmp_path.iterdir()] == [path]


def test_a_claim_cut_short_is_no_persons_and_dies_with_time(tmp_path: Path) -> None:
    path = tmp_path / "base.h5"
    claim_path(path).touch()
    assert is_being_written(path)
    os.utime(claim_path(path), (time.time(), time.time() - STALE - 5))
    assert not is_being_written(path)
    assert remove_litter(tmp_path) == []
    assert not [*tmp_path.iterdir()]


def test_a_living_claim_that_was_moved_aside_by_mistake_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "base.h5"
    foreign(path, silent=STALE + 5)
    dead = read_claim(path)
    assert dead is not None
    claim_path(path).unlink()
    with claimed(path) as token:  # another process was quicker
        claims._remove_dead(path, dead)
        assert claims.holds(path, token)
    assert not [*tmp_path.iterdir()]


def test_a_name_is_given_once_also_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    monkeypatch.setattr(os, "link", no_links)
    give_name(tmp_path / "a", tmp_path / "c")
    with pytest.raises(FileExistsError):
        give_name(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "a"


CLAIM = """
import os, random, sys, time
from pathlib import Path
from lensrl.errors import Taken
from lensrl.store.file.atomic import new_file

folder, moments = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
left = list(range(12))
while left:
    for number in list(left):
        path = folder / f"{number}.h5"
        if path.exists():
            left.remove(number)
            continue
        try:
            with new_file(path, replace=False) as partial:
                with (folder / "made").open("a") as made:
                    made.write(f"begin {number} {os.getpid()}\\n")
                time.sleep(moments.uniform(0, 0.05))
                partial.write_text(str(os.getpid()))
            with (folder / "made").open("a") as made:
                made.write(f"end {number} {os.getpid()}\\n")
        except Taken:
            pass
"""


def test_of_sixteen_processes_five_are_killed_and_every_file_is_made_once(tmp_path: Path) -> None:
    """The processes hold no lock: a claim file is all they have."""
    assert "flock" not in Path(claims.__file__).read_text().split('"""')[2]
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([*command, str(n)], text=True, **pipes) for n in range(16)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes[:5]:
        time.sleep(0.02)
        process.kill()
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes[5:]] == [0] * 11, errors
    remove_litter(tmp_path)
    # A process that is killed as it creates its claim leaves the claim empty. Nobody can tell whose it was, and it
    # counts for 120 seconds.
    left = {path.name for path in tmp_path.iterdir() if path.stat().st_size or path.suffix != ".claim"}
    assert left == {"made", *(f"{number}.h5" for number in range(12))}
    lines = [line.split() for line in (tmp_path / "made").read_text().splitlines()]
    ended = [number for said, number, _ in lines if said == "end"]
    assert len(ended) == len(set(ended)), "no file was made twice"
    killed = {str(process.pid) for process in processes[:5]}
    begun = [number for said, number, process in lines if said == "begin" and process not in killed]
    assert len(begun) == len(set(begun)), "no two living processes made one file"
    for number in range(12):
        maker = (tmp_path / f"{number}.h5").read_text()
        assert ["begin", str(number), maker] in lines


def test_a_lock_that_always_succeeds_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with new_file(tmp_path / "a.h5") as partial:
        partial.write_text("x")
        with pytest.raises(Taken), new_file(tmp_path / "a.h5"):
            pytest.fail("two writers")
