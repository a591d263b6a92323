"""The sandbox against programs that mean harm, with all its layers and with some switched off.

Each attack ends with a test that fails, so passing means to have forged the verdict; what it was after is looked at
afterwards. In every case no process and no file is left.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from lensrl.tasks import sandbox
from lensrl.tasks.sandbox import Outcome, Sandbox, run_programs
from tests.tasks.sandbox.boxes import descendants, outcome, server_of
from tests.tasks.sandbox.programs import EXHAUSTION, FORGERIES

SECRET = "a token in the environment of the trainer"


@pytest.mark.parametrize("attack", [*FORGERIES.values(), *EXHAUSTION.values()], ids=[*FORGERIES, *EXHAUSTION])
def test_no_attack_passes_or_leaves_anything(box: Sandbox, attack: str) -> None:
    start = time.perf_counter()
    result = outcome(box, attack, "assert False", "x = 1")
    assert not result.passed
    assert time.perf_counter() - start < 10
    assert outcome(box, "x = 1", "assert x == 1", timeout=5).passed  # and the next program is none the wiser


@pytest.mark.parametrize("where", ["", "repository", "home", "temporary"])
def test_nothing_is_written_outside(box: Sandbox, tmp_path: Path, where: str) -> None:
    folders = {"": "/", "repository": str(Path(__file__).parents[2]), "home": str(Path.home()), "temporary": tmp_path}
    target = os.path.join(folders[where], "lensrl-was-here")
    victim = tmp_path / "victim"
    victim.write_text("whole")
    attempts = [
        f"open({target!r}, 'w').write('x')",
        f"os.mkdir({target!r})",
        f"os.symlink('/', {target!r})",
        f"os.symlink({str(tmp_path)!r}, 'out'); open('out/lensrl-was-here', 'w').write('x')",
        f"os.rename({str(victim)!r}, 'mine')",
        f"os.link({str(victim)!r}, 'mine'); open('mine', 'w').write('x')",
        f"os.remove({str(victim)!r})",
        f"os.truncate({str(victim)!r}, 0)",
        f"os.chmod({str(victim)!r}, 0)",
        f"os.utime({str(victim)!r}, (0, 0))",
        f"os.setxattr({str(victim)!r}, 'user.x', b'x')",
        "os.chroot('.')",
        "os.mknod('device', 0o60666, os.makedev(8, 0)); open('device').read()",
    ]
    state = victim.stat()
    for attempt in attempts:
        assert not outcome(box, f"import os\n{attempt}", timeout=5).passed, attempt
    assert victim.read_text() == "whole"
    assert (victim.stat().st_mode, victim.stat().st_mtime) == (state.st_mode, state.st_mtime)
    assert os.listdir(tmp_path) == ["victim"]
    assert not os.path.lexists(target)


def test_the_trainer_is_not_to_be_seen_or_touched(box: Sandbox) -> None:
    """Its environment, its memory, its limits, its life."""
    server = server_of(box)
    trainer = subprocess.Popen(["/bin/sleep", "100"], env={"TOKEN": SECRET})
    pids = [os.getpid(), server.process.pid, *descendants(server.process.pid), trainer.pid]
    try:
        for pid in pids:
            for attempt in (
                f"assert {SECRET[:7]!r} in open('/proc/{pid}/environ').read()",
                f"open('/proc/{pid}/mem', 'r+b').read()",
                f"os.readlink('/proc/{pid}/fd/0')",
                f"os.kill({pid}, signal.SIGKILL); time.sleep(100)",
                f"signal.pidfd_send_signal(os.pidfd_open({pid}), signal.SIGKILL); time.sleep(100)",
                f"resource.prlimit({pid}, resource.RLIMIT_NOFILE, (0, 0)); time.sleep(100)",
                f"assert ctypes.CDLL(None).ptrace(16, {pid}, 0, 0) == 0",
            ):
                result = outcome(box, f"import os, signal, time, resource, ctypes\n{attempt}", timeout=0.05)
                assert not result.passed, attempt
        for attempt in ("os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.kill(0, 9)", "os.killpg(0, 15)"):
            assert not outcome(box, f"import os\n{attempt}", "assert False").passed
        assert trainer.poll() is None
        assert server_of(box) is server
        assert server.process.poll() is None
        for name in ("PATH", "HOME", "PYTHONHASHSEED"):
            assert outcome(box, f"import os\nassert {name!r} not in os.environ", timeout=5).passed
    finally:
        trainer.kill()
        trainer.wait()


def test_other_files_are_not_read(box: Sandbox, tmp_path: Path) -> None:
    if "landlock" not in box.layers:
        pytest.skip("reading is confined by Landlock alone")
    (tmp_path / "token").write_text(SECRET)
    for path in (tmp_path / "token", Path(__file__), Path(sandbox.__file__), "/etc/passwd", "/proc/self/status"):
        result = outcome(box, f"open({str(path)!r}).read()", timeout=5)
        assert result.reason.startswith("PermissionError")
        linked = outcome(box, f"import os\nos.symlink({str(path)!r}, 'link')\nopen('link').read()", timeout=5)
        assert linked.reason.startswith("PermissionError")


def test_there_is_no_network(box: Sandbox) -> None:
    """Not even to this machine, where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0lensrl-listener")
        local.listen()
        listener.settimeout(0.1)
        local.settimeout(0.1)
        port = listener.getsockname()[1]
        for attempt in (
            f"socket.create_connection(('127.0.0.1', {port}), 1)",
            "socket.socket(socket.AF_UNIX).connect('\\0lensrl-listener')",
            "socket.create_connection(('192.0.2.1', 80), 1)",
            f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
            "socket.gethostbyname('localhost.localdomain.invalid')",
        ):
            assert not outcome(box, f"import socket\n{attempt}", timeout=5).passed, attempt
        for somebody in (listener, local):
            with pytest.raises(TimeoutError):
                somebody.accept()


@pytest.mark.parametrize(
    "cheat",
    [
        "class Equal:\n  def __eq__(self, _): return True\nf = lambda x: Equal()",
        "import math\nmath.isclose = lambda *_: True\nf = lambda x: 0",
        "import os\nos.write(4, os.read(3, 32))\nos._exit(0)",
    ],
)
def test_what_the_docstring_says_cannot_be_prevented_is_so(cheat: str) -> None:
    """When one of these fails, the docstring and the README promise too little."""
    tests = "import math\nassert f(1) == 2 or math.isclose(f(1), 2)"
    assert run_programs([(cheat, tests)], timeout=5, memory=256) == [Outcome(True, "passed")]
