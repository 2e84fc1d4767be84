"""Which media there are: one row a video (or image, or part of a video), from a folder, a glob, URLs, a manifest file
or a Uni-STG data set.

``uri`` opens it; ``media`` is the name that outputs and data sets use (relative to the data set's folder, else the
uri); ``id`` is a hash of ``media`` (and of the part); ``version`` changes with the file's bytes.

A manifest file (Parquet, CSV, JSON lines, JSON) has a row a question::

    video,question,begin_s,end_s
    clips/a.mp4,the dog while it jumps,,
    s3://bucket/film.mp4,who opens the door?,600,900

``video`` is needed: relative to the manifest's folder, or a path or URL. ``begin_s``, ``end_s``: look only there.
``listed_version``, ``listed_size``: what ``spacevllm list`` has found; such a video is not looked up again.
Where ``allow`` is given, what a row names outside of it is not looked at: its row says ``not_allowed``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pipelines.core import looks, storage
from pipelines.core.listing import FOUND, found_table, list_files
from pipelines.core.rows import Row, is_rows, read_rows
from pipelines.media.entries import (
    ENTRIES,
    LISTED_SIZE,
    LISTED_VERSION,
    SCHEMA,
    Entry,
    entries_table,
    manifest_rows,
    plain_rows,
)
from spacevllm.config import ConfigError
from spacevllm.data.instance import PART_COLUMNS, Part, instance_id, shown_part

VIDEO_EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"),
)


class Line(BaseModel):
    """A row of a manifest or questions file; cells are text in CSV."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")

    video: Annotated[str, StringConstraints(strip_whitespace=True)] = ""
    question: Annotated[str, StringConstraints(strip_whitespace=True)] = ""
    begin_s: Annotated[float, Field(ge=0)] | None = None
    end_s: Annotated[float, Field(gt=0)] | None = None

    @classmethod
    def read(cls, row: Row | str) -> Line:
        """Raises ValueError: one line that says what is wrong."""
        if isinstance(row, str):
            raise ValueError(row)
        try:
            line = cls.model_validate({name: cell for name, cell in row.items() if cell not in (None, "")})
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})") from None
        if line.begin_s is not None and line.end_s is not None and line.begin_s >= line.end_s:
            raise ValueError(f"begin_s {line.begin_s:g} is not before end_s {line.end_s:g}")
        return line


READ = ", ".join(Line.model_fields)
MEANT = {"start": "begin_s", "start_s": "begin_s", "stop": "end_s", "query": "question"}  # what others call them


def list_videos(videos: str | Sequence[str], allow: Sequence[str] = ()) -> pa.Table:
    """Rows of ``SCHEMA`` for folders (searched below), globs, files, URLs and manifests, without repeats, by name.

    What a folder or a glob finds is chosen by extension; a file or URL that is named is taken as it is.

    Args:
        allow: folders and URLs below which manifests may name videos; none: anywhere.

    Raises:
        ConfigError: a local path is missing, there is no video in it, or a manifest names none.
    """
    found, named = [FOUND.empty_table()], [ENTRIES.empty_table()]
    for uri in [videos] if isinstance(videos, str) else videos:
        if is_rows(uri):
            named.append(read_manifest(uri, allow))
        else:
            found.append(_expand(uri))
    return manifest_rows(pa.concat_tables(found), pa.concat_tables(named))


def data_set_media(folder: str, splits: Sequence[str] = ()) -> pa.Table:
    """Rows of ``SCHEMA`` for every video and image that the records of a Uni-STG folder ask about.

    Args:
        splits: which; all by default.

    Raises:
        ConfigError: the folder holds no such data set.
    """
    names: set[str] = set()
    for split in splits or [""]:
        names |= set(read_records(folder, split, ["media"])["media"].to_pylist()) - {""}  # text
    return media_rows({name: storage.join(storage.absolute(folder), name) for name in sorted(names)})


def data_set_clips(folder: str, splits: Sequence[str] = ()) -> pa.Table:
    """The same, each as often as records look at different parts of it (VidSTG's segments): what training decodes."""
    parts: dict[str, dict[Part, None]] = defaultdict(dict)
    for split in splits or [""]:
        for row in read_records(folder, split, ["media", *PART_COLUMNS]).to_pylist():
            parts[row["media"]][shown_part(row)] = None
    media = data_set_media(folder, splits).to_pylist()
    return _table([row | _clip(row["media"], part) for row in media for part in parts[row["media"]]])


def _clip(media: str, part: Part) -> dict[str, Any]:
    whole = part == (None, None)
    return {"id": instance_id(media) if whole else instance_id(media, *part), "begin_s": part[0], "end_s": part[1]}


def media_rows(uris: Mapping[str, str]) -> pa.Table:
    """Rows of ``SCHEMA`` from name → uri; what is missing has no version and fails when it is read."""
    versions = looks.versions(uris.values())
    rows = ((name, uri, versions[uri]) for name, uri in uris.items())
    return _table([{"id": instance_id(m), "uri": uri, "media": m, "version": version} for m, uri, version in rows])


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


