"""How a video file is opened: by its path or, in a process that may open no files, by a descriptor it was handed.

Paths stay names there, in messages and facts; whoever reads a file goes through here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import BinaryIO, cast

from spacevllm.video.errors import MissingVideo

_handed: dict[str, int] = {}  # path → descriptor


@contextmanager
def handed_over(path: str, descriptor: int) -> Iterator[None]:
    """``path`` means ``descriptor``, which is closed at the end."""
    _handed[path] = descriptor
    try:
        yield
    finally:
        del _handed[path]
        os.close(descriptor)


def is_handed_over(path: str) -> bool:
    return path in _handed


def file_status(path: str) -> os.stat_result:
    """Raises OSError."""
    return os.stat(_handed.get(path, path))


def open_bytes(path: str) -> BinaryIO:
    """The file from its begin. Raises OSError."""
    if path not in _handed:
        return open(path, "rb")
    _rewind(_handed[path])
    return open(os.dup(_handed[path]), "rb")


def ffmpeg_source(path: str) -> tuple[str, dict[str, str]]:
    """What FFmpeg opens, and the options it takes; other protocols, and so other files and hosts, it may not use."""
    if path not in _handed:
        return f"file:{path}", {"protocol_whitelist": "file"}
    _rewind(_handed[path])
    return "fd:", {"protocol_whitelist": "fd", "fd": str(_handed[path])}


def open_within(path: str, seconds: float) -> BinaryIO:
    """The file, unbuffered, to be handed over. A disk that is gone may hold an ``open`` up for ever: then its thread
    stays behind, not this one.

    Raises:
        MissingVideo: there is none, or it may not be read. TimeoutError: not within ``seconds``.
    """
    found: SimpleQueue[BinaryIO | Exception] = SimpleQueue()
    Thread(target=lambda: found.put(_attempt(path)), name="open", daemon=True).start()
    try:
        file = found.get(timeout=max(seconds, 0))
    except Empty:
        raise TimeoutError from None
    if isinstance(file, IsADirectoryError):
        raise MissingVideo(f"{path}: is a folder, not a video file")
    if isinstance(file, PermissionError):
        raise MissingVideo(f"{path}: may not be read (permission denied)")
    if isinstance(file, OSError):
        raise MissingVideo(f"{path}: {file.strerror}")
    if isinstance(file, Exception):  # a name that no file can have
        raise file
    return file


def _attempt(path: str) -> BinaryIO | Exception:
    try:
        return cast(BinaryIO, open(path, "rb", buffering=0))
    except Exception as error:
        return error


def _rewind(descriptor: int) -> None:
    with suppress(OSError):  # a pipe
        os.lseek(descriptor, 0, os.SEEK_SET)
