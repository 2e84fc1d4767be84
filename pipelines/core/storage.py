"""The one module that opens paths: local folders, s3://, https:// and whatever else fsspec knows.

A *uri* here is a local path (relative, absolute or file://) or any fsspec URL. Local results are plain absolute paths,
remote ones keep their scheme. Writing is all or nothing: a reader never sees half a file, whenever the writer dies.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipelines.core.buckets import is_object_store, missing_bucket

COPIES, _BLOCK = 4, 16 << 20  # files at once, bytes of each at once
_UMASK = os.umask(0)  # can only be read by setting it, which threads must not do side by side
os.umask(_UMASK)
_FINAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_STORES = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "azure")  # whose errors are no OSError


class OutputError(RuntimeError):
    """Results cannot be written: the disk is full, or the store refuses.

    Attributes:
        passes: it may be this machine's own trouble, or a moment's: a connection, not a full disk or a refusal.
    """

    passes = False


def resolve(uri: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of ``uri`` and the path in it. What has no ``://`` is a local file, whatever its name holds."""
    if "://" not in str(uri):  # fsspec would take `Talk :: one.mp4` for a chain of file systems
        local = LocalFileSystem()
        return local, local._strip_protocol(str(uri))
    return fsspec.core.url_to_fs(str(uri), use_listings_cache=False)  # other processes write there, too


def arrow(uri: str | Path) -> tuple[pa.fs.FileSystem | None, str]:
    """``uri`` for libraries that take pyarrow's file systems, read with the credentials and settings that everything
    else here is read with: the file system (None: the local one) and the path in it."""
    fs, path = resolve(uri)
    return None if isinstance(fs, LocalFileSystem) else pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs)), path


def beside(uri: str | Path, path: str) -> str:
    """The uri of a ``path`` in the file system of ``uri``."""
    return _spell(resolve(uri)[0], path)


def is_local(uri: str | Path) -> bool:
    return isinstance(resolve(uri)[0], LocalFileSystem)


def absolute(uri: str | Path) -> str:
    """The one spelling of ``uri`` that ids are made of: an absolute local path, or a full URL."""
    fs, path = resolve(uri)
    return _spell(fs, path)


def join(base: str | Path, *parts: str) -> str:
    """``base/part/...``; an absolute part (path or URL) replaces what stands before it."""
    whole = str(base)
    for part in parts:
        whole = part if "://" in part or part.startswith("/") else f"{whole.rstrip('/')}/{part}"
    return whole


def parent(uri: str | Path) -> str:
    return absolute(uri).rstrip("/").rpartition("/")[0] or "/"


def name(uri: str | Path) -> str:
    """The last part of ``uri``."""
    return str(uri).rstrip("/").rsplit("/", 1)[-1]


def copy_folder(source: str | Path, target: str | Path) -> None:
    """Copies every file below ``source``, each whole or not at all; none is held in memory.

    Raises:
        FileNotFoundError: there is nothing to copy. OutputError: it cannot be copied.
    """
    files = find(source) if is_folder(source) else {}
    if not files:
        raise FileNotFoundError(f"cannot copy {source}: it is no folder that holds files")
    root = absolute(source)
    with ThreadPoolExecutor(COPIES) as pool:
        list(pool.map(lambda uri: _copy_file(uri, join(target, uri.removeprefix(root).lstrip("/"))), files))


def _copy_file(source: str, target: str) -> None:
    (fs, path), (other, place) = resolve(source), resolve(target)
    with _writing(f"copy {source} to {target}"):
        if fs is other and not isinstance(fs, LocalFileSystem):
            fs.cp_file(path, place)  # the store does it: no byte comes here
            return
        with open_read(source) as reader, open_write(target) as writer:
            shutil.copyfileobj(reader, writer, _BLOCK)


def exists(uri: str | Path) -> bool:
    fs, path = resolve(uri)
    return bool(fs.exists(path))


def is_folder(uri: str | Path) -> bool:
    fs, path = resolve(uri)
    return bool(fs.isdir(path))


def make_folder(uri: str | Path) -> str:
    """Creates the folder (object stores have none: nothing happens there) and returns its absolute uri.

    Raises:
        OutputError: its bucket is not there.
    """
    need_bucket(uri)
    fs, path = resolve(uri)
    if not is_object_store(fs):
        fs.makedirs(path, exist_ok=True)
    return _spell(fs, path)


def need_bucket(uri: str | Path) -> None:
    """Raises OutputError where ``uri`` names a bucket that is not there."""
    if bucket := missing_bucket(*resolve(uri)):
        raise OutputError(f"cannot write {uri}: there is no bucket {bucket}; make it first, or correct the name")


def is_glob(uri: str | Path) -> bool:
    return is_listable(uri) and any(mark in str(uri) for mark in "*?[") and not exists(uri)


def is_listable(uri: str | Path) -> bool:
    """Whether one can ask what a folder of it holds; a web server does not say."""
    return not str(uri).startswith(("http://", "https://"))


def find(uri: str | Path) -> dict[str, str]:
    """Every file under a folder, or that a glob matches, or the one file: absolute uri → version, sorted by uri.

    Hidden files and folders below it (a name that starts with ``.``), half-written files and the empty objects that
    stand for folders in some stores are left out.
    """
    fs, path = resolve(uri)
    root = path.rstrip("/")
    if is_glob(uri):
        infos = fs.glob(path, detail=True).values()
        root = glob_root(path)
    elif fs.isdir(path):
        infos = fs.find(path, detail=True).values()
    else:
        infos = [fs.info(path)] if fs.exists(path) else []
    files = {uri: version for uri, version, _ in found(fs, root, infos)}
    return dict(sorted(files.items()))


