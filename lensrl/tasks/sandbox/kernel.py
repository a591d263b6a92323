"""The Linux kernel's means to confine a process, called through ctypes: namespaces, Landlock, seccomp.

This file and `server.py` run in an interpreter of their own, without site-packages. They import only the standard
library and each other, nothing else of lensrl.

Python before 3.12 has no `unshare`, and no Python has Landlock or seccomp. The packages that provide them are young,
and start a new interpreter for every program, which costs more than the program.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
import time

MIB = 2**20
WRITTEN = 16 * MIB  # bytes that a program may write: in total on its own tmpfs, or to each file without a tmpfs
OPEN_FILES = 32

NEW_MOUNTS, NEW_HOST, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x4000000, 0x8000000, 2**28, 2**29, 2**30
_MOUNT_FLAGS = 0x2 | 0x4 | 0x8  # nosuid, nodev, noexec
_PRIVATE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
_SET_PDEATHSIG, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 1, 22, 38
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446  # the same on every machine

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> int:
    """Return a C function's result. Raises OSError with the name of the call for a negative result."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _call(what, _libc.syscall(ctypes.c_long(number), *arguments))


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _call("unshare", _libc.unshare(flags))


def set_pid_namespace(descriptor: int) -> None:
    """Let the next children of this process start in the PID namespace of a descriptor."""
    _call("setns", _libc.setns(descriptor, NEW_PID))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    _call("prctl", _libc.prctl(_SET_PDEATHSIG, 9, 0, 0, 0))


def enter_namespaces() -> None:
    """Enter a user namespace that maps only this user, without network. The next child starts a new process tree.

    Raises OSError if the kernel, a container or an AppArmor profile forbids it.
    """
    user, group = os.getuid(), os.getgid()
    unshare(NEW_USER | NEW_PID | NEW_NET | NEW_IPC | NEW_HOST)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def read_only_mounts(folder: str) -> None:
    """Make every file system read-only for this process.

    It also checks that a tmpfs can be mounted on `folder`.
    """
    unshare(NEW_MOUNTS)
    _call("mount", _libc.mount(b"none", b"/", None, _PRIVATE, None))
    attributes = struct.pack("QQQQ", 1, 0, 0, 0)  # set MOUNT_ATTR_RDONLY
    _syscall("mount_setattr", _MOUNT_SETATTR, -100, b"/", 0x8000, attributes, ctypes.c_size_t(len(attributes)))
    mount_tmpfs(folder)
    _call("umount", _libc.umount2(os.fsencode(folder), 0))


def mount_tmpfs(folder: str) -> None:
    """Mount a small file system in memory on `folder`."""
    options = f"size={WRITTEN},nr_inodes=1024,mode=700".encode()
    _call("mount", _libc.mount(b"none", os.fsencode(folder), b"tmpfs", _MOUNT_FLAGS, options))


def limit(*, seconds: int, memory: int) -> None:
    """Set resource limits, which nobody can raise again.

    `seconds` is processor time. `memory` is in bytes of address space.
    """
    for which, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, WRITTEN),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),  # no process and no thread more; root is exempt
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def processor_time(pid: int) -> float:
    """Return the processor time of a process in seconds. Its children do not count."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid() returns on Linux


def waited_for_core(pid: int) -> float:
    """Return the seconds in which a process could run and waited for a core; 0 where the kernel does not tell.

    A PID namespace numbers processes anew and /proc may not: the kernel translates through a descriptor of the process.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return 0.0
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as lines:
            number = next(line.split()[1] for line in lines if line.startswith("Pid:"))
        with open(f"/proc/{number}/schedstat") as line:
            return int(line.read().split()[1]) / 1e9
    except (OSError, StopIteration, IndexError, ValueError):
        return 0.0
    finally:
        os.close(descriptor)


def address_space() -> int:
    """Return the bytes of address space of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def drop_privileges() -> None:
    """Give up every capability, and every way to get one back."""
    _call("prctl", _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header, nothing = struct.pack("II", 0x20080522, 0), bytes(24)
    _call("capset", _libc.capset(header, nothing))


# --- Landlock: which files ---------------------------------------------------------------------------------------

_READ_FILE, _READ, _READ_WRITE_FILE = 0b100, 0b1100, 0b110  # READ is READ_FILE and READ_DIR
_PLAIN_FILES = 0b110_0001_0010_1110  # read, write, list, make, remove, rename, truncate; no directories, links, pipes


def landlock_version() -> int:
    """Return the version of the kernel's Landlock ABI, 0 without Landlock."""
    return max(0, _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), 1))


