"""What a decoder would do that somebody else took over: functions for the child, each told the video's path first."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import socket
import stat
import struct
from pathlib import Path


def environment(path: str) -> list[str]:
    return [f"{name}={value}" for name, value in os.environ.items()]


def read(path: str, other: str) -> str:
    return Path(other).read_text()


def read_its_parents_secrets(path: str) -> str:
    return Path(f"/proc/{os.getppid()}/environ").read_text()


def write(path: str, other: str) -> str:
    Path(other).write_text("was here")
    return Path(other).read_text()


def change_rights(path: str, other: str) -> None:
    os.chmod(other, 0o777)


def call(path: str, family: int) -> None:
    socket.socket(family)


def run_a_program(path: str) -> None:
    os.execv("/bin/true", ["true"])


def have_a_child(path: str) -> None:
    os.fork()


def stop_its_parent(path: str) -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def starve_its_parent(path: str) -> None:
    resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))


def look_into_its_parent(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, os.getppid(), 0, 0):  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")


def raise_its_limits(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (10_000, 10_000))


class _Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def answer_with_a_pickle(path: str, marker: str) -> None:
    body = pickle.dumps(_Payload(f"touch {marker}"))
    _answer(struct.pack(">Q", len(body)) + body)


def promise_more_than_there_is(path: str) -> None:
    _answer(struct.pack(">Q", 1 << 62))


def _answer(message: bytes) -> None:
    """On whatever leads out."""
    for descriptor in range(3, 32):
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.write(descriptor, message)
        except OSError:
            continue
    os._exit(0)
