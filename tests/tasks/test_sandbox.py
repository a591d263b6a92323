"""The sandbox against programs that mean harm, with all its layers and with some switched off.

Each attack ends with a test that fails, so passing means to have forged the verdict; what it was after is looked at
afterwards. In every case no process and no file is left.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lensrl.errors import LensrlError
from lensrl.tasks import sandbox
from lensrl.tasks.sandbox import Outcome, Sandbox, active_layers, run_programs
from tests.tasks.programs import EXHAUSTION, FORGERIES, HARMLESS

MODES = {  # layers that are switched off, and packages that programs may import
    "all layers": ((), ()),
    "no namespaces": (("namespaces",), ()),
    "no Landlock": (("landlock",), ()),
    "with numpy": ((), ("numpy",)),
}
SECRET = "a token in the environment of the trainer"


@pytest.fixture(scope="module", params=MODES)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    without, packages = MODES[request.param]
    sandbox = Sandbox(without=without, packages=packages)
    try:
        assert sandbox.layers
    except LensrlError as error:
        pytest.skip(str(error))
    yield sandbox
    folder = Path(server_of(sandbox).folder)
    sandbox.close()
    assert not folder.exists()


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


@pytest.mark.parametrize("program", HARMLESS.values(), ids=HARMLESS)
def test_a_program_that_reaches_its_end_passes(box: Sandbox, program: tuple[str, ...]) -> None:
    assert outcome(box, *program, timeout=5) == Outcome(True, "passed")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("assert 1 == 2",), "AssertionError: "),
        (("x = ",), "SyntaxError: invalid syntax (<program>, line 1)"),
        (("x = (1,", "2)"), "SyntaxError: '(' was never closed (<program>, line 1)"),
        (("text = '''", "assert False, '''"), "SyntaxError: "),
        (("x = 'a\0b'",), "SyntaxError: source code string cannot contain null bytes"),
        (("x = '\ud800'",), "UnicodeEncodeError: "),
        (("raise ValueError('é' * 1000)",), "ValueError: éé"),
        (("class E(Exception):\n  def __str__(self): raise E\nraise E",), "an exception that cannot be shown"),
        (("while True: pass",), "ran longer than 0.4 s of processor time"),
        (("import time\ntime.sleep(100)",), "ran longer than 4 s of wall clock"),
        (("import os; os._exit(0)",), "ended before its last line"),
        (("raise SystemExit",), "SystemExit: "),
        (("x = bytearray(2**30)",), "MemoryError: "),
        (("import numpy",), "ModuleNotFoundError: No module named 'numpy'"),
        (("import kernel",), "ModuleNotFoundError: "),
    ],
)
def test_a_program_that_does_not_fails_with_the_reason(parts: tuple[str, ...], reason: str) -> None:
    (result,) = run_programs([parts], timeout=0.4, memory=256)
    assert not result.passed
    assert result.reason.startswith(reason) or reason in result.reason.replace("ValueError", "SyntaxError")


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


def test_verdicts_do_not_depend_on_chance(box: Sandbox) -> None:
    """Neither the order of a set nor the random numbers differ from run to run."""
    drawn = "import random\nraise ValueError(f\"{list({'a', 'b', 'c', 'd', 'e'})} {random.random()}\")"
    reasons = {outcome(each, drawn, timeout=5).reason for each in (box, box, Sandbox())}
    assert len(reasons) == 1
    assert reasons != {"ran longer than 5 s"}


@pytest.fixture(scope="module")
def numpy_box() -> Iterator[Sandbox]:
    box = Sandbox(packages=["numpy"])
    yield box
    box.close()


@pytest.mark.parametrize(
    "program",
    [
        "import numpy as np\nassert np.allclose(np.linalg.inv(2 * np.eye(200)) @ np.ones(200), 0.5)",
        "from numpy.testing import assert_allclose\nassert_allclose([1.0], [1 + 1e-9])",
        "import numpy.fft, numpy.ma, numpy.polynomial, numpy.random",
        "import os, sys\nassert not os.environ\nassert not any('site-packages' in path for path in sys.path)",
        "x = bytearray(200 * 2**20)",  # memory is counted beside numpy's
    ],
)
def test_a_named_package_can_be_imported(numpy_box: Sandbox, program: str) -> None:
    assert outcome(numpy_box, program, timeout=5) == Outcome(True, "passed")


READ_ONLY = "PermissionError|OSError.*Read-only"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import scipy", "ModuleNotFoundError"),
        ("import pytest", "ModuleNotFoundError"),
        ("import numpy, os\nos.listdir(os.path.dirname(os.path.dirname(numpy.__file__)))", "PermissionError"),
        ("import numpy\nopen(numpy.__file__, 'a')", READ_ONLY),
        ("import numpy, os\nos.remove(numpy.__file__)", READ_ONLY),
        (
            "import numpy, os\nopen(os.path.dirname(numpy.__file__) + '/mine', 'w')",
            READ_ONLY,
        ),
        ("x = bytearray(300 * 2**20)", "MemoryError"),
    ],
)
def test_other_packages_and_writing_to_it_are_refused(numpy_box: Sandbox, program: str, reason: str) -> None:
    if "landlock" not in numpy_box.layers:
        pytest.skip("reading is confined by Landlock alone")
    result = outcome(numpy_box, program, timeout=5)
    assert not result.passed
    assert re.match(reason, result.reason)


def test_random_numbers_of_numpy_are_the_same_every_time(numpy_box: Sandbox) -> None:
    drawn = "import numpy\nraise ValueError(numpy.random.random())"
    reasons = {outcome(each, drawn, timeout=5).reason for each in (numpy_box, numpy_box, Sandbox(packages=["numpy"]))}
    assert reasons == {"ValueError: 0.5488135039273248"}  # the first number of MT19937 seeded with 0


def test_a_package_whose_own_imports_are_not_named_is_refused() -> None:
    with pytest.raises(LensrlError, match="cannot import scipy: No module named 'numpy'; packages must also name what"):
        Sandbox(packages=["scipy"]).run([("x = 1",)], timeout=1, memory=64)


BUSY = "import time\nwhile time.process_time() < {seconds}: pass"


def test_processor_time_decides_on_a_busy_machine() -> None:
    """One core for this process, its sandbox and three others: a program waits three times as long as it computes."""
    cores = os.sched_getaffinity(0)
    box = Sandbox()
    others: list[subprocess.Popen[bytes]] = []
    try:
        os.sched_setaffinity(0, {min(cores)})
        others += [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
        start = time.monotonic()
        short, long = (outcome(box, BUSY.format(seconds=seconds), timeout=0.5) for seconds in (0.3, 0.6))
        assert time.monotonic() - start > 1.2  # 0.3 and 0.5 seconds of processor time
    finally:
        os.sched_setaffinity(0, cores)
        for other in others:
            other.kill()
            other.wait()
        box.close()
    assert short == Outcome(True, "passed")
    assert long == Outcome(False, "ran longer than 0.5 s of processor time")


def test_time_in_the_kernel_counts(box: Sandbox) -> None:
    result = outcome(box, "import os\nwhile True: os.listdir('.')", timeout=0.3)
    assert result == Outcome(False, "ran longer than 0.3 s of processor time")


def test_outcomes_stand_in_the_order_of_the_programs(box: Sandbox) -> None:
    programs = [(f"import time\ntime.sleep({(7 - i % 7) / 100})", f"assert {i} % 3") for i in range(40)]
    outcomes = box.run(programs, timeout=5, memory=256)
    assert [o.passed for o in outcomes] == [i % 3 != 0 for i in range(40)]


def test_a_server_that_was_killed_is_replaced(box: Sandbox) -> None:
    assert outcome(box, "x = 1", timeout=5).passed
    for pick in (lambda server: server.process.pid, lambda server: descendants(server.process.pid)[0]):
        before = server_of(box)
        os.kill(pick(before), signal.SIGKILL)
        before.process.wait()
        assert outcome(box, "x = 1", timeout=5).passed
        assert server_of(box) is not before
        assert not os.path.exists(before.folder)


def test_a_server_killed_under_its_programs_has_them_run_again(box: Sandbox) -> None:
    guard = server_of(box).process.pid
    timer = threading.Timer(0.3, os.kill, (descendants(guard)[0], signal.SIGKILL))
    timer.start()
    outcomes = box.run([("import time\ntime.sleep(0.6)",)] * 3, timeout=5, memory=256)
    assert outcomes == [Outcome(True, "passed")] * 3
    timer.join()
    assert gone(guard)


def test_an_interrupted_call_leaves_no_answer_to_the_next(box: Sandbox) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            box.run([("import time\ntime.sleep(0.4)",)] * 4, timeout=5, memory=256)
    finally:
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.4)
    assert not outcome(box, "import time\ntime.sleep(0.1)", "assert False", timeout=5).passed


def gone(pid: int) -> bool:
    """Whether a process ends within two seconds."""
    until = time.monotonic() + 2
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.02)
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("end", ["return", "killed"])
def test_nothing_outlives_the_process_that_ran_programs(end: str) -> None:
    code = (
        "from lensrl.tasks import sandbox as s; import os, threading, time\n"
        "s.run_programs([('x = 1',)], timeout=5, memory=256)\n"
        "server = s._shared(os.getpid(), ())._server\n"
        "print(server.process.pid, server.folder, flush=True)\n"
    )
    if end == "killed":  # in the middle of a program
        code += "s.run_programs([('while True: pass',)], timeout=60, memory=256)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    guard, folder = process.stdout.readline().split()
    if end == "killed":
        time.sleep(0.3)
    children = descendants(int(guard))
    if end == "killed":
        process.kill()
    process.wait()
    process.stdout.close()
    assert all(gone(pid) for pid in [int(guard), *children])
    assert not os.path.exists(folder)


def test_a_fork_of_this_process_has_a_server_of_its_own() -> None:
    mine = run_programs([("x = 1",)], timeout=5, memory=256)
    pid = os.fork()
    if pid == 0:
        theirs = run_programs([("x = 1",), ("x = 2", "assert x == 3")], timeout=5, memory=256)
        sandbox._shared(os.getpid(), ()).close()
        os._exit(0 if [o.passed for o in theirs] == [True, False] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert run_programs([("x = 1",)], timeout=5, memory=256) == mine == [Outcome(True, "passed")]


def test_threads_take_turns() -> None:
    def run(number: int) -> list[bool]:
        programs = [(f"x = {number}", f"assert x == {i}") for i in range(8)]
        return [outcome.passed for outcome in run_programs(programs, timeout=5, memory=256)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(8))) == [[i == number for i in range(8)] for number in range(8)]


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


@pytest.mark.parametrize("missing", [("seccomp",), ("namespaces", "landlock"), ("namespaces", "landlock", "seccomp")])
def test_a_machine_that_cannot_confine_programs_runs_none(missing: tuple[str, ...]) -> None:
    with pytest.raises(LensrlError, match=r"cannot be confined on this machine: it needs seccomp .*; it has "):
        Sandbox(without=missing).run([("x = 1",)], timeout=1, memory=64)


def test_no_programs_need_no_server() -> None:
    assert Sandbox().run([], timeout=1, memory=64) == []
    assert set(active_layers()) <= {"namespaces", "landlock", "seccomp"}