def readable(packages: list[str]) -> list[tuple[int, int]]:
    """Open the paths that a program may read: Python's library, shared libraries, a few devices, and `packages`.

    A wheel keeps the shared libraries of a package beside it, in `NAME.libs`. Returns pairs of a descriptor and the
    allowed access.
    """
    library = (os.path.dirname(os.__file__), f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64")
    rules = [(path, _READ) for path in (*library, "/usr/share/zoneinfo")]
    beside = [f"{path}.libs" for path in packages]
    rules += [(path, _READ if os.path.isdir(path) else _READ_FILE) for path in (*packages, *beside)]
    rules += [(path, _READ_WRITE_FILE) for path in ("/dev/null", "/dev/zero")]
    rules += [(path, _READ_FILE) for path in ("/dev/urandom", "/etc/ld.so.cache", "/etc/localtime")]
    return [(os.open(path, os.O_PATH), access) for path, access in rules if os.path.exists(path)]


def landlock(version: int, rules: list[tuple[int, int]]) -> None:
    """Allow the files of `rules` and the current directory. Deny all else that the kernel's Landlock version covers.

    The denied rest is every other file, every execution, TCP, and signals to the outside.
    """
    everything = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    network, scopes = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    attributes = struct.pack("QQQ", everything, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _syscall("landlock_create_ruleset", _LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    in_folder = everything & _PLAIN_FILES
    for descriptor, access in [*rules, (os.open(".", os.O_PATH), in_folder)]:
        _syscall("landlock_add_rule", _LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", access, descriptor), 0)
    _syscall("landlock_restrict_self", _LANDLOCK_RESTRICT, ruleset, 0)


# --- seccomp: which system calls ---------------------------------------------------------------------------------

# Denied: new processes and threads, other programs, signals, sockets, memory that the limits do not count, other
# processes' memory, new privileges, and changes that Landlock does not cover (modes, owners, times, attributes).
# First the numbers of x86_64, then the numbers of the same calls on aarch64, where it has them. From 424 on they agree.
_DENIED = {
    "x86_64": (
        0xC000003E,
        {56, 57, 58, 59, 322}  # clone, fork, vfork, execve, execveat
        | {62, 129, 200, 234, 297}  # kill, rt_sigqueueinfo, tkill, tgkill, rt_tgsigqueueinfo
        | {41, 42, 43, 44, 46, 49, 50, 288}  # socket, connect, accept, sendto, sendmsg, bind, listen, accept4
        | {29, 64, 68, 240, 319}  # shmget, semget, msgget, mq_open, memfd_create
        | {101, 310, 311, 302, 298, 321, 323}  # ptrace, process_vm_*, prlimit64, perf_event_open, bpf, userfaultfd
        | {135, 155, 161, 165, 166, 272, 308, 248, 249, 250}  # personality, roots, mounts, namespaces, keys
        | {90, 91, 92, 93, 94, 260, 268, 132, 235, 261, 280}  # chmod, chown, utime and their kin
        | {188, 189, 190, 197, 198, 199},  # setxattr, removexattr
    ),
    "aarch64": (
        0xC00000B7,
        {220, 221, 281}
        | {129, 138, 130, 131, 240}
        | {198, 203, 202, 206, 211, 200, 201, 242}
        | {194, 190, 186, 180, 279}
        | {117, 270, 271, 261, 241, 280, 282}
        | {92, 41, 51, 40, 39, 97, 268, 217, 218, 219}
        | {52, 53, 54, 55, 88}
        | {5, 6, 7, 14, 15, 16},
    ),
}
# pidfd_send_signal, io_uring_*, open_tree to fspick, clone3, pidfd_getfd, mount_setattr, memfd_secret, fchmodat2,
# setxattrat, removexattrat
_DENIED_EVERYWHERE = {424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 435, 438, 442, 447, 452, 463, 466}
_X32 = 0x40000000  # the second set of numbers of x86_64
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _NOT_PERMITTED = 0x7FFF0000, 0x80000000, 0x00050001


def seccomp_filter() -> bytes | None:
    """Return the filter as classic BPF, or None on a machine whose call numbers are not listed here."""
    if platform.machine() not in _DENIED:
        return None
    architecture, denied = _DENIED[platform.machine()]
    numbers = sorted(denied | _DENIED_EVERYWHERE)
    # Kill calls from another architecture, allow every number that is not denied, answer EPERM to the others.
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    code.append((_AT_LEAST, len(numbers) + 1, 0, _X32))
    code += [(_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOT_PERMITTED)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def seccomp(code: bytes) -> None:
    """Install a filter. Call `drop_privileges` before."""
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("H6xP", len(code) // 8, ctypes.addressof(buffer))
    _call("prctl", _libc.prctl(_SET_SECCOMP, 2, program, 0, 0))
