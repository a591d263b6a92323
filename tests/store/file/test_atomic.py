"""Files that appear whole or not at all: exceptions, full disks, a second writer."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lensrl.errors import LensrlError, StoreError
from lensrl.store.file.atomic import new_file, new_folder, partial_path, remove_litter
from lensrl.store.file.claim import claim_path, is_being_written
from tests.store.synthetic import PARAMETERS, after_weights, before_weights, header, write_run


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    with new_file(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, LensrlError])
def test_an_exception_leaves_the_old_file_and_no_litter(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with new_file(path) as partial:
            partial.write_text("half")
            raise error("stop")

    with pytest.raises(error, match=r"^stop$"):
        interrupted()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_the_disks_refusal_is_one_line_with_the_path_and_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()  # a folder cannot be replaced by a file
    with (
        pytest.raises(StoreError, match=r"file could not be written \(Is a directory\); nothing was changed") as caught,
        new_file(tmp_path / "file") as partial,
    ):
        partial.write_text("half")
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_who_looks_whether_a_file_is_being_written_is_no_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    partial_path(path, "0" * 8).write_text("litter")
    assert not is_being_written(path)
    with new_file(path) as partial:
        assert not partial_path(path, "0" * 8).exists(), "the next writer removes it"
        partial.write_text("x")
        assert is_being_written(path)


def test_a_pipe_or_a_folder_by_the_name_of_a_partial_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(partial_path(tmp_path / "a.h5", "0" * 8))
    partial_path(tmp_path / "b.h5", "0" * 8).mkdir()
    assert not is_being_written(tmp_path / "a.h5")
    assert remove_litter(tmp_path) == []


def test_a_folder_that_cannot_be_synced_by_itself_is_none_the_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with new_file(tmp_path / "a") as partial:
        partial.write_text("x")
    assert (tmp_path / "a").read_text() == "x"


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from lensrl.errors import StoreError
from tests.store.synthetic import PARAMETERS, after_weights, before_weights, header, write_run

path = Path(sys.argv[1])
after = after_weights([p.name for p in PARAMETERS])
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_run(path, header("full-rl"), PARAMETERS, before_weights(), after=after)
    except StoreError as error:
        print(error)
"""


