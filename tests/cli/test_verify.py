"""`lensrl verify`: what it finds, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import pytest

from lensrl.errors import LensrlError
from lensrl.store.file.atomic import new_file, partial_path
from lensrl.store.file.seal import Seal, read_seal, structure_holds
from lensrl.store.verify import check_file, verify
from tests.cli.test_verbs import assert_one_line
from tests.cli.typed import lensrl
from tests.reseal import resealed
from tests.store.synthetic import write_full_run


def verdicts(*arguments: object) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and status and place by file name."""
    done = lensrl("verify", *arguments, "--json")
    assert not done.stderr
    return done.returncode, {Path(v["file"]).name: (v["status"], v["where"]) for v in json.loads(done.stdout)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_full_run(tmp_path / "runs" / "full-rl.seed-3.h5")
    return tmp_path / "runs" / "full-rl.seed-3.h5"


def test_a_study_that_was_just_made_is_good(small_study_folder: Path) -> None:
    code, found = verdicts(small_study_folder)
    assert code == 0
    assert sorted(found) == sorted(path.name for path in small_study_folder.rglob("*.h5"))
    assert set(found.values()) == {("good", "")}
    done = lensrl("verify", small_study_folder)
    assert done.returncode == 0
    assert f"{len(found)} of {len(found)} files are good" in done.stdout


def test_a_file_of_another_format_is_not_ours_and_nothing_advises_to_delete_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["x"] = 1
    assert verdicts(tmp_path / "theirs.h5")[1]["theirs.h5"][0] == "not ours"
    done = lensrl("show", tmp_path / "theirs.h5")
    assert "is not a lensrl-run file" in done.stderr
    assert "delete" not in done.stderr
    (tmp_path / "text.h5").write_text("hello")
    assert verdicts(tmp_path / "text.h5")[1] == {"text.h5": ("not ours", "is no HDF5 file")}


def test_a_flipped_byte_in_any_dataset_is_damage_in_that_dataset(path: Path, tmp_path: Path) -> None:
    """A folder of copies, in each of which one dataset has one wrong byte."""
    seal, content = read_seal(path), path.read_bytes()
    assert seal is not None
    (tmp_path / "copies").mkdir()
    expected = {}
    for i, (name, extent) in enumerate(seal.datasets.items()):
        start, length = extent.ranges[-1]
        wrong = bytearray(content)
        wrong[start + length - 1] ^= 0x10
        (tmp_path / "copies" / f"{i}.h5").write_bytes(wrong)
        expected[f"{i}.h5"] = ("damaged", name)
    assert {"scores/score", "deltas/0/attn.q.weight", "deltas/1/scale", "item", "layer"} <= set(seal.datasets)
    assert verdicts(tmp_path / "copies") == (1, expected)


def test_a_flipped_byte_of_the_structure_or_the_seal_is_damage(path: Path) -> None:
    content = path.read_bytes()
    places = {b"fingerprint": "structure", b"lensrl-seal": "", b'"structure"': "seal"}
    for place, expected in places.items():
        wrong = bytearray(content)
        wrong[content.rindex(place)] ^= 1
        path.write_bytes(wrong)
        code, found = verdicts(path)
        status, where = found[path.name]
        assert (code, status) == (1, "unfinished" if place == b"lensrl-seal" else "damaged")
        assert expected in where


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_not_good_and_the_others_are(path: Path, share: float) -> None:
    write_full_run(path.with_name("other.h5"))
    os.truncate(path, int(path.stat().st_size * share))
    code, found = verdicts(path.parent)
    assert code == 1
    assert found[path.name][0] == "damaged"
    assert found["other.h5"] == ("good", "")
    done = lensrl("verify", path.parent)
    assert done.returncode == 1
    assert "1 of 2 files are good" in done.stdout


def test_a_newer_format_is_too_new(path: Path) -> None:
    with resealed(path) as file:
        file.attrs["format_version"] = 99
    code, found = verdicts(path)
    assert (code, found[path.name][0]) == (1, "too new")
    assert "upgrade lensrl" in found[path.name][1]


def test_a_forged_score_is_found_although_every_checksum_holds(path: Path) -> None:
    with resealed(path) as file:
        file.attrs["score"] = 0.9
    code, found = verdicts(path)
    assert (code, found[path.name][0]) == (1, "damaged")
    assert "says the score 0.9" in found[path.name][1]


def test_partial_files_are_unfinished_whether_their_writer_lives_or_not(path: Path) -> None:
    (path.parent / ".layer-0.seed-0.h5.partial").write_bytes(b"half")
    with new_file(path.with_name("layer-1.seed-0.h5")) as partial:
        partial.write_bytes(b"half")
        code, found = verdicts(path.parent)
        partial.unlink()
        shutil.copy(path, partial)
    assert code == 1
    assert found == {
        path.name: ("good", ""),
        ".layer-0.seed-0.h5.partial": ("unfinished", "its process was killed; lensrl run removes it"),
        partial.name: ("unfinished", "being written"),
    }


def test_a_name_that_leads_nowhere_is_damaged_and_the_others_are_verified(path: Path) -> None:
    path.with_name("a.h5").symlink_to("gone.h5")
    path.with_name("b.h5").mkdir()
    os.mkfifo(path.with_name("c.h5"))
    code, found = verdicts(path.parent)
    assert code == 1
    assert found == {
        "a.h5": ("damaged", "a link to gone.h5, which is not there"),
        "b.h5": ("damaged", "a folder, not a file"),
        "c.h5": ("damaged", "no regular file"),
        path.name: ("good", ""),
    }


def test_the_reason_does_not_repeat_the_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with resealed(path) as file:
        file.attrs["score"] = 0.9
    monkeypatch.chdir(path.parent)
    _, found = verdicts(path.name)
    assert found[path.name][1].startswith("says the score 0.9")
    assert str(path.parent) not in lensrl("verify", path.name).stdout


@pytest.mark.parametrize("ends", ["finished", "given up"])
def test_a_file_that_is_finished_meanwhile_is_checked_and_not_unfinished(path: Path, ends: str) -> None:
    final = path.with_name("layer-1.seed-0.h5")
    verdicts = verify(path.parent)
    with new_file(final) as partial:
        shutil.copy(path, partial)
        first = next(verdicts)  # by now, the partial file has been listed
    if ends == "given up":
        final.unlink()
    assert [(v.path, v.status) for v in [first, *verdicts]] == [
        (p, "good") for p in ([path, final] if ends == "finished" else [path])
    ]


def test_what_else_is_being_written_in_a_study_is_no_run_file(path: Path) -> None:
    for name in (".recipe.json.partial", ".report.html.partial", ".contributions.csv.partial"):
        path.with_name(name).write_text("half")
    assert verdicts(path.parent) == (0, {path.name: ("good", "")})


def test_a_partial_file_is_unfinished_when_it_is_named_itself(path: Path) -> None:
    assert_one_line(lensrl("verify", partial_path(path, "0" * 8)), "no file at ")
    partial = Path(shutil.copy(path, partial_path(path, "0" * 8)))
    assert verdicts(partial)[1] == {partial.name: ("unfinished", "its process was killed; lensrl run removes it")}


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_full_run(path.with_name("other"))

    def replace(replaced: Path, seal: Seal) -> bool:
        if path.with_name("other").exists():
            path.with_name("other").replace(replaced)
        return structure_holds(replaced, seal)

    monkeypatch.setattr("lensrl.store.verify.structure_holds", replace)
    assert check_file(path).status == "good"
    assert not path.with_name("other").exists()


def test_a_module_of_the_users_with_a_common_name_is_not_imported(path: Path) -> None:
    path.with_name("queue.py").write_text("raise RuntimeError")
    done = lensrl("verify", ".", cwd=path.parent)
    assert "1 of 1 files are good" in done.stdout


def test_what_is_wrong_with_the_reader_is_not_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_b(monkeypatch, "raise verify.LensrlError('no plugin')")
    with pytest.raises(LensrlError, match="no plugin"):
        list(verify(path.rename(path.with_name("b.h5"))))
    monkeypatch.undo()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(LensrlError, match="/bin/false could not start one"):
        list(verify(path.with_name("b.h5")))


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, scan = path.parent / "closed", os.scandir
    closed.mkdir()

    def refused(folder: str) -> Any:  # as root one may look into everything
        if Path(folder) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refused)
    found = {verdict.path: (verdict.status, verdict.where) for verdict in verify(path.parent)}
    assert found == {
        path: ("good", ""),
        closed: ("damaged", "a folder that cannot be opened (Permission denied)"),
    }


