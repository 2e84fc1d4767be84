"""What a process that parses hostile bytes gives up, for ever: files, network, other processes, privileges.

    limits          no core dumps, no large files, few descriptors
    Landlock        of files it may read its libraries only, and write to one folder or nowhere (Linux 5.13)
    seccomp         no sockets, no programs, no other process's memory or signals, no change of rights (x86-64, ARM64)
    capabilities    root is an ordinary user

What a kernel cannot give is told, not hidden. Landlock and seccomp hold for the calling thread and those it starts:
call it before there are others.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2  # of prctl
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # Landlock's calls, on all machines alike
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE = 1 << 1 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 14  # write, remove and make files, make folders, truncate
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many a version of Landlock knows; later ones: 16
_MAX_FILES = 64
_MAX_WRITTEN = 8 << 30  # bytes of one file

_LIBRARIES = ("/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache")
# name, number on x86-64, on ARM64 (-: there is none)
_FORBIDDEN = """
socket 41 198          socketpair 53 199       bind 49 200              connect 42 203         listen 50 201
accept 43 202          accept4 288 242         sendto 44 206            sendmsg 46 211         sendmmsg 307 269
execve 59 221          execveat 322 281        fork 57 -                vfork 58 -             ptrace 101 117
process_vm_readv 310 270                       process_vm_writev 311 271                       kill 62 129
tkill 200 130          rt_sigqueueinfo 129 138 rt_tgsigqueueinfo 297 240                       pidfd_open 434 434
pidfd_getfd 438 438    pidfd_send_signal 424 424                        mount 165 40           umount2 166 39
pivot_root 155 41      chroot 161 51           unshare 272 97           setns 308 268          open_by_handle_at 304 265
bpf 321 280            perf_event_open 298 241 userfaultfd 323 282      io_uring_setup 425 425 keyctl 250 219
add_key 248 217        request_key 249 218     init_module 175 105      finit_module 313 273   kexec_load 246 104
chmod 90 -             fchmod 91 52            fchmodat 268 53          fchmodat2 452 452      chown 92 -
fchown 93 55           lchown 94 -             fchownat 260 54          setxattr 188 5         lsetxattr 189 6
fsetxattr 190 7        removexattr 197 14      lremovexattr 198 15      fremovexattr 199 16    utimensat 280 88
"""
_MACHINES = {"x86_64": (0, 0xC000003E, 56, 302), "aarch64": (1, 0xC00000B7, 220, 261)}  # column, audit name, clone,
_CLONE3, _CLONE_THREAD = 435, 0x10000  # prlimit64
_ALLOW, _ERRNO, _EPERM, _ENOSYS = 0x7FFF0000, 0x50000, 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def enter_sandbox(writes_to: str = "") -> tuple[str, ...]:
    """Gives up all but computing on what is open already.

    Args:
        writes_to: folder it may write to; ``""``: none.

    Returns:
        What this machine cannot give, in words; empty: the sandbox is whole.
    """
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_WRITTEN if writes_to else 0),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
    ):
        resource.setrlimit(kind, (most, most))
    steps = {
        "privileges": _drop_privileges,
        "files": lambda: _confine_files(writes_to),
        "network and processes": _confine_calls,
    }
    missing = []
    for what, step in steps.items():
        try:
            step()
        except (OSError, AttributeError) as error:  # AttributeError: another C library
            missing.append(f"{what}: {getattr(error, 'strerror', None) or error}")
    return tuple(missing)


def _drop_privileges() -> None:
    _checked(_LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    header, none = struct.pack("II", 0x20080522, 0), bytes(24)
    _checked(_LIBC.capset(ctypes.c_char_p(header), ctypes.c_char_p(none)))


def _confine_files(writes_to: str) -> None:
    version = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        raise OSError(0, "this kernel has no Landlock")
    handled = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    ports, scopes = 3 * (version >= 4), 3 * (version >= 6)  # TCP; signals and abstract sockets of others
    ruleset = struct.pack("QQQ", handled, ports, scopes)
    rules = _checked(_LIBC.syscall(_CREATE_RULESET, ctypes.c_char_p(ruleset), ctypes.c_size_t(24), ctypes.c_uint(0)))
    for path in {os.path.realpath(path) for path in _libraries()}:
        _allow(rules, path, _READ_FILE | _READ_DIR)
    if writes_to:
        _allow(rules, writes_to, (_READ_FILE | _READ_DIR | _WRITE) & handled)
    _checked(_LIBC.syscall(_RESTRICT_SELF, rules, ctypes.c_uint(0)))
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    rights = rights if os.path.isdir(path) else rights & ~_READ_DIR
    rule = struct.pack("=Qi", rights, beneath)
    _checked(_LIBC.syscall(_ADD_RULE, rules, 1, ctypes.c_char_p(rule), ctypes.c_uint(0)))
    os.close(beneath)


def _libraries() -> Iterator[str]:
    """Where code lies. Of a folder on the import path that is no installation, only its modules: data may be beside."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    yield from (*_LIBRARIES, *prefixes, *filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")))
    for folder in map(Path, sys.path):
        if folder.name in ("site-packages", "dist-packages") or folder.is_file():  # a file: modules in a ZIP
            yield str(folder)
        elif not any(folder.is_relative_to(prefix) for prefix in prefixes) and folder.is_dir():
            modules = (e for e in folder.iterdir() if e.suffix in (".py", ".so") or (e / "__init__.py").exists())
            yield from map(str, modules)


def _confine_calls() -> None:
    if platform.machine() not in _MACHINES:
        raise OSError(0, f"no list of system calls for {platform.machine()}")
    code = b"".join(_filter(*_MACHINES[platform.machine()]))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _checked(_LIBC.prctl(_SECCOMP, _FILTER, ctypes.c_char_p(program), 0, 0))


def _filter(column: int, machine: int, clone: int, prlimit: int) -> Iterator[bytes]:
    """Instructions of the kernel's filter: the number of a call is at 0, the machine at 4, the first argument at 16."""
    words = _FORBIDDEN.split()
    numbers = [int(number) for number in words[1 + column :: 3] if number != "-"]
    forbid = struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | _EPERM)
    yield from (_step(_LOAD, 4), _step(_EQUAL, machine, 1, 0), forbid)
    yield from (_step(_LOAD, 0), _step(_AT_LEAST, 0x40000000, 0, 1), forbid)  # x86's second set of numbers
    for number in numbers:
        yield from (_step(_EQUAL, number, 0, 1), forbid)
    yield from (_step(_EQUAL, _CLONE3, 0, 1), _step(_RETURN, _ERRNO | _ENOSYS))  # then C libraries use clone
    threads_only = (_step(_LOAD, 16), _step(_ANY_BIT, _CLONE_THREAD, 1, 0), forbid, _step(_RETURN, _ALLOW))
    yield from (_step(_EQUAL, clone, 0, 4), *threads_only)
    own_limits = (_step(_LOAD, 16), _step(_EQUAL, 0, 1, 0), forbid, _step(_RETURN, _ALLOW))
    yield from (_step(_EQUAL, prlimit, 0, 4), *own_limits)
    yield _step(_RETURN, _ALLOW)


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, otherwise, value)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
