"""Which media there are: one row a video (or image), from a folder, a glob, URLs or a Uni-STG data set.

A row is {id, uri, media, version}: ``uri`` opens it; ``media`` is the name that outputs and data sets use (relative to
the data set's folder, else the uri); ``id`` is a hash of ``media``; ``version`` changes with the file's bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from pipelines import storage
from spacevllm.config import ConfigError
from spacevllm.data.instance import instance_id

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "uri", "media", "version")])
VIDEO_EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"),
)


def list_videos(videos: str | Sequence[str]) -> pa.Table:
    """Rows of ``SCHEMA`` for folders (searched below), globs, files and URLs, without repeats, sorted by name.

    What a folder or a glob finds is chosen by extension; a file or URL that is named is taken as it is.

    Raises:
        ConfigError: a local path is missing, or there is no video in it.
    """
    found: dict[str, str] = {}
    for uri in [videos] if isinstance(videos, str) else videos:
        found |= _expand(uri)
    return _rows((uri, uri, version) for uri, version in sorted(found.items()))


def data_set_media(folder: str, splits: Sequence[str] = ()) -> pa.Table:
    """Rows of ``SCHEMA`` for every video and image that the records of a Uni-STG folder ask about.

    Args:
        splits: which; all by default.

    Raises:
        ConfigError: the folder holds no such data set.
    """
    names: set[str] = set()
    for split in splits or [""]:
        names |= set(read_records(folder, split, ["media"])["media"].to_pylist())
    return media_rows({name: storage.join(storage.absolute(folder), name) for name in sorted(names)})


def media_rows(uris: Mapping[str, str]) -> pa.Table:
    """Rows of ``SCHEMA`` from name → uri; what is missing has no version and fails when it is read."""
    return _rows((name, uri, storage.version(uri)) for name, uri in uris.items())


def read_records(folder: str, split: str = "", columns: list[str] | None = None) -> pa.Table:
    """The Uni-STG records of one split, or of all, in shard order.

    Raises:
        ConfigError: there are none.
    """
    shards = storage.join(folder, "unistg", split)
    try:
        return storage.read_table(shards, columns)
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no data set: there are no Uni-STG shards in {shards}") from None


def _expand(uri: str) -> dict[str, str]:
    if not storage.is_local(uri) and not storage.is_listable(uri):
        return {uri: storage.version(uri)}
    named = not storage.is_glob(uri) and not storage.is_folder(uri)
    files = storage.find(uri)
    videos = files if named else {u: v for u, v in files.items() if u.lower().endswith(VIDEO_EXTENSIONS)}
    if not videos:
        why = "no such file" if named else f"no file there ends in {' '.join(VIDEO_EXTENSIONS)}"
        raise ConfigError(f"no videos at {uri}: {why}")
    return videos


def _rows(rows: Iterable[tuple[str, str, str]]) -> pa.Table:
    listed = [{"id": instance_id(m), "uri": uri, "media": m, "version": version} for m, uri, version in rows]
    return pa.Table.from_pylist(listed, schema=SCHEMA)
