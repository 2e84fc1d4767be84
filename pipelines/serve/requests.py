"""From an HTTP request to what was asked: the body forms and their caps. No file or address is looked at here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from pipelines.serve.config import ServeConfig
from pipelines.serve.problems import Problem

JSON_BYTES = 1 << 20  # of a body without a video in it
FIELD_BYTES = 64 << 10  # of a form's field that is no file
EVENTS = "text/event-stream"


class Body(BaseModel):
    """A JSON body: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class VideoRequest(Body):
    """The JSON form of ``POST /v1/videos``."""

    uri: str = Field(min_length=1, max_length=4096, description="path or URI that the server may read")


class GroundRequest(Body):
    """The JSON form of ``POST /v1/ground``."""

    video: str = Field(
        min_length=1, max_length=4096, description="id of a video, or a path or URI", examples=["clip.mp4"]
    )
    question: str | None = Field(None, examples=["the small red circle while it moves left"])
    questions: list[str] = Field([], description="several questions about the same video: it is decoded once")
    stream: bool = Field(False, description="tell of progress, too: worth it for films, which are walked in windows")


@dataclass
class Query:
    """What was asked. ``video`` is an id, a path or a URI or, with an ``upload``, a name to report.

    ``stream``: the answer is wanted as events.
    """

    video: str
    questions: list[str] = field(default_factory=list)
    upload: UploadFile | None = None
    stream: bool = False


B = TypeVar("B", bound=BaseModel)


@asynccontextmanager
async def read_video(request: Request, config: ServeConfig) -> AsyncIterator[Query]:
    """The body of ``POST /v1/videos``; an upload's file is closed at the end.

    Raises:
        Problem: 400 malformed, 408 too slow, 413 too large, 415 any other content type.
    """
    async with _read(request, config) as body:
        yield _form_query(body) if isinstance(body, FormData) else Query(parse(VideoRequest, body).uri)


@asynccontextmanager
async def read_ground(request: Request, config: ServeConfig) -> AsyncIterator[Query]:
    """The body of ``POST /v1/ground``, as ``read_video``."""
    async with _read(request, config) as body:
        if isinstance(body, FormData):
            query = _form_query(body)
        else:
            asked = parse(GroundRequest, body)
            questions = [*([] if asked.question is None else [asked.question]), *asked.questions]
            query = Query(asked.video, questions, stream=asked.stream)
        query.stream |= EVENTS in request.headers.get("accept", "")
        check_questions(query.questions, config)
        yield query


def check_questions(questions: Sequence[str], config: ServeConfig) -> None:
    """Raises Problem unless there are questions, none of them empty, few and short enough."""
    if not questions or not all(question.strip() for question in questions):
        raise Problem(400, "no_question", "give a question that is not empty, as `question` or `questions`")
    if len(questions) > config.max_questions:
        at_most = f"at most {config.max_questions} a request"
        raise Problem(400, "too_many_questions", f"{len(questions)} questions; {at_most}")
    longest = max(map(len, questions))
    if longest > config.max_question_chars:
        at_most = f"at most {config.max_question_chars} are taken"
        raise Problem(422, "question_too_long", f"a question has {longest} characters; {at_most}")


def parse(model: type[B], body: bytes) -> B:
    """``body`` as a ``model``.

    Raises:
        Problem: 400 ``malformed_body`` for what is no JSON, ``bad_request`` for what does not fit.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(400, "malformed_body", f"not valid JSON: {first['msg']}") from None
        where = ".".join(map(str, first["loc"]))[:100] or "body"
        raise Problem(400, "bad_request", f"{where}: {first['msg']}") from None


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body. Raises Problem: 408 too slow, 413 larger than ``max_bytes``."""
    async with _in_time(timeout_s):
        return await _capped(request, max_bytes).body()


@asynccontextmanager
async def _read(request: Request, config: ServeConfig) -> AsyncIterator[FormData | bytes]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        yield await read_body(request, min(JSON_BYTES, config.max_upload_bytes), config.upload_timeout_s)
    elif kind == "multipart/form-data":
        async with _in_time(config.upload_timeout_s):
            form = await _read_form(_capped(request, config.max_upload_bytes), config.max_questions)
        try:
            yield form
        finally:
            await form.close()
    else:
        raise Problem(415, "unsupported_media_type", f"send multipart/form-data or application/json, not {kind!r}")


async def _read_form(request: Request, questions: int) -> FormData:
    """The file goes to disk; other fields stay in memory, so they are few (if more than are answered) and small."""
    try:
        return await request.form(max_files=1, max_fields=2 * questions + 16, max_part_size=FIELD_BYTES)
    except HTTPException as error:  # starlette's name for a malformed multipart body
        raise Problem(400, "malformed_body", str(error.detail)) from None


def _form_query(form: FormData) -> Query:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise Problem(400, "no_file", "the form needs a `file` field that holds the video")
    questions = [str(value) for name in ("question", "questions") for value in form.getlist(name)]
    return Query(file_name(upload.filename or ""), questions, upload, stream=form.get("stream") in ("true", "1"))


def file_name(sent: str) -> str:
    """What a client calls its file, without folders and without what could disturb a log, a page or a terminal."""
    name = "".join(filter(str.isprintable, re.split(r"[/\\]", sent)[-1]))
    return name[:200] or "upload"


@asynccontextmanager
async def _in_time(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise Problem(408, "upload_timeout", f"the request did not arrive within {timeout_s:g} s") from None


def _capped(request: Request, max_bytes: int) -> Request:
    """The same request; reading more than ``max_bytes`` of body raises 413, whatever its headers claim."""
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "disconnected", "the client left before its request was complete")
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise Problem(413, "upload_too_large", f"the body is larger than {max_bytes / 2**20:g} MiB")
        return message

    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise Problem(413, "upload_too_large", f"the body has {length} bytes; at most {max_bytes} are taken")
    return Request(request.scope, receive)
