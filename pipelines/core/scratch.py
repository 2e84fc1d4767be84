"""Copies of remote files on this machine's disk, for as long as they are needed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.core import storage

PREFIX, HELD = "spacevllm-fetched-", ".held"
SPARE_BYTES = 256 << 20  # left free for what else the machine does
JUST_MADE_S = 3600.0


@contextmanager
def local_copy(uri: str | Path) -> Iterator[str]:
    """A local path with the file's bytes: the file itself, or a download that is deleted at the end.

    Raises:
        OSError: the download failed, or the disk has no room for it.
    """
    fs, path = storage.resolve(uri)
    if storage.is_local(uri):
        yield path
        return
    with held_folder() as folder:
        target = os.path.join(folder, os.path.basename(path.split("?")[0]) or "file")
        try:
            _need_room(folder, fs.info(path).get("size") or 0)
            fs.get_file(path, target)
        except OSError:
            raise
        except Exception as error:  # every store has errors of its own
            raise OSError(f"cannot fetch {uri}: {error}") from error
        yield target


def sweep() -> list[str]:
    """Removes what killed processes left in the temporary folder; the folders that went."""
    swept = []
    for entry in os.scandir(tempfile.gettempdir()):
        if entry.name.startswith(PREFIX) and _is_left(entry.path):
            shutil.rmtree(entry.path, ignore_errors=True)
            swept.append(entry.path)
    return swept


@contextmanager
def held_folder() -> Iterator[str]:
    """A temporary folder that ``sweep`` removes once this process has gone."""
    made = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    with made as folder, open(os.path.join(folder, HELD), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # goes with its process, however that ends
        yield folder


def _is_left(folder: str) -> bool:
    try:
        with open(os.path.join(folder, HELD)) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return time.time() - os.fstat(held.fileno()).st_mtime > 1  # made, and not held yet
    except BlockingIOError:
        return False
    except OSError:  # without a lock: being made, or removed
        return os.path.isdir(folder) and time.time() - os.stat(folder).st_mtime > JUST_MADE_S


def _need_room(folder: str, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        wanted = f"{size >> 20} MB are to be fetched, {free >> 20} MB are free (and {SPARE_BYTES >> 20} MB stay so)"
        raise OSError(errno.ENOSPC, wanted, folder)