def test_a_full_disk_is_told_in_one_line_and_leaves_the_old_file_at_whatever_byte_it_fills(tmp_path: Path) -> None:
    path = tmp_path / "full-rl.seed-0.h5"
    write_run(path, header("full-rl"), PARAMETERS, before_weights(), after=after_weights([PARAMETERS[0].name]))
    old = path.read_bytes()
    limits = [100, 1000, 2000, 3000, 5000, 8000, len(old) // 2, len(old) - 1]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), *map(str, limits)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    line = f"{path} could not be written (File too large); nothing was changed: make room there or choose another"
    assert [text[: len(line)] for text in done.stdout.splitlines()] == [line] * len(limits)
    assert path.read_bytes() == old
    assert [*tmp_path.iterdir()] == [path]


BIG_DELTAS = """
import resource, sys
from pathlib import Path
import numpy as np
from lensrl.errors import StoreError
from lensrl.store.file.deltas import Parameter
from tests.store.synthetic import header, write_run

path = Path(sys.argv[1])
parameters = [Parameter(name, "0", name, "mlp", 1 << 21, 1.0) for name in "abc"]
before = {p.name: np.zeros((2048, 1024), np.float32) for p in parameters}
after = {p.name: np.ones((2048, 1024), np.float32) for p in parameters}
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_run(path, header("full-rl"), parameters, before, after=after)
        print("written")
    except StoreError as error:
        print(error)
"""


def test_a_disk_that_fills_within_a_delta_of_many_mib_leaves_the_old_file(tmp_path: Path) -> None:
    path, mib = tmp_path / "full-rl.seed-0.h5", 1 << 20
    write_run(path, header("full-rl"), PARAMETERS, before_weights())
    old = path.read_bytes()
    limits = [mib, 4 * mib + 100, 8 * mib, 12 * mib, 20 * mib + 1, 24 * mib]  # the three deltas are of 8 MiB
    done = subprocess.run(
        [sys.executable, "-c", BIG_DELTAS, str(path), *map(str, limits)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    line = f"{path} could not be written (File too large); nothing was changed"
    assert [text[: len(line)] for text in done.stdout.splitlines()] == [line] * len(limits)
    assert path.read_bytes() == old
    assert [*tmp_path.iterdir()] == [path]


def test_only_what_no_living_process_holds_is_litter(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    dead = folder / ".full-rl.seed-0.h5.partial"
    kept = [folder / name for name in ("x.h5", "x.h5.partial", ".x.h5")]
    for path in [dead, *kept]:
        path.touch()
    with new_file(folder / "base.h5") as living:
        assert is_being_written(folder / "base.h5")
        assert not is_being_written(folder / "full-rl.seed-0.h5")
        assert remove_litter(tmp_path) == [dead]
        assert sorted(folder.iterdir()) == sorted([living, claim_path(folder / "base.h5"), *kept])
        living.write_text("whole")
    assert not is_being_written(folder / "base.h5")


def test_only_what_is_written_into_a_study_is_litter(tmp_path: Path) -> None:
    ours = [".base.h5.partial", ".recipe.json.partial", ".report.html.partial", "patches/.x.h5.partial"]
    foreign = [".paper.pdf.partial", ".git/.x.h5.partial", ".hidden/patches/.x.h5.partial", "data/.x.json.partial",
               "a/b/.x.h5.partial"]  # fmt: skip
    for name in [*ours, *foreign]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    scratch = tmp_path / ".base.h5.scratch"
    kept = [tmp_path / name for name in (".other.scratch", ".git/.base.h5.scratch")]
    for made in (scratch, *kept):
        made.mkdir()
    assert sorted(remove_litter(tmp_path)) == sorted(tmp_path / name for name in ours)
    assert not [name for name in ours if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in foreign)
    assert not scratch.exists()
    assert all(made.exists() for made in kept)


def test_of_two_writers_one_stops_and_the_other_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with new_file(path) as first:
        first.write_text("first")
        with (
            pytest.raises(StoreError, match="file is being written by another process"),
            new_file(path),
        ):
            pytest.fail("two writers")
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    with pytest.raises(StoreError, match="file was made by another process meanwhile"), new_file(path, replace=False):
        pytest.fail("a run is written once")
    assert [*tmp_path.iterdir()] == [path]


def test_a_disk_that_fails_while_more_is_written_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("lensrl.store.file.deltas.SYNCED", 1)
    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(StoreError, match=r"base\.h5 could not be written \(Input/output error\)"):
        write_run(tmp_path / "base.h5", header("full-rl"), PARAMETERS, before_weights(),
                  after=after_weights([PARAMETERS[0].name]))  # fmt: skip
    assert not [*tmp_path.iterdir()]


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model"
    with new_folder(path) as partial:
        (partial / "inside").mkdir()
        (partial / "inside" / "file").write_text("whole")
        assert not path.exists()
    assert (path / "inside" / "file").read_text() == "whole"
    assert [*path.parent.iterdir()] == [path]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(path.parent.stat().st_mode), "as the umask has it"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, LensrlError])
def test_an_exception_leaves_no_folder(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "model") as partial:
            (partial / "file").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert not [*tmp_path.iterdir()]


def test_a_folder_with_files_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    with new_folder(path) as partial:  # an empty one is
        (partial / "first").touch()
    with pytest.raises(StoreError, match="model is not empty: name a new folder"), new_folder(path):
        pytest.fail("there are files in it")
    path.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="model is not empty"), new_folder(path), new_folder(path) as second:
        (second / "second").touch()  # of two writers, the first to end gets the name, and the other stops
    assert [*path.iterdir()] == [path / "second"]
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file is a file: name a new folder"), new_folder(tmp_path / "file"):
        pytest.fail("it is a file")
    with pytest.raises(StoreError, match="could not be written"), new_folder(tmp_path / "file" / "inside"):
        pytest.fail("no folder can be made in a file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "model", "moved"]
