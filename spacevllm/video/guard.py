"""Decoding in a child process that can be killed and can do little else: what a hostile file does to a decoder costs
one video.

The child (``guard_child``) lives across calls, as starting it takes a quarter of a second, and is replaced after a
time-out, a crash or ``recycle_after`` calls. It has no secrets of ours in its environment, opens no files (each comes
as an open descriptor) and no sockets, see ``sandbox``; and what it answers is data, see ``wire``.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from spacevllm.frame_size import FrameSize
from spacevllm.span import Span
from spacevllm.video import wire
from spacevllm.video.errors import DecoderCrashed, DecodeTimeout, MissingVideo
from spacevllm.video.files import open_within
from spacevllm.video.limits import UNLIMITED, Limits
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import Backend, SampledFrames, find_frames, sample_frames

log = logging.getLogger(__name__)

_CHILD = "from spacevllm.video.guard_child import serve; serve()"
_PIPE_BYTES = 1 << 20
_MOST_MB = 1 << 16  # of an answer, where memory has no limit
# Of our environment, what a program needs to start and to speak; keys and addresses of services are not among it.
_KEPT = (
    *("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONUTF8"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ"),
)


class GuardedSampler:
    """``sample_frames`` and the like with a time limit and a memory limit. Use one per thread, or share it: calls take
    turns.

    Args:
        timeout_s: most seconds for one video; the child's start is not counted. timeout_per_frame_s: more for each
            wanted frame: each may be a seek of its own, with hundreds of frames to decode up to it.
        memory_mb: address space the decoding may add to what the child has after its start (RLIMIT_AS), or no limit.
        recycle_after: calls after which the child is replaced: decord's memory grows.
        start_timeout_s: most seconds for the child to start.
        limits: of what ``sample`` accepts where it is not told others.
        writes_to: folder that what runs there may write to; None: it writes nothing.

    Attributes:
        missing: of the sandbox of the last child, what this machine cannot give, in words.
    """

    def __init__(
        self,
        timeout_s: float,
        memory_mb: int | None = None,
        recycle_after: int = 1000,
        start_timeout_s: float = 60.0,
        timeout_per_frame_s: float = 0.0,
        limits: Limits = UNLIMITED,
        writes_to: str | Path | None = None,
    ) -> None:
        self.timeout_s, self.timeout_per_frame_s = timeout_s, timeout_per_frame_s
        self.memory_mb, self.limits = memory_mb, limits
        self.recycle_after = recycle_after
        self.start_timeout_s = start_timeout_s
        self.writes_to = writes_to
        self.missing: tuple[str, ...] = ()
        self._child: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._calls = 0
        self._lock = threading.Lock()

    def sample(
        self,
        path: str | Path,
        num_frames: int,
        backend: Backend = "pyav",
        segment: tuple[int, int] | None = None,
        max_pixels: int | None = None,
        max_frames: int | None = None,
        part: Span | None = None,
        size: FrameSize | None = None,
        info: VideoInfo | None = None,
        max_duration_s: float | None = None,
        most_s: float = math.inf,
    ) -> SampledFrames:
        """``sample_frames`` with these arguments.

        Raises:
            DecodeTimeout: it took longer than allowed. DecoderCrashed: the child died or ran out of memory.
            VideoError: whatever ``sample_frames`` raised.
        """
        told = {"max_pixels": max_pixels, "max_frames": max_frames, "max_duration_s": max_duration_s}
        limits = self.limits._asdict() | {name: most for name, most in told.items() if most is not None}
        plan = {"num_frames": num_frames, "backend": backend, "segment": segment, "part": part, "size": size}
        asked = {**plan, "info": info, "most_s": most_s, **limits}
        seconds = self.timeout_s + self.timeout_per_frame_s * num_frames
        frames: SampledFrames = self._call(seconds, sample_frames, str(path), (), asked)
        return replace(frames, info=replace(frames.info, path=str(path)))  # whatever the child calls it

    def find(
        self, path: str | Path, info: VideoInfo, indices: np.ndarray, size: FrameSize, backend: Backend = "pyav"
    ) -> tuple[np.ndarray, np.ndarray]:
        """``find_frames`` with these arguments. Raises as ``sample`` does."""
        asked = {"info": info, "indices": indices, "size": size, "backend": backend}
        seconds = self.timeout_s + self.timeout_per_frame_s * len(indices)
        asked["max_pixels"] = self.limits.max_pixels
        found: tuple[np.ndarray, np.ndarray] = self._call(seconds, find_frames, str(path), (), asked)
        return found

    def run(self, function: Callable[..., Any], path: str | Path, *arguments: Any, **named: Any) -> Any:
        """``function(path, *arguments, **named)`` in the child; the function of a module, what it takes pickles.

        It may open no file but ``path``, by ``files.open_bytes``, and what ``writes_to`` holds, and it gives what
        ``wire`` knows.

        Raises:
            DecodeTimeout: it took longer than ``timeout_s``. DecoderCrashed: the child died or ran out of memory.
            Exception: whatever the function raised.
        """
        return self._call(self.timeout_s, function, str(path), arguments, named)

    def close(self) -> None:
        """Kills the child; the next ``sample`` would start another."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            os.killpg(child.pid, signal.SIGKILL)
        for end in (self._requests, child.stdout):
            if end is not None:
                end.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel on a dead disk: no use waiting
            child.wait(timeout=5)

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts a child of its own."""
        return vars(self) | {"_child": None, "_requests": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_lock": threading.Lock()})

    def __enter__(self) -> GuardedSampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(
        self, seconds: float, function: Callable[..., Any], path: str, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        with self._lock:
            child = self._ready_child()
            reply = self._ask(child, path, seconds, pickle.dumps((seconds, function, path, arguments, named)))
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def _ask(self, child: subprocess.Popen[bytes], path: str, seconds: float, request: bytes) -> Any:
        assert self._requests is not None and child.stdout is not None
        deadline = time.monotonic() + seconds
        try:
            with open_within(path, seconds) as file:
                self._requests.settimeout(max(deadline - time.monotonic(), 0.001))
                socket.send_fds(self._requests, [wire.LENGTH.pack(len(request))], [file.fileno()])
            self._requests.sendall(request)
            return wire.receive(child.stdout.fileno(), deadline, (self.memory_mb or _MOST_MB) << 20)
        except MissingVideo:  # the child was not asked
            raise
        except TimeoutError:
            self.close()
            raise DecodeTimeout(f"{path}: not read within {seconds:g} s") from None
        except (EOFError, ConnectionError):
            ending = _ending(child)
            self.close()
            raise DecoderCrashed(f"{path}: the decoding process died ({ending})") from None
        except wire.Malformed as error:
            self.close()
            raise DecoderCrashed(f"{path}: the decoding process gave no answer ({error})") from None
        except BaseException:  # interrupted half-way: the next reply would answer this request
            self.close()
            raise

    def _ready_child(self) -> subprocess.Popen[bytes]:
        if self._calls >= self.recycle_after:
            self.close()
        if self._child is None:
            self._child, self._calls = self._start(), 0
        self._calls += 1
        return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._child = child = subprocess.Popen(
                [sys.executable, "-P", "-c", _CHILD, str(self.memory_mb or 0), str(self.writes_to or "")],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env=_environment(),
            )
        assert child.stdout is not None
        with contextlib.suppress(OSError):  # a user with many pipes may not; they only make it faster
            fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self.missing = wire.receive(child.stdout.fileno(), time.monotonic() + self.start_timeout_s, 0)
        except TimeoutError:
            self.close()
            raise DecoderCrashed(f"the decoding process did not start within {self.start_timeout_s:g} s") from None
        except (EOFError, wire.Malformed):
            ending = _ending(child)
            self.close()
            raise DecoderCrashed(f"the decoding process died at its start ({ending})") from None
        except BaseException:  # interrupted: its greeting would be read as an answer
            self.close()
            raise
        _tell_once(self.missing)
        return child


@functools.lru_cache
def sandbox_status() -> tuple[str, ...]:
    """What this machine cannot give of the sandbox that decoders run in, in words; empty: it is whole."""
    with GuardedSampler(timeout_s=60) as sampler:
        sampler._ready_child()
        return sampler.missing


@functools.lru_cache
def _tell_once(missing: tuple[str, ...]) -> None:
    for what in missing:
        log.warning("videos are decoded without a part of the sandbox: %s", what)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])  # the parent's copy of the package, wherever it runs
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}  # threads: see sandbox


def _ending(child: subprocess.Popen[bytes]) -> str:
    """How a child that closed its pipe ended; it may still be on its way out."""
    try:
        code = child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "it closed its pipe but runs on"
    return f"signal {-code}" if code < 0 else f"exit status {code}"
