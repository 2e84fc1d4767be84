"""One job at a time for an output folder: a kernel lock here, a lease in object stores.

It spares users from paying twice. That no row is doubled does not depend on it: commits decide that (``results``).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.core import storage

LOCK = ".lock"
RENEW_S = 10.0  # a holder says so often that it lives
EXPIRE_S = 45.0  # of silence, by the clock of whoever waits: the clocks of two machines need not agree


class StorageBusy(RuntimeError):
    """Another live job writes to the same output."""


@contextmanager
def exclusive(folder: str | Path, shard: str = "") -> Iterator[None]:
    """Holds ``folder`` for this process; a process that died holds nothing, at once or after ``EXPIRE_S``.

    Local: a kernel lock on ``.lock`` (released with its process, however it ends). Object stores: a ``.lock`` object
    that only one can create, and that its holder renews; one that is silent has died, on whatever machine it was.

    Args:
        shard: hold only this part of the work: beside other parts, not beside who holds the whole folder.

    Raises:
        StorageBusy: another live job holds it; the message names process and machine.
    """
    uri = storage.join(storage.make_folder(folder), LOCK)
    holder = {"pid": os.getpid(), "host": socket.gethostname()}
    with ExitStack() as stack:
        if storage.is_local(uri):
            stack.enter_context(_locked_file(uri, holder, shared=bool(shard)))
            if shard:
                stack.enter_context(_locked_file(f"{uri}-{shard}", holder))
        else:  # first one's own, then a look at the others': of two that come together one sees the other
            stack.enter_context(_lease(f"{uri}-{shard}" if shard else uri, holder))
            for other in [uri] if shard else storage.begin_with(f"{uri}-"):
                _wait_for_silence(other)
        yield


@contextmanager
def waiting_lock(path: str | Path) -> Iterator[None]:
    """Holds a lock on a local file, created if need be; waits for whoever holds it now."""
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _locked_file(path: str, holder: Mapping[str, Any], shared: bool = False) -> Iterator[None]:
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _busy(path, json.loads(file.read() or "{}")) from None
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
        yield


@contextmanager
def _lease(uri: str, holder: Mapping[str, Any]) -> Iterator[None]:
    lease = {**holder, "lease": uuid.uuid4().hex, "beat": 0}
    while not storage.create_json(uri, lease):
        _wait_for_silence(uri)
    ended = threading.Event()
    beats = threading.Thread(target=_renew, args=(uri, lease, ended), name="lease", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        if _holder(uri).get("lease") == lease["lease"]:  # not of whoever took it over
            storage.remove(uri)


def _wait_for_silence(uri: str) -> None:
    """Returns when the lock has gone, or its holder was silent for so long that it was removed. Raises StorageBusy."""
    first, until = _holder(uri), time.monotonic() + EXPIRE_S
    while first and time.monotonic() < until:
        time.sleep(1)
        now = _holder(uri)
        if now and now != first:
            raise _busy(uri, now)
        if not now:
            return
    if first and _holder(uri) == first:
        with suppress(FileNotFoundError):
            storage.remove(uri)


def _renew(uri: str, lease: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(RENEW_S):
        with suppress(Exception):  # a store that is busy for a while is asked again; commits do not depend on it
            if _holder(uri).get("lease") != lease["lease"]:
                return  # taken over: this process was silent for too long
            lease["beat"] += 1
            storage.write_json(uri, lease)


def _holder(uri: str) -> dict[str, Any]:
    """``{}``: nobody."""
    while True:
        try:
            found: dict[str, Any] = storage.read_json(uri)
            return found
        except FileNotFoundError:
            return {}
        except OSError as error:
            if error.errno != errno.EBUSY:  # else it was renewed while it was read
                raise


def _busy(uri: str, holder: Mapping[str, Any]) -> StorageBusy:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    return StorageBusy(
        f"{uri.rpartition('/' + LOCK)[0]} is being written by {who}: wait for it, or choose another --out"
    )