def glob_root(path: str) -> str:
    """What stands before the first mark: what was named may be hidden."""
    return re.split(r"[*?[]", path)[0].rpartition("/")[0]


def found(
    fs: fsspec.AbstractFileSystem, root: str, infos: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, str, int | None]]:
    """Of what a store lists below ``root``, the visible files: absolute uri, version, bytes."""
    for info in map(partial(_followed, fs), infos):
        hidden = any(part.startswith(".") for part in info["name"].removeprefix(root).split("/"))
        if info["type"] == "file" and not hidden and not info["name"].endswith("/"):
            yield _spell(fs, info["name"]), _version(info), info.get("size")


def begin_with(uri: str | Path) -> list[str]:
    """Files and folders, hidden ones too, that lie where ``uri`` does and whose names begin with its name."""
    fs, path = resolve(uri)
    folder, _, begin = path.rpartition("/")
    there = fs.ls(folder, detail=False) if fs.isdir(folder) else []
    return [_spell(fs, path) for path in there if name(path).startswith(begin)]


def version(uri: str | Path) -> str:
    """Changes when the file's content does: the store's etag, else size and time of change. ``""`` if it is missing."""
    fs, path = resolve(uri)
    try:
        return _version(fs.info(path))
    except FileNotFoundError:
        return ""


def size(uri: str | Path) -> int:
    """Bytes. Raises FileNotFoundError."""
    fs, path = resolve(uri)
    return int(fs.info(path)["size"])


def open_read(uri: str | Path) -> IO[bytes]:
    fs, path = resolve(uri)
    return fs.open(path, "rb")


def read_text(uri: str | Path) -> str:
    """UTF-8 text. Raises FileNotFoundError, UnicodeDecodeError."""
    with open_read(uri) as file:
        return file.read().decode("utf-8-sig")  # a byte order mark is no part of the first question


def read_json(uri: str | Path) -> Any:
    return json.loads(read_text(uri))


def read_lines(uri: str | Path) -> Iterator[bytes]:
    """Lines of a text file without their ends, one by one, a byte order mark left out."""
    with open_read(uri) as file:
        for number, line in enumerate(file):
            yield (line.removeprefix(codecs.BOM_UTF8) if number == 0 else line).rstrip(b"\r\n")


def write_bytes(uri: str | Path, data: bytes | pa.Buffer) -> None:
    """Creates or replaces the file in one step: temporary file and rename here, one put in an object store.

    Raises:
        OutputError: the disk is full, or the store refuses.
    """
    fs, path = resolve(uri)
    with _writing(f"write {uri}"):
        if not isinstance(fs, LocalFileSystem):
            fs.pipe_file(path, bytes(data))
            return
        with open_write(path) as file:
            file.write(data)


@contextmanager
def _writing(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _STORES:
            raise
        why = getattr(error, "strerror", None) or error
        told = OutputError(f"cannot {what}: {why}; then run the same command again")
        told.passes = not isinstance(error, PermissionError | FileNotFoundError) and (
            getattr(error, "errno", None) not in _FINAL
        )
        raise told from error


@contextmanager
def open_write(uri: str | Path) -> Iterator[IO[bytes]]:
    """A file to write to piece by piece; it takes the place of ``uri`` at the end, or not at all after an error."""
    fs, path = resolve(uri)
    local = isinstance(fs, LocalFileSystem)
    folder, name = os.path.split(path)
    if local:
        os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder if local else None)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        if local:
            os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes it private
            os.replace(temporary, path)
        else:
            fs.put_file(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_text(uri: str | Path, text: str) -> None:
    write_bytes(uri, text.encode())


def write_json(uri: str | Path, value: Any) -> None:
    write_text(uri, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def create_json(uri: str | Path, value: Any) -> bool:
    """Writes it only where there is nothing, in one step (S3: If-None-Match); False: there is something."""
    fs, path = resolve(uri)
    try:
        fs.pipe_file(path, json.dumps(value).encode(), mode="create")
    except FileExistsError:
        return False
    return True


def write_table(uri: str | Path, table: pa.Table) -> int:
    """One Parquet file, and its bytes; the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd")
    data = sink.getvalue()
    write_bytes(uri, data)
    return int(data.size)


def read_table(uri: str | Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file, or all below a folder in order of name.

    Args:
        columns: which to read, of those that a file has; None: all.

    Raises:
        FileNotFoundError: there is none.
    """
    files = [file for file in find(uri) if file.endswith(".parquet")]
    if not files:
        raise FileNotFoundError(f"no parquet file at {uri}")
    tables = []
    for name in files:
        with open_read(name) as file:
            tables.append(pq.ParquetFile(file).read(columns))
    return pa.concat_tables(tables)


def remove(uri: str | Path) -> None:
    fs, path = resolve(uri)
    fs.rm_file(path)


def remove_folder(uri: str | Path) -> None:
    """With everything in it, hidden files too; none is fine."""
    fs, path = resolve(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def _spell(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)


def _followed(fs: fsspec.AbstractFileSystem, info: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a link leads to, under the link's name: a listing says only that it is one. Folders are not walked twice."""
    try:
        return fs.info(info["name"]) if info.get("islink") else info
    except OSError:  # it leads nowhere: whoever reads it is told
        return {**info, "type": "file"}


def _version(info: Mapping[str, Any]) -> str:
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if tag:
        return str(tag).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or ""
    return f"{info.get('size')}-{changed}"
