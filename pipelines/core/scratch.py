"""Copies of remote files on this machine's disk, for as long as they are needed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipelines.core import looks, storage

PREFIX, HELD, FETCHING, READY = "spacevllm-fetched-", ".held", ".fetching", ".ready"
SPARE_BYTES = 256 << 20  # left free for what else the machine does
JUST_MADE_S = 3600.0


@contextmanager
def local_copy(uri: str | Path) -> Iterator[str]:
    """A local path with the file's bytes: the file itself, or a download that is deleted at the end.

    Raises:
        OSError: the download failed, or the disk has no room for it.
    """
    if storage.is_local(uri):
        yield storage.resolve(uri)[1]
        return
    with held_folder() as folder:
        yield _fetch(uri, folder)


@contextmanager
def shared_copy(uri: str) -> Iterator[str]:
    """``local_copy`` for all processes of this machine: fetched by the first, deleted by the last.

    Raises:
        OSError: as ``local_copy``.
    """
    if storage.is_local(uri):
        yield storage.resolve(uri)[1]
        return
    name = hashlib.sha256(f"{uri} {os.getuid()} {looks.versions([uri])[uri]}".encode()).hexdigest()[:16]
    folder = os.path.join(tempfile.gettempdir(), f"{PREFIX}{name}")
    with _shared(folder), open(os.path.join(folder, FETCHING), "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        ready = os.path.join(folder, READY)
        if not os.path.exists(ready):
            os.symlink(_fetch(uri, folder), ready)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield os.path.realpath(ready)


def sweep() -> list[str]:
    """Removes what killed processes left in the temporary folder; the folders that went."""
    swept = []
    for entry in os.scandir(tempfile.gettempdir()):
        if entry.name.startswith(PREFIX) and _swept(entry.path):
            swept.append(entry.path)
    return swept


@contextmanager
def held_folder() -> Iterator[str]:
    """A temporary folder that ``sweep`` removes once this process has gone."""
    made = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    with made as folder, open(os.path.join(folder, HELD), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # goes with its process, however that ends
        yield folder


@contextmanager
def _shared(folder: str) -> Iterator[None]:
    with _join(folder) as held:
        try:
            yield
        finally:
            with suppress(BlockingIOError):  # others are there
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _join(folder: str) -> IO[str]:
    """The open lock of a folder that is there, and stays while it is open."""
    while True:
        with suppress(FileNotFoundError, FileExistsError):  # the last one is just leaving
            os.makedirs(folder, exist_ok=True)
            held = open(os.path.join(folder, HELD), "a")  # noqa: SIM115  # who calls closes it
            fcntl.flock(held, fcntl.LOCK_SH)
            if os.fstat(held.fileno()).st_nlink:
                return held
            held.close()


def _fetch(uri: str | Path, folder: str) -> str:
    fs, path = storage.resolve(uri)
    target = os.path.join(folder, os.path.basename(path.split("?")[0]) or "file")
    try:
        _need_room(folder, fs.info(path).get("size") or 0)
        fs.get_file(path, target)
    except OSError:
        raise
    except Exception as error:  # every store has errors of its own
        raise OSError(f"cannot fetch {uri}: {error}") from error
    return target


def _swept(folder: str) -> bool:
    """Removes the folder if nobody holds it."""
    try:
        with open(os.path.join(folder, HELD)) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left = time.time() - os.fstat(held.fileno()).st_mtime > 1  # made, and not held yet
            if left:
                _remove(folder)
            return left
    except BlockingIOError:
        return False
    except OSError:  # without a lock: being made, or removed
        left = os.path.isdir(folder) and time.time() - os.stat(folder).st_mtime > JUST_MADE_S
        if left:
            shutil.rmtree(folder, ignore_errors=True)
        return left


def _remove(folder: str) -> None:
    """What is held is not there any more; its lock goes last, as who comes looks for that."""
    with suppress(OSError):  # somebody has come
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name == HELD):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.remove(entry.path)
        os.rmdir(folder)


def _need_room(folder: str, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        wanted = f"{size >> 20} MB are to be fetched, {free >> 20} MB are free (and {SPARE_BYTES >> 20} MB stay so)"
        raise OSError(errno.ENOSPC, wanted, folder)
