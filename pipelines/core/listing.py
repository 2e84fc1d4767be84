"""All files below a folder, a folder or a page at a time, and many folders at once: of a million objects a row each is
held, and no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa

from pipelines.core import storage

LISTERS = 16  # folders at once, of a store that takes its time
FOUND = pa.schema([("uri", pa.string()), ("version", pa.string()), ("size", pa.int64()), ("error", pa.string())])

Infos = Iterable[Mapping[str, Any]]  # as fsspec describes files and folders


class Page(NamedTuple):
    """Files, and the folders, and tokens of further pages, that are still to be looked at."""

    files: Infos
    more: list[tuple[str, str]]


def list_files(uri: str, endings: tuple[str, ...]) -> pa.Table:
    """Rows of ``FOUND``: the files that ``storage.find`` gives of a folder or a glob, in no order.

    Args:
        endings: of names, in lower case; only these.
    """
    fs, path = storage.resolve(uri)
    if storage.is_glob(uri):
        return found_table(
            _named(storage.found(fs, storage.glob_root(path), fs.glob(path, detail=True).values()), endings)
        )
    root = path.rstrip("/")
    pages = [found_table(_named(storage.found(fs, root, files), endings)) for files in _walk(fs, root)]
    return pa.concat_tables(pages)


def found_table(files: Iterable[tuple[str, str | None, int | None]]) -> pa.Table:
    """Rows of ``FOUND``. A name that no table can hold is spelled out, and says what is wrong with it."""
    uris, versions, sizes = map(list, zip(*files, strict=True)) if (files := list(files)) else ([], [], [])
    errors = [""] * len(uris)
    for number in (n for n, uri in enumerate(uris) if not uri.isascii() and not is_utf8(uri)):
        uris[number] = os.fsencode(uris[number]).decode(errors="backslashreplace")
        versions[number] = errors[number] = "name: it is not UTF-8; rename the file"
    return pa.table([uris, versions, sizes, errors], schema=FOUND)


def is_utf8(text: str) -> bool:
    """Whether it can be written: Python keeps other bytes of names and arguments as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(files: Iterable[tuple[str, str, int | None]], endings: tuple[str, ...]) -> Iterator[Any]:
    return (file for file in files if file[0].lower().endswith(endings))


def _walk(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[Infos]:
    """The files of every folder that is not hidden; whatever is named, is looked at."""
    with ThreadPoolExecutor(LISTERS) as pool:
        asked: set[Future[Page]] = {pool.submit(_page, fs, f"{root}/", "")}
        while asked:
            done, asked = wait(asked, return_when=FIRST_COMPLETED)
            for page in (future.result() for future in done):
                asked |= {pool.submit(_page, fs, *place) for place in page.more}
                yield page.files


def _page(fs: fsspec.AbstractFileSystem, folder: str, token: str) -> Page:
    """Args: folder: with its slash. token: of a further page."""
    if hasattr(fs, "call_s3"):
        return _s3_page(fs, folder, token)
    try:
        infos = fs.ls(folder, detail=True)
    except (FileNotFoundError, PermissionError):  # gone meanwhile, or not for us: as ``find`` has it
        return Page([], [])
    folders = [info["name"].rstrip("/") for info in infos if info["type"] == "directory"]
    return Page([i for i in infos if i["type"] != "directory"], [(f"{f}/", "") for f in folders if not _is_hidden(f)])


def _s3_page(fs: Any, folder: str, token: str) -> Page:
    bucket, _, prefix = folder.partition("/")
    at = {"ContinuationToken": token} if token else {}
    answer = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **at, **fs.req_kw)
    files = [
        {"name": f"{bucket}/{item['Key']}", "size": item["Size"], "type": "file", "ETag": item["ETag"]}
        for item in answer.get("Contents", [])
    ]
    folders = [item["Prefix"] for item in answer.get("CommonPrefixes", [])]
    more = [(f"{bucket}/{f}", "") for f in folders if not _is_hidden(f.rstrip("/"))]
    return Page(files, more + ([(folder, answer["NextContinuationToken"])] if answer.get("IsTruncated") else []))


def _is_hidden(folder: str) -> bool:
    return folder.rpartition("/")[2].startswith(".")