def test_nothing_to_verify_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    assert_one_line(lensrl("verify", tmp_path / "absent"), "no file at ")
    assert_one_line(lensrl("verify", tmp_path), "holds no HDF5 files")


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name in ("a.h5", "b.h5", "c.h5"):
        write_full_run(tmp_path / "three" / name)
    return tmp_path / "three"


def at_b(monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    """Have the child that verifies files do something else when it comes to b.h5."""
    code = (
        "import os, signal, time\nfrom lensrl.store import verify\ncheck = verify.check_file\n"
        f"def instead(path):\n    if path.name == 'b.h5':\n        {act}\n    return check(path)\n"
        "verify.check_file = instead\nverify._child()"
    )
    start = subprocess.Popen

    def popen(command: list[str], **named: Any) -> subprocess.Popen[str]:
        return start([command[0], "-c", code], **named)

    monkeypatch.setattr(subprocess, "Popen", popen)


@pytest.mark.parametrize("act", ["os.kill(os.getpid(), signal.SIGSEGV)", "os.abort()", "os._exit(0)"])
def test_a_file_that_kills_its_reader_is_damaged_and_the_others_are_verified(
    three: Path, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_b(monkeypatch, act)
    found = {verdict.path.name: (verdict.status, verdict.where) for verdict in verify(three)}
    crash = ("damaged", "reading it crashes the HDF5 library")
    assert found == {"a.h5": ("good", ""), "b.h5": crash, "c.h5": ("good", "")}


@pytest.mark.slow
def test_a_file_whose_reading_does_not_end_is_damaged_and_the_others_are_verified(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_b(monkeypatch, "time.sleep(600)")
    monkeypatch.setattr("lensrl.store.verify.SECONDS", 8)
    found = {verdict.path.name: (verdict.status, verdict.where) for verdict in verify(three)}
    hang = ("damaged", "reading it does not end")
    assert found == {"a.h5": ("good", ""), "b.h5": hang, "c.h5": ("good", "")}
