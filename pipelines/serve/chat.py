"""``POST /v1/chat/completions`` as OpenAI's clients send it: the last user message's text about the last video."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from pipelines.serve.answers import boxes_json, more_json, with_last
from pipelines.serve.problems import Problem
from pipelines.serve.requests import JSON_BYTES, check_questions, parse, read_body
from pipelines.serve.service import Service
from pipelines.serve.store import Video
from spacevllm.answer import Answer
from spacevllm.tube import ABSENT
from spacevllm.words.answers import format_spans


class Url(BaseModel):
    url: str = Field(min_length=1, description="id of a video, an allowed URI, or data:video/mp4;base64,…")


class VideoPart(BaseModel):
    type: Literal["video_url"]
    video_url: Url


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


Part = Annotated[VideoPart | TextPart, Field(discriminator="type")]


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None


class ChatRequest(BaseModel):
    """What is read of a request; other keys, such as ``temperature``, change nothing."""

    messages: list[Message] = Field(min_length=1)
    model: str = Field("", description="the one that is served, see /v1/models; it may be left out")
    stream: bool = False


async def complete(request: Request, service: Service) -> dict[str, Any] | StreamingResponse:
    """The answer, whole or (``stream``) as events.

    Raises:
        Problem: 400 no video or no question in it, 404 another model is asked for, and all that ``ground`` raises.
    """
    config = service.config
    most = (config.max_inline_mb << 20) * 4 // 3 + JSON_BYTES
    asked = parse(ChatRequest, await read_body(request, most, config.upload_timeout_s))
    if asked.model:
        check_model(asked.model, service)
    url, question = _last_video(asked.messages), _last_question(asked.messages)
    check_questions([question], config)
    video = await _open(url, service)
    [written] = await service.ground(video, [question])
    text = await asyncio.to_thread(answer_text, written.answer)
    if asked.stream:
        return StreamingResponse(_events(text, service.facts["model"]), media_type="text/event-stream")
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return _head("chat.completion", service.facts["model"]) | {"choices": [choice]}


def model_card(service: Service) -> dict[str, Any]:
    """The model in OpenAI's form."""
    return {"id": service.facts["model"], "object": "model", "created": 0, "owned_by": "spacevllm"}


def check_model(name: str, service: Service) -> None:
    """Raises Problem: 404 for any other model than the one that is served."""
    if name != service.facts["model"]:
        raise Problem(404, "unknown_model", f"{name[:200]}: this server answers with {service.facts['model']!r} only")


def answer_text(answer: Answer) -> str:
    """The spans as a sentence, or that it is not there; below it one line of JSON with the best span and its boxes, and
    with ``more`` where there are more tubes."""
    if answer.says_absent:
        return ABSENT
    if answer.span is None:
        return f"No time could be read from the answer: {answer.answer}"
    facts: dict[str, Any] = {"span": [answer.begin_s, answer.end_s]}
    facts |= {name: getattr(answer, name) for name in ("confidence", "present", "width", "height")}
    doubt = "" if answer.present else "Probably not there. "
    said = with_last(facts, "boxes", boxes_json(answer.best))
    said = f'{said[:-1]},"more":{more_json(answer)}}}' if len(answer) > 1 else said
    return f"{doubt}{format_spans([tube.span for tube in answer if tube.span])}\n{said}"


async def _open(url: str, service: Service) -> Video:
    if not url.startswith("data:"):
        return await service.videos.find(url)
    head, _, body = url.partition(",")
    if not head.endswith(";base64"):
        raise Problem(400, "bad_request", "a data: URL needs ;base64")
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, "bad_request", "the data: URL is not valid base64") from None
    return await service.videos.receive(io.BytesIO(content), "video")


def _last_video(messages: Sequence[Message]) -> str:
    for part in reversed(list(_parts(messages))):
        if isinstance(part, VideoPart):
            return part.video_url.url
    raise Problem(400, "no_video", 'give the video as a part {"type": "video_url", "video_url": {"url": …}}')


def _last_question(messages: Sequence[Message]) -> str:
    users = [message for message in messages if message.role == "user"]
    if not users:
        return ""
    if isinstance(users[-1].content, str):
        return users[-1].content
    return " ".join(part.text for part in users[-1].content or [] if isinstance(part, TextPart))


def _parts(messages: Sequence[Message]) -> Iterator[VideoPart | TextPart]:
    for message in messages:
        if message.role == "user" and isinstance(message.content, list):
            yield from message.content


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _events(text: str, model: str) -> Iterator[str]:
    head = _head("chat.completion.chunk", model)
    for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
        yield f"data: {json.dumps(head | {'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n"
    yield "data: [DONE]\n\n"
