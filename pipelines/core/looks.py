"""Is a file there, and in which version? What cannot be looked at is neither there nor missing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipelines.core import storage

LOOK_UPS = 16  # at once, of files in a store that takes its time
NO_NAME = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)  # no file can be called so
MAX_UNKNOWN = 0.1  # of the files of a run


class Unreachable(RuntimeError):
    """So many files cannot be looked at that it must be their share or store: not theirs to answer for."""


class Look(NamedTuple):
    """What a look at a file told. version: ``""``: known to be missing; None: it cannot be told now, ``why`` not."""

    version: str | None
    why: str = ""


def look(uri: str) -> Look:
    """``version``, but what cannot be looked at is not missing: a share that is not mounted, a store that refuses or
    throttles, credentials that ran out. Never raises."""
    try:
        found = storage.version(uri)
    except Exception as error:  # every store has errors of its own
        if "\0" in uri or getattr(error, "errno", None) in NO_NAME:
            return Look("")
        return Look(None, f"{type(error).__name__}: {error}")
    if not found and storage.is_local(uri) and _is_share_away(storage.absolute(uri)):
        return Look(None, f"the folder of {uri} is empty: is it mounted?")
    return Look(found)


def looks(uris: Iterable[str]) -> dict[str, Look]:
    """Of each, ``look``; many at once."""
    wanted = list(dict.fromkeys(uris))
    with ThreadPoolExecutor(LOOK_UPS) as pool:
        return dict(zip(wanted, pool.map(look, wanted), strict=True))


def versions(uris: Iterable[str], some: bool = False) -> dict[str, str | None]:
    """Of each, ``look``'s version.

    Args:
        some: of several files at least one must be there.

    Raises:
        Unreachable: more than ``MAX_UNKNOWN`` of them, and not just one or two, cannot be looked at; see ``some``.
    """
    found = looks(uris)
    unknown = [(uri, seen.why) for uri, seen in found.items() if seen.version is None]
    if len(unknown) > max(2, MAX_UNKNOWN * len(found)):
        first, why = unknown[0]
        told = f"{len(unknown)} of {len(found)} files cannot be looked at now, the first is {first}: {why}"
        raise Unreachable(f"{told}; nothing was changed, run the same command again when they can")
    if some and len(found) > 2 and not any(seen.version for seen in found.values()):
        raise Unreachable(f"none of {len(found)} files is there, such as {next(iter(found))}; nothing was changed")
    return {uri: seen.version for uri, seen in found.items()}


def _is_share_away(path: str) -> bool:
    """Whether the nearest folder above that is there holds nothing, as where a share is to be mounted."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True
