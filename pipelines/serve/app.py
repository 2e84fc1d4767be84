"""The routes of the service. What they do is in ``service``; every error is a problem document."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse

from pipelines.serve import chat, metrics
from pipelines.serve.answers import answers_json
from pipelines.serve.events import DESCRIPTION, stream
from pipelines.serve.films import Tell
from pipelines.serve.open_file import OpenFile
from pipelines.serve.problems import described, install_handlers
from pipelines.serve.reference import reference
from pipelines.serve.requests import EVENTS, GroundRequest, VideoRequest, read_ground, read_video
from pipelines.serve.requests import Query as Asked
from pipelines.serve.security import PAGE_POLICY, Security
from pipelines.serve.service import Service
from pipelines.serve.store import Video
from pipelines.serve.videos import gone

PAGE = Path(__file__).parent / "page"
FILE = {"type": "string", "format": "binary", "description": "the video"}
QUESTIONS = {"type": "array", "items": {"type": "string"}, "description": "one field for each question"}
ANSWER: dict[int | str, dict[str, Any]] = {200: {"description": f"the tubes; {DESCRIPTION}", "content": {EVENTS: {}}}}
ABOUT = "Ask a video *when* and *where*. Every error is an RFC 9457 problem document with a stable `reason`."


def build_app(service: Service) -> FastAPI:
    """The application over one ``service``, which it starts and closes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        service.close()

    app = FastAPI(title="SpaceVLLM", description=ABOUT, version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    install_handlers(app)
    app.add_middleware(Security, config=service.config)
    app.add_middleware(metrics.Measured)
    _add_api(app, service)
    _add_files(app, service)
    _add_operations(app, service)
    _add_page(app, service)
    return app


def _add_api(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/videos",
        summary="Send or name a video, to be asked by its id",
        responses=described(400, 401, 403, 404, 408, 413, 415, 422, 429, 502),
        openapi_extra=_body(VideoRequest.model_json_schema(), {"file": FILE}),
    )
    async def add_video(request: Request) -> dict[str, Any]:
        """Decodes it once, so that what cannot be asked is refused here. The same bytes get the same id."""
        with service.admitted():
            async with read_video(request, service.config) as asked:
                return (await _video(service, asked)).to_dict()

    @app.post(
        "/v1/ground",
        summary="Where and when is what the questions ask for?",
        responses=ANSWER | described(400, 401, 403, 404, 408, 413, 415, 422, 429, 502, 503),
        openapi_extra=_body(GroundRequest.model_json_schema(), {"file": FILE, "question": QUESTIONS}),
        response_model=None,
    )
    async def ground(request: Request) -> Response:
        """One tube for each question: its span in seconds and frames, and a box on every frame of the span.

        Boxes are `[frame, x1, y1, x2, y2]` in pixels of the upright picture; frames count from 0 and `end_frame` is
        the first one after the span. With `stream` (or `Accept: text/event-stream`) events tell of progress; what
        fails before the first of them is an error as ever.
        """
        with ExitStack() as place:
            place.enter_context(service.admitted())
            async with read_ground(request, service.config) as asked:
                video = await _video(service, asked)

            async def answer(tell: Tell = lambda _: None) -> str:
                answers = await service.ground(video, asked.questions, asked.video, tell)
                model = {name: service.facts[name] for name in ("model", "digest")}
                head = {"video": asked.video, "id": video.id, **model}
                return await asyncio.to_thread(answers_json, head, answers)

            if asked.stream:
                return stream(answer, place.pop_all().close)
            return Response(await answer(), media_type="application/json")

    @app.post(
        "/v1/chat/completions",
        summary="The same in OpenAI's form: a `video_url` part and a `text` part",
        responses=described(400, 401, 403, 404, 408, 413, 422, 429, 502, 503),
        openapi_extra=_body(chat.ChatRequest.model_json_schema()),
        response_model=None,
    )
    async def complete(request: Request) -> dict[str, Any] | StreamingResponse:
        """The video: an id, an allowed URI or a `data:` URL. The answer's text: the span, then the boxes as JSON."""
        with service.admitted():
            return await chat.complete(request, service)

    @app.get("/v1/models", summary="The one model that is served, in OpenAI's form", responses=described(401))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [chat.model_card(service)]}

    @app.get("/v1/models/{name}", summary="The same, by its name", responses=described(401, 404))
    async def model(name: str) -> dict[str, Any]:
        chat.check_model(name, service)
        return chat.model_card(service)


