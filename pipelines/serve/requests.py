"""From an HTTP request to a video on disk and its questions: the two body forms, the caps, the media root.

Nothing that a client sends names a file of this machine, unless it lies below the configured media root.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from pipelines import storage
from pipelines.serve.problems import Problem


class GroundRequest(BaseModel):
    """The JSON form of a request."""

    model_config = ConfigDict(extra="forbid")
    video: str = Field(min_length=1, description="path or URI below the server's media root", examples=["clip.mp4"])
    question: str | None = Field(None, examples=["the small red circle while it moves left"])
    questions: list[str] = Field([], description="several questions about the same video: it is decoded once")


@dataclass
class Query:
    """What was asked. ``video`` is a name to report; the bytes are an upload, or a file below the media root."""

    video: str
    questions: list[str]
    upload: UploadFile | None = None


async def read_query(request: Request, max_bytes: int, max_questions: int) -> Query:
    """Reads and checks the body: ``multipart/form-data`` or ``application/json``.

    Raises:
        Problem: 400 malformed, 413 larger than ``max_bytes``, 415 any other content type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    capped = _capped(request, max_bytes)
    if kind == "multipart/form-data":
        query = await _read_form(capped)
    elif kind == "application/json":
        query = await _read_json(capped)
    else:
        raise Problem(415, "unsupported_media_type", f"send multipart/form-data or application/json, not {kind!r}")
    if not query.questions or not all(question.strip() for question in query.questions):
        raise Problem(400, "no_question", "give a question that is not empty, as `question` or `questions`")
    if len(query.questions) > max_questions:
        raise Problem(400, "too_many_questions", f"{len(query.questions)} questions; at most {max_questions} a request")
    return query


async def _read_form(request: Request) -> Query:
    try:
        form = await request.form(max_files=1, max_fields=10_000)
    except HTTPException as error:  # starlette's name for a malformed multipart body
        raise Problem(400, "malformed_body", str(error.detail)) from None
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise Problem(400, "no_file", "the form needs a `file` field that holds the video")
    questions = [str(value) for name in ("question", "questions") for value in form.getlist(name)]
    return Query(Path(upload.filename or "upload").name, questions, upload)


async def _read_json(request: Request) -> Query:
    try:
        body = GroundRequest.model_validate(json.loads(await request.body()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise Problem(400, "bad_request", f"{where}: {first['msg']}") from None
    except ValueError as error:
        raise Problem(400, "malformed_body", f"not valid JSON: {error}") from None
    return Query(body.video, [*([] if body.question is None else [body.question]), *body.questions])


def _capped(request: Request, max_bytes: int) -> Request:
    """The same request; reading more than ``max_bytes`` of body raises 413, whatever its headers claim."""
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise Problem(413, "upload_too_large", f"the body is larger than {max_bytes / 2**20:g} MiB")
        return message

    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise Problem(413, "upload_too_large", f"the body has {length} bytes; at most {max_bytes} are taken")
    return Request(request.scope, receive)


@contextmanager
def local_file(query: Query, media_root: str) -> Iterator[Path]:
    """The video as a local file, for as long as the context lasts; blocking.

    Raises:
        Problem: 403 outside the media root, 404 no such file.
    """
    if query.upload is not None:
        with tempfile.NamedTemporaryFile(prefix="spacevllm-", suffix=Path(query.video).suffix[:8]) as file:
            shutil.copyfileobj(query.upload.file, file)
            file.flush()
            yield Path(file.name)
        return
    uri = resolve(query.video, media_root)
    if not storage.exists(uri):
        raise Problem(404, "missing_video", f"{query.video}: no such video below the media root")
    with storage.local_copy(uri) as path:
        yield Path(path)


def video_key(query: Query, path: Path, media_root: str) -> str:
    """What names the bytes of the video: an upload's SHA-256 (names that a client gives mean nothing), a file's address
    and version; ``""`` if neither can be had."""
    if query.upload is None:
        uri = resolve(query.video, media_root)
        version = storage.version(uri)
        return f"{uri}:{version}" if version else ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(video: str, media_root: str) -> str:
    """``video`` as an absolute path or URI below ``media_root``; relative names start there.

    Raises:
        Problem: 403 when it lies elsewhere, or no media root is configured.
    """
    outside = Problem(403, "outside_media_root", f"{video}: not below the media root; upload the file instead")
    if not media_root:
        raise Problem(403, "no_media_root", "this server takes uploads only; it was started without --media-root")
    if "://" in media_root:
        uri = video if "://" in video else f"{media_root.rstrip('/')}/{video}"
        if not uri.startswith(media_root.rstrip("/") + "/") or ".." in uri.split("/"):
            raise outside
        return uri
    root = Path(media_root).resolve()
    path = (root / video).resolve()  # follows links, so that a link cannot lead out either
    if "://" in video or not path.is_relative_to(root):
        raise outside
    return str(path)
