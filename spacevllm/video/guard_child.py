"""The child of ``guard``: answers requests, one after the other, in a sandbox.

It remembers the packets of the file it read last, so that a film is asked for part by part at the cost of the parts.
It dies with its parent: when the parent's end of the socket closes, whatever the child does.
"""

from __future__ import annotations

import math
import os
import pickle
import resource
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from spacevllm.video import wire
from spacevllm.video.errors import DecoderCrashed
from spacevllm.video.files import file_status, handed_over
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames, sample_frames
from spacevllm.video.sandbox import enter_sandbox


def serve() -> None:
    """Requests come on stdin, answers leave on stdout; whatever decoders print goes to stderr."""
    memory_mb, writes_to = int(sys.argv[1]), sys.argv[2]
    requests, replies = socket.socket(fileno=os.dup(0)), os.dup(1)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _limit_memory(memory_mb)
    missing = enter_sandbox(writes_to)
    threading.Thread(target=_exit_with_parent, args=(requests,), daemon=True).start()
    wire.send(replies, missing)
    probed = _LastProbed()
    while True:
        try:
            (seconds, *request), descriptor = _next_request(requests)
        except EOFError:
            return
        _limit_cpu(seconds)
        with handed_over(request[1], descriptor):
            answer = _answer(request, probed)
        try:
            wire.send(replies, answer)
        except TypeError as error:  # of what a function gave
            wire.send(replies, error)


class _LastProbed:
    """What is known of the file that was read last."""

    def __init__(self) -> None:
        self.stamp: tuple[object, ...] = ()
        self.info: VideoInfo | None = None

    def sample(self, path: str, **asked: Any) -> SampledFrames:
        facts = file_status(path)
        limits = [asked[name] for name in ("max_pixels", "max_frames", "max_duration_s")]  # checked while probing
        stamp = (path, *limits, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        asked["info"] = asked["info"] or (self.info if stamp == self.stamp else None)
        sampled = sample_frames(path, **asked)
        self.stamp, self.info = (stamp, sampled.info) if sampled.info.container != "image" else ((), None)
        return sampled


def _next_request(requests: socket.socket) -> tuple[tuple[Any, ...], int]:
    """What to do, and the open file. Raises EOFError."""
    head, descriptors, *_ = socket.recv_fds(requests, wire.LENGTH.size, 1)
    if not head:
        raise EOFError
    body = bytearray(*wire.LENGTH.unpack(head))
    rest = memoryview(body)
    while rest:
        rest = rest[requests.recv_into(rest) :]
    return pickle.loads(body), descriptors[0]  # the parent is trusted


def _answer(request: list[Any], probed: _LastProbed) -> Any:
    function, path, arguments, asked = request
    try:
        return probed.sample(path, **asked) if function is sample_frames else function(path, *arguments, **asked)
    except MemoryError:
        return DecoderCrashed(f"{path}: the decoder ran out of memory")
    except Exception as error:  # the parent raises it
        return error


def _exit_with_parent(requests: socket.socket) -> None:
    """Waits until nobody can ask any more; a decoder that hangs does not hold this thread up."""
    closed = select.poll()
    closed.register(requests, 0)  # no events but POLLHUP, which always comes
    closed.poll()
    os._exit(0)


def _limit_memory(megabytes: int) -> None:
    if megabytes:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)


def _limit_cpu(seconds: float) -> None:
    """For one request, of all processors: should the parent be held up, which counts the seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = math.ceil(time.process_time() + seconds * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if most < 0 else min(wanted, most), most))
