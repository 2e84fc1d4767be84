"""One Ray Serve deployment behind FastAPI: a video and questions come in, tubes go out.

Decoding happens in a process that can be killed, so a hostile file costs its own request and nothing else. A video that
is remembered from an earlier request, an upload by the hash of its bytes, is neither decoded nor read again. The model
answers one request at a time; what waits in line is bounded by ``max_ongoing_requests`` and ``max_queued_requests``.
"""

# No `from __future__ import annotations`: the routes are rebuilt in Serve's replica, where names in quotes are lost.

import asyncio
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from ray import serve

from pipelines.serve.config import ServeConfig
from pipelines.serve.problems import SCHEMA as PROBLEM_SCHEMA
from pipelines.serve.problems import Problem, install_handlers
from pipelines.serve.requests import GroundRequest, Query, local_file, read_query, video_key
from spacevllm.memories import VideoMemories
from spacevllm.predictor import Predictor
from spacevllm.video.errors import VideoError
from spacevllm.video.guard import GuardedSampler
from spacevllm.video.reader import SampledFrames

log = logging.getLogger(__name__)

FORM_SCHEMA = {
    "type": "object",
    "required": ["file", "question"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "the video"},
        "question": {"type": "array", "items": {"type": "string"}, "description": "one field for each question"},
    },
}


app = FastAPI(
    title="SpaceVLLM",
    description="Ask a video *when* and *where*. Every error is an RFC 9457 problem document with a stable `reason`.",
    version="1",
)
install_handlers(app)


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": PROBLEM_SCHEMA}}
    return {code: {"description": "problem document", "content": content} for code in codes}


BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": FORM_SCHEMA},
        "application/json": {"schema": GroundRequest.model_json_schema()},
    },
}


@serve.deployment
@serve.ingress(app)
class GroundService:
    """``POST /v1/ground`` and ``GET /healthz`` over one predictor."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        memories = VideoMemories(config.memory_mb << 20, config.host_memory_mb << 20) if config.memory_mb else None
        self.predictor = Predictor.load(config.model, config.device, memories=memories)
        self.sampler = GuardedSampler(config.decode_timeout_s, config.decode_memory_mb)
        self.decoding, self.answering = asyncio.Lock(), asyncio.Lock()

    @app.get("/healthz", summary="Is the model loaded, and which one?")
    async def healthz(self) -> dict[str, Any]:
        predictor = self.predictor
        memories = asdict(predictor.memories.stats) if predictor.memories else None
        return {"status": "ok", "model": predictor.model_id, "digest": predictor.digest, "memories": memories}

    @app.post(
        "/v1/ground",
        summary="Where and when is what the questions ask for?",
        responses=_problems(400, 403, 404, 413, 415, 422),
        openapi_extra={"requestBody": BODY},
    )
    async def ground(self, request: Request) -> dict[str, Any]:
        """One tube for each question: its span in seconds and frames, and a box on every frame of the span.

        Boxes are `[frame, x1, y1, x2, y2]` in pixels of the upright picture; frames count from 0 and `end_frame` is
        the first one after the span.
        """
        query = await read_query(request, self.config.max_upload_mb * 2**20, self.config.max_questions)
        async with self.decoding:
            clip, key = await asyncio.to_thread(self._open, query)
        async with self.answering:
            tubes = await asyncio.to_thread(self.predictor.ground, clip, query.questions, key=key)
        return {
            "video": query.video,
            "model": self.predictor.model_id,
            "digest": self.predictor.digest,
            "tubes": [{**tube.to_dict(), "video": query.video} for tube in tubes],
        }

    def _open(self, query: Query) -> tuple[SampledFrames, str]:
        """The frames, or what is remembered of a video of the same bytes; and the key of these bytes."""
        with local_file(query, self.config.media_root) as path:
            key = video_key(query, path, self.config.media_root) if self.predictor.memories else ""
            return self.predictor.recall(key) or self._decode(path, query), key

    def _decode(self, path: Path, query: Query) -> SampledFrames:
        config = self.config
        try:
            frames = self.sampler.sample(
                path, self.predictor.num_frames, max_pixels=config.max_pixels, max_frames=config.max_frames
            )
        except VideoError as error:
            detail = str(error).replace(str(path), query.video)
            log.warning("%s: %s", error.reason, detail)
            raise Problem(422, error.reason, detail) from None
        if frames.info.duration_s == 0:
            raise Problem(422, "still_image", f"{query.video} is a picture: it has no time to ask about")
        return frames
