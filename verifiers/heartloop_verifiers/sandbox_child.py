"""The inside of the sandbox: locks itself in, then runs the program. Started by :mod:`.sandbox`; standard
library only.

The job comes as JSON on a pipe of its own (descriptor in argv), so that the program's standard input is its
own. The
locks, in order: resource limits; no new privileges; Landlock (the file system is read-only, and readable
only where Python and
the system's libraries are); a seccomp filter (no sockets, no new processes, no signals to others, no writing
opens, and none of the calls that reach into other processes or the kernel's riskier corners).
"""

import ctypes
import json
import os
import platform
import struct
import sys
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)

# numbers from the kernel's tables: (x86_64, aarch64); None where the architecture lacks the call
_DENIED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "sendto": (44,
    206),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129),
    "tkill": (200, 130),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "rt_sigqueueinfo": (129, 138),
    "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161,
    51), "bpf": (321, 280),
    "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "memfd_create": (319, 279),
    "init_module": (175, 105),
    "kexec_load": (246, 104), "open_by_handle_at": (304, 265), "creat": (85, None), "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133,
    None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchownat": (260,
    54), "truncate": (76, 45),
    "utimensat": (280, 88), "setxattr": (188, 5), "shmget": (29, 194), "msgget": (68, 186), "semget": (64,
    190),
    "mq_open": (240, 180), "setpriority": (141, 140), "openat2": (437, 437), "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    "setsid": (112, 157), "setpgid": (109, 154),
}  # fmt: skip
_ARCH = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def _limit(job: dict[str, Any]) -> None:
    import resource

    seconds = int(job["timeout"]) + 2
    for name, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, job["memory_mb"] << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 64),
    ):
        try:
            resource.setrlimit(name, (value, value))
        except (ValueError, OSError):
            pass


def _readable(paths: list[str]) -> str | None:
    """Landlock: read-only, and only below ``paths``. Returns what is missing, or None."""
    abi = _LIBC.syscall(444, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return "landlock"
    rights = {1: 13, 2: 14}.get(abi, 15)
    handled = struct.pack("=Q", (1 << rights) - 1)
    ruleset = _LIBC.syscall(444, handled, ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return "landlock"
    allowed = 1 << 0 | 1 << 2 | 1 << 3  # execute (for shared libraries), read file, read directory
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        mask = allowed if os.path.isdir(path) else allowed & ~(1 << 3)
        _LIBC.syscall(445, ruleset, 1, struct.pack("=Qi", mask, fd), 0)
        os.close(fd)
    failed = _LIBC.syscall(446, ruleset, 0) != 0
    os.close(ruleset)
    return "landlock" if failed else None


def _filter() -> str | None:
    """The seccomp filter; returns what is missing, or None."""
    if platform.machine() not in _ARCH:
        return "seccomp"
    column, audit_arch = _ARCH[platform.machine()]
    clone, clone3, openat, open_ = ((56, 220), (435, 435), (257, 56), (2, None))
    program: list[bytes] = []

    def op(code: int, value: int, true: int = 0, false: int = 0) -> None:
        program.append(struct.pack("=HBBI", code, true, false, value & 0xFFFFFFFF))

    load, equal, bits, result = 0x20, 0x15, 0x45, 0x06
    deny = 0x00050000 | 1  # EPERM
    op(load, 4)
    op(equal, audit_arch, 1, 0)
    op(result, 0x80000000)  # another architecture's calls: the process ends
    op(load, 0)
    if column == 0:
        op(0x35, 0x40000000, 0, 1)  # x32 calls
        op(result, 0x80000000)
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            op(equal, number, 0, 1)
            op(result, deny)
    op(equal, clone3[column], 0, 1)
    op(result, 0x00050000 | 38)  # ENOSYS: the C library falls back to clone, which is checked below
    op(equal, clone[column], 0, 4)  # threads only
    op(load, 16)
    op(bits, 0x00010000, 1, 0)
    op(result, deny)
    op(result, 0x7FFF0000)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    for call, offset in ((openat, 32), (open_, 24)):
        number = call[column]
        if number is not None:
            op(equal, number, 0, 4)
            op(load, offset)
            op(bits, writing, 0, 1)
            op(result, deny)
            op(result, 0x7FFF0000)
    op(result, 0x7FFF0000)
    code = b"".join(program)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    packed = Program(len(program), ctypes.cast(buffer, ctypes.c_void_p))
    return "seccomp" if _LIBC.prctl(22, 2, ctypes.byref(packed), 0, 0) != 0 else None


def _lock(job: dict[str, Any]) -> list[str]:
    """Close the doors; returns the names of those that this system does not have."""
    missing = []
    _limit(job)
    if sys.platform != "linux":
        return ["landlock", "seccomp"]
    if _LIBC.prctl(38, 1, 0, 0, 0) != 0:
        missing.append("no_new_privs")
    _LIBC.prctl(4, 0, 0, 0, 0)  # not dumpable: its memory is its own
    _LIBC.prctl(1, 9, 0, 0, 0)  # dies with the thread that started it
    missing += [name for name in (_readable(job["readable"]), _filter()) if name]
    return missing


def _call(job: dict[str, Any], scope: dict[str, Any]) -> object:
    """The function under test, as LiveCodeBench calls it: a method of ``Solution``, else a plain function."""
    name = job["function"]
    target = getattr(scope["Solution"](), name) if "Solution" in scope else scope[name]
    return target(*job["arguments"])


def main() -> None:
    """argv: descriptor of the job, descriptor of the report."""
    source, report = int(sys.argv[1]), int(sys.argv[2])
    with os.fdopen(source, "rb") as pipe:
        job = json.loads(pipe.read())
    job["readable"] += sys.path  # isolated mode: the standard library's folders, nothing else
    sys.set_int_max_str_digits(50_000)
    sys.setrecursionlimit(job.get("recursion", 50_000))
    for module in (
        "collections",
        "itertools",
        "math",
        "heapq",
        "bisect",
        "functools",
        "typing",
        "string",
        "re",
        "random",
    ):
        __import__(module)
    missing = _lock(job)
    os.write(report, json.dumps({"locked": True, "missing": missing}).encode() + b"\n")
    if missing and job["strict"]:
        os._exit(3)
    scope = {"__name__": "__main__" if job["function"] is None else "solution", "__builtins__": __builtins__}
    prelude = (
        "from collections import *\nfrom itertools import *\nfrom math import *\nfrom heapq import *\nfrom bisect import *\n"  # noqa: E501
        "from functools import *\nfrom typing import *\nimport collections, itertools, math, heapq, bisect, functools, re, string, sys, random\n"  # noqa: E501
    )
    if job["function"] is not None:
        exec(prelude, scope)  # noqa: S102
    exec(compile(job["code"], "answer.py", "exec"), scope)  # noqa: S102
    if job["function"] is not None:
        value = _call(job, scope)
        os.write(report, json.dumps({"value": value}, default=list).encode() + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