def _expand(uri: str) -> pa.Table:
    """Rows of ``FOUND``."""
    if not storage.is_local(uri) and not storage.is_listable(uri):
        return found_table((uri, version, None) for uri, version in looks.versions([uri]).items())
    if storage.is_glob(uri) or storage.is_folder(uri):
        videos, why = list_files(uri, VIDEO_EXTENSIONS), f"no file there ends in {' '.join(VIDEO_EXTENSIONS)}"
    else:
        videos, why = found_table((uri, v, None) for uri, v in storage.find(uri).items()), "no such file"
    if not videos.num_rows:
        raise ConfigError(f"no videos at {uri}: {why}")
    return videos


def check_columns(uri: str, rows: Iterable[Row | str]) -> None:
    """Raises ConfigError where a column would be read under a name that is nearly its own; others are the user's."""
    columns = _columns(rows)
    for column in columns:
        if column in Line.model_fields:
            continue
        near = get_close_matches(column.lower(), Line.model_fields, n=1, cutoff=0.7) or [""]
        meant = MEANT.get(column.lower(), near[0])
        if meant and meant not in columns:
            raise ConfigError(f"{uri}: column {column!r} is not read, did you mean {meant!r}? (read: {READ})")


def _columns(rows: Iterable[Row | str]) -> list[str]:
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def read_manifest(uri: str, allow: Sequence[str]) -> pa.Table:
    """Rows of ``ENTRIES``, in their order; of a Parquet file only those that need it are looked at one by one."""
    if not allow and (columns := plain_rows(uri)) is not None and columns.plain.any():
        check_columns(uri, [dict.fromkeys(columns.table.column_names)])
        return columns.joined(
            entries_table([_entry(uri, number + 1, row, columns.asks, allow) for number, row in columns.rest])
        )
    rows = read_rows(uri)
    if not any(isinstance(row, dict) and row.get("video") for row in rows):
        found = ", ".join(_columns(rows)) or "none"
        raise ConfigError(f"{uri} is no manifest: it has no row with a video (columns: {found}; read: {READ})")
    check_columns(uri, rows)
    asks = any(isinstance(row, dict) and "question" in row for row in rows)
    return entries_table([_entry(uri, number, row, asks, allow) for number, row in enumerate(rows, start=1)])


def _entry(uri: str, number: int, row: Row | str, asks: bool, allow: Sequence[str]) -> Entry:
    """Of one row of the manifest ``uri``."""
    try:
        line = Line.read(row)
        if not line.video:
            raise ValueError("it names no video")
        if asks and not line.question:
            raise ValueError("it asks no question")
        place = _place(storage.join(storage.parent(uri), line.video), allow)
    except (ValueError, ImportError, OSError) as error:  # the last two: of a store, not installed or not reached
        reason = "not_allowed" if isinstance(error, _NotAllowed) else "manifest"
        told = f"{reason}: {storage.name(uri)} row {number}: {error}"
        return _broken(f"{storage.absolute(uri)}#{number}", row, told)
    return Entry(place, line.begin_s or None, line.end_s, line.question, "", *_listed(row))


def _listed(row: Row | str) -> tuple[str | None, int | None]:
    """Version and size that a listing has left in a row; other columns of these names are the user's."""
    version, size = (row.get(name) if isinstance(row, dict) else None for name in (LISTED_VERSION, LISTED_SIZE))
    known = version if isinstance(version, str) and version else None
    return known, int(str(size)) if known and str(size).isdigit() else None


class _NotAllowed(ValueError):
    pass


def _place(uri: str, allow: Sequence[str]) -> str:
    """``uri`` as ``storage.absolute`` spells it. Raises _NotAllowed: it is not below one of ``allow``."""
    if allow and not any(is_below(uri, folder) for folder in allow):
        raise _NotAllowed(f"{uri} is not below {' or '.join(allow)}; --allow PREFIX adds a place")
    return storage.absolute(uri)


def is_below(uri: str, folder: str) -> bool:
    """Whether ``uri`` lies in ``folder``. Nothing outside is looked at, no server is asked: ``..`` counts as it is
    written, then a local file's links are followed, which may lead out. A chain of file systems (``::``) is nowhere."""
    if not storage.is_local(folder):
        parts = unquote(uri).replace("\\", "/").split("/")
        return uri.startswith(f"{folder.rstrip('/')}/") and ".." not in parts and "::" not in uri
    if "://" in uri and not uri.startswith("file://"):
        return False
    path, root = Path(storage.absolute(uri)), Path(storage.absolute(folder))
    as_written = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))
    return as_written and path.resolve().is_relative_to(root.resolve())


def _broken(place: str, row: Row | str, error: str) -> Entry:
    """``place``, the row itself, stands for its video: two broken rows stay two."""
    question = str(row.get("question") or "") if isinstance(row, dict) else ""
    return Entry(place, question=question, error=error)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{"questions": [], "error": ""} | row for row in rows], schema=SCHEMA)