def _add_files(app: FastAPI, service: Service) -> None:
    @app.get("/v1/videos/{video_id}", summary="What is known about a video", responses=described(401, 404))
    async def about(video_id: str) -> dict[str, Any]:
        return (await service.videos.get(video_id)).to_dict()

    @app.delete(
        "/v1/videos/{video_id}",
        summary="Remove a video, its answers and its drawings",
        status_code=204,
        responses=described(401, 404),
    )
    async def remove(video_id: str) -> None:
        """A file below the media root stays where it is."""
        await service.videos.remove(video_id)

    @app.get(
        "/v1/videos/{video_id}/file",
        summary="The video itself",
        response_class=FileResponse,
        responses=described(401, 404),
    )
    async def file(video_id: str) -> FileResponse:
        video = await service.videos.get(video_id)
        kind = mimetypes.guess_type(video.name)[0] or ""
        return await _media(video, Path(video.path), kind if kind.startswith("video/") else "video/mp4")

    @app.get(
        "/v1/videos/{video_id}/overlay",
        summary="An MP4 with the tubes drawn in",
        response_class=FileResponse,
        responses=described(400, 401, 404, 422, 429, 503),
    )
    async def overlay(video_id: str, question: Annotated[list[str] | None, Query()] = None) -> FileResponse:
        """Of the question asked last, or of those given: `?question=…&question=…`; new ones are asked."""
        with service.admitted():
            video = await service.videos.get(video_id)
            return await _media(video, await service.overlay(video, question or []), "video/mp4")


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Is the service up, and with which model?", responses=described(503))
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", **await service.health()}

    @app.get("/readyz", summary="May requests be sent here now?", responses=described(429, 503))
    async def readyz() -> dict[str, str]:
        service.check_room()
        await service.health()
        return {"status": "ready"}

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response, responses=described(401))
    async def prometheus() -> Response:
        text, kind = metrics.exposition()
        return Response(text, media_type=kind)


def _add_page(app: FastAPI, service: Service) -> None:
    """The page and its parts, read once: no request names a file."""
    parts = {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.is_file()}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}
        return Response(parts["index.html"], media_type="text/html", headers=headers)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(
            reference(app.openapi()), media_type="text/html", headers={"content-security-policy": PAGE_POLICY}
        )

    @app.get("/page/settings.json", include_in_schema=False)
    async def settings() -> dict[str, Any]:
        config = service.config
        return {
            "needs_key": bool(config.api_key.get_secret_value()),
            "names": bool(config.media_root or config.allowed_uris),
            "max_upload_mb": config.max_upload_mb,
            "max_question_chars": config.max_question_chars,
            "model": service.facts["model"],
            "digest": service.facts["digest"],
        }

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in parts:
            raise HTTPException(404)
        kind = mimetypes.guess_type(name)[0] or "text/javascript"
        return Response(parts[name], media_type=kind, headers={"cache-control": "no-cache"})


async def _video(service: Service, asked: Asked) -> Video:
    if asked.upload is not None:
        return await service.videos.receive(asked.upload.file, asked.video)
    return await service.videos.find(asked.video)


async def _media(video: Video, path: Path, kind: str) -> FileResponse:
    try:
        return await asyncio.to_thread(OpenFile, path, kind)
    except FileNotFoundError:
        raise gone(video.id) from None


def _body(json_schema: dict[str, Any], fields: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {"application/json": {"schema": json_schema}}
    if fields:
        form = {"type": "object", "required": list(fields), "properties": fields}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}
