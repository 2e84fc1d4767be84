"""Decoding in a child process that can be killed: a hang or a crash of a decoder costs one video.

It remembers the packets of the file it read last, so that a film is asked for part by part at the cost of the parts.
The child lives across calls (starting it takes a quarter of a second) and is replaced after a time-out, a crash or
``recycle_after`` calls. It dies with its parent: when the parent's end of the pipe closes, whatever the child does.
Messages are pickles, their arrays sent apart and uncopied, on pipes of their own: what decoders print goes to stderr.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from spacevllm.frame_size import FrameSize
from spacevllm.span import Span
from spacevllm.video.errors import DecoderCrashed, DecodeTimeout
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import Backend, SampledFrames, sample_frames

_LENGTH = struct.Struct(">Q")
_CHILD = "from spacevllm.video.guard import serve; serve()"
_PIPE_BYTES = 1 << 20


class GuardedSampler:
    """``sample_frames`` and the like with a time limit and a memory limit. Use one per thread, or share it: calls take
    turns.

    Args:
        timeout_s: most seconds for one video; the child's start is not counted.
        memory_mb: address space the decoding may add to what the child has after its start (RLIMIT_AS), or no limit.
        recycle_after: calls after which the child is replaced: decord's memory grows.
        start_timeout_s: most seconds for the child to start.
    """

    def __init__(
        self,
        timeout_s: float,
        memory_mb: int | None = None,
        recycle_after: int = 1000,
        start_timeout_s: float = 60.0,
    ) -> None:
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self.recycle_after = recycle_after
        self.start_timeout_s = start_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
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
    ) -> SampledFrames:
        """``sample_frames`` with these arguments.

        Raises:
            DecodeTimeout: it took longer than ``timeout_s``. DecoderCrashed: the child died or ran out of memory.
            VideoError: whatever ``sample_frames`` raised.
        """
        frames: SampledFrames = self.run(
            sample_frames, str(path), num_frames, backend, segment, max_pixels, max_frames, part, size, info
        )
        return frames

    def run(self, function: Callable[..., Any], path: str, *arguments: Any) -> Any:
        """``function(path, *arguments)`` in the child; the function of a module, and what it takes and gives, pickle.

        Raises:
            DecodeTimeout: it took longer than ``timeout_s``. DecoderCrashed: the child died or ran out of memory.
            Exception: whatever the function raised.
        """
        with self._lock:
            reply = self._ask(path, (function, path, *arguments))
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def close(self) -> None:
        """Kills the child; the next ``sample`` would start another."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            os.killpg(child.pid, signal.SIGKILL)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel on a dead disk: no use waiting
            child.wait(timeout=5)

    def __enter__(self) -> GuardedSampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, path: str, request: tuple[Any, ...]) -> Any:
        child = self._ready_child()
        assert child.stdin is not None and child.stdout is not None
        try:
            _write(child.stdin.fileno(), request)
            return _read(child.stdout.fileno(), time.monotonic() + self.timeout_s)
        except TimeoutError:
            self.close()
            raise DecodeTimeout(f"{path}: not read within {self.timeout_s:g} s") from None
        except (EOFError, BrokenPipeError):
            ending = _ending(child)
            self.close()
            raise DecoderCrashed(f"{path}: the decoding process died ({ending})") from None
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
        root = str(Path(__file__).parents[2])  # the parent's copy of the package, wherever it runs
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = child = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, str(self.memory_mb or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        assert child.stdout is not None
        with contextlib.suppress(OSError):  # a user with many pipes may not; they only make it faster
            fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            _read(child.stdout.fileno(), time.monotonic() + self.start_timeout_s)
        except TimeoutError:
            self.close()
            raise DecoderCrashed(f"the decoding process did not start within {self.start_timeout_s:g} s") from None
        except EOFError:
            ending = _ending(child)
            self.close()
            raise DecoderCrashed(f"the decoding process died at its start ({ending})") from None
        except BaseException:  # interrupted: its greeting would be read as an answer
            self.close()
            raise
        return child


def serve() -> None:
    """The child: answers requests on stdin until it closes."""
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever a decoder prints
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_exit_with_parent, args=(requests,), daemon=True).start()
    _limit_memory(int(sys.argv[1]))
    _write(replies, "ready")
    probed = _LastProbed()
    while True:
        try:
            request = _read(requests, deadline=None)
        except EOFError:
            return
        _write(replies, _answer(request, probed))


class _LastProbed:
    """What is known of the file that was read last."""

    def __init__(self) -> None:
        self.stamp: tuple[object, ...] = ()
        self.info: VideoInfo | None = None

    def sample(self, path: str, *rest: Any) -> SampledFrames:
        *rest, info = rest  # type: ignore[assignment]
        limits = rest[3:5]  # max_pixels and max_frames are checked while probing
        stamp = (path, *limits, *_file_stamp(path))
        arguments: tuple[Any, ...] = (path, *rest, info or (self.info if stamp == self.stamp else None))
        sampled = sample_frames(*arguments)
        self.stamp, self.info = (stamp, sampled.info) if sampled.info.container != "image" else ((), None)
        return sampled


def _file_stamp(path: str) -> tuple[int, ...]:
    try:
        facts = os.stat(path)
    except OSError:  # the reader says so
        return ()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _answer(request: tuple[Any, ...], probed: _LastProbed) -> Any:
    function, path, *arguments = request
    try:
        return probed.sample(path, *arguments) if function is sample_frames else function(path, *arguments)
    except MemoryError:
        return DecoderCrashed(f"{path}: the decoder ran out of memory")
    except Exception as error:  # the parent raises it
        return error


def _exit_with_parent(requests: int) -> None:
    """Waits until nobody can write requests any more; a decoder that hangs does not hold this thread up."""
    closed = select.poll()
    closed.register(requests, 0)  # no events but POLLHUP, which always comes
    closed.poll()
    os._exit(0)


def _limit_memory(megabytes: int) -> None:
    if megabytes:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)


def _ending(child: subprocess.Popen[bytes]) -> str:
    """How a child that closed its pipe ended; it may still be on its way out."""
    try:
        code = child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "it closed its pipe but runs on"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _write(fd: int, message: Any) -> None:
    """Number of parts, then each part with its length: the pickle and the buffers of its arrays."""
    arrays: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    parts = [memoryview(body), *(array.raw() for array in arrays)]
    _write_all(fd, memoryview(_LENGTH.pack(len(parts))))
    for part in parts:
        _write_all(fd, memoryview(_LENGTH.pack(len(part))))
        _write_all(fd, part)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _read(fd: int, deadline: float | None) -> Any:
    """One message; raises TimeoutError at ``deadline`` (monotonic seconds), EOFError when the other end is gone."""
    (count,) = _LENGTH.unpack(_read_exactly(fd, _LENGTH.size, deadline))
    parts = []
    for _ in range(count):
        (length,) = _LENGTH.unpack(_read_exactly(fd, _LENGTH.size, deadline))
        parts.append(_read_exactly(fd, length, deadline))
    return pickle.loads(parts[0], buffers=parts[1:])


def _read_exactly(fd: int, length: int, deadline: float | None) -> bytearray:
    data = bytearray(length)
    rest = memoryview(data)
    readable = select.poll()
    readable.register(fd, select.POLLIN)
    while rest:
        wait_ms = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
        if not readable.poll(wait_ms):
            raise TimeoutError
        count = os.readv(fd, [rest])
        if count == 0:
            raise EOFError
        rest = rest[count:]
    return data
