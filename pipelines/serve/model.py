"""The model as a deployment of its own: what arrives together is answered together, and read videos are remembered.

A batch holds so many frames. Questions about one video become one pass behind one prefill, whoever asked them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve

from pipelines.core.models import local_model
from pipelines.serve import metrics
from pipelines.serve.config import ServeConfig
from pipelines.serve.service import Ask
from spacevllm.answer import Answer
from spacevllm.frame_size import fit_size
from spacevllm.imports import no_garbage
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames

if TYPE_CHECKING:  # torch and transformers are the copies' affair: the process that starts them would wait for seconds
    from spacevllm.memories import RememberedClip
    from spacevllm.predictor import Predictor

log = logging.getLogger(__name__)


Answered = list[Answer] | str | None  # answers, or what went wrong; None: the video is not remembered


@serve.deployment
class GroundModel:
    """One copy of the model on one device."""

    def __init__(self, config: ServeConfig) -> None:
        with no_garbage():
            from spacevllm.memories import VideoMemories
            from spacevllm.predictor import Predictor

        memories = VideoMemories(config.memory_mb << 20, config.host_memory_mb << 20) if config.memory_mb else None
        self.predictor = Predictor.load(local_model(config.model), config.device, memories=memories)
        self.warm_up_s = warm_up(self.predictor)
        gc.collect()
        gc.freeze()  # what is here stays: looking through it for garbage would hold an answer up
        self.batch_frames = config.batch_frames
        self._batch.set_max_batch_size(config.batch_frames)  # type: ignore[attr-defined]
        self._batch.set_batch_wait_timeout_s(config.batch_wait_s)  # type: ignore[attr-defined]

    def facts(self) -> dict[str, Any]:
        """Which model it is, and what it sees."""
        predictor = self.predictor
        memories = asdict(predictor.memories.stats) if predictor.memories else None
        return {
            "model": predictor.model_id,
            "digest": predictor.digest,
            "num_frames": predictor.num_frames,
            "image_size": predictor.image_size,
            "warm_up_s": self.warm_up_s,
            "memories": memories,
        }

    async def ground(self, ask: Ask) -> list[Answer] | None:
        """One answer for each question; None when the frames are needed and were not sent.

        Raises:
            RuntimeError: the model failed on them.
        """
        answered: Answered = await self._batch((ask, min(ask.cost, self.batch_frames)))
        if isinstance(answered, str):
            raise RuntimeError(answered)
        return answered

    @serve.batch(batch_size_fn=lambda items: sum(cost for _, cost in items))
    async def _batch(self, items: list[tuple[Ask, int]]) -> list[Answered]:
        asks = [ask for ask, _ in items]
        with metrics.BATCH_SECONDS.time():
            answers = await asyncio.to_thread(answer_batch, self.predictor, asks)
        metrics.BATCH_REQUESTS.observe(len(asks))
        if memories := self.predictor.memories:
            metrics.MEMORY_BYTES.labels("device").set(memories.stats.bytes)
            metrics.MEMORY_BYTES.labels("host").set(memories.stats.host_bytes)
        return answers


def warm_up(predictor: Predictor) -> float:
    """Seconds of a first answer, about a black clip. A copy that cannot give one is never sent a request."""
    count, (width, height) = predictor.num_frames, fit_size(predictor.image_size, 1280, 720)
    numbers, times = np.arange(count), np.arange(count, dtype=np.float64)
    info = VideoInfo(
        path="black", width=width, height=height, fps=Fraction(1), num_frames=count, duration_s=float(count),
        first_pts_s=0.0, rotation=0, mirrored=False, keyframes=(0,), independent_gops=True, times_s=times, pts=numbers,
        time_base=Fraction(1), codec="", container="",
    )  # fmt: skip
    clip = SampledFrames(info, numbers, times, np.zeros((count, height, width, 3), np.uint8))
    started = time.perf_counter()
    predictor.ground(clip, ["what moves?"])
    return time.perf_counter() - started


def answer_batch(predictor: Predictor, asks: Sequence[Ask]) -> list[Answered]:
    """Answers in the order of ``asks``; those about one video share its prefill and one pass. Never raises."""
    videos: dict[str, list[int]] = {}
    for i, ask in enumerate(asks):
        videos.setdefault(ask.key, []).append(i)
    answers: list[Answered] = [None] * len(asks)
    frames = 0
    for key, rows in videos.items():
        sent = next((clip for i in rows if (clip := asks[i].clip) is not None), None)
        clip = _recall(predictor, key) or sent
        if clip is None:
            continue
        (metrics.VIDEOS_READ if clip is sent else metrics.VIDEOS_REMEMBERED).inc()
        frames += len(clip.frames) if clip is sent else 0
        asked, kept = [asks[i].questions for i in rows], key if asks[rows[0]].keep else ""
        for i, answer in zip(rows, _answer_video(predictor, clip, kept, asked), strict=True):
            answers[i] = answer
    metrics.BATCH_FRAMES.observe(frames)
    return answers


def _recall(predictor: Predictor, key: str) -> RememberedClip | None:
    try:
        return predictor.recall(key)
    except Exception:  # the device has no room for what comes back from host memory: the frames are asked for
        log.exception("%s could not be recalled", key)
        return None


def _answer_video(
    predictor: Predictor, clip: SampledFrames, key: str, questions: Sequence[Sequence[str]]
) -> list[Answered]:
    try:
        found = iter(predictor.ground(clip, [q for asked in questions for q in asked], key=key))
        return [[next(found) for _ in asked] for asked in questions]
    except Exception as error:
        if len(questions) > 1:  # one request's trouble is not that of the others
            return [_answer_video(predictor, clip, key, [asked])[0] for asked in questions]
        log.exception("the model failed on %s", key)
        return [f"{type(error).__name__}: the model failed on this request"]
