"""What the ingress does, apart from HTTP: admits requests, finds videos, asks the model, remembers the answers."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from pipelines.serve import metrics
from pipelines.serve.answers import Written
from pipelines.serve.config import ServeConfig
from pipelines.serve.films import FilmWalks, Tell
from pipelines.serve.problems import Problem
from pipelines.serve.requests import check_questions
from pipelines.serve.store import Video
from pipelines.serve.videos import Videos, refusal
from spacevllm.answer import Answer
from spacevllm.span import Span
from spacevllm.video.errors import VideoError
from spacevllm.video.reader import SampledFrames, shown_part
from spacevllm.windows import is_film

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 10.0
BUSY = Problem(429, "busy", "too many requests are waiting: try again in a moment", {"retry-after": "1"})
NOT_THERE = Problem(503, "not_ready", "the model is not there: try again in a moment", {"retry-after": "1"})
_KNOWN = 10_000  # videos that the model may remember: names only


@dataclass(frozen=True)
class Ask:
    """Questions about one video.

    Attributes:
        key: names its bytes. clip: its frames; None where the model may remember them.
        keep: whether it is worth remembering; a film's windows would push out everything else.
    """

    key: str
    questions: Sequence[str]
    clip: SampledFrames | None = None
    keep: bool = True

    @property
    def cost(self) -> int:
        """Frames to read, at least 1."""
        return len(self.clip.frames) if self.clip is not None else 1


class Service:
    """One copy of the ingress.

    Args:
        model: handle of ``GroundModel``. folder: for the videos.
    """

    def __init__(self, config: ServeConfig, model: DeploymentHandle[Any], folder: str) -> None:
        self.config = config
        self.model = model
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self._in_work = 0
        self._read: OrderedDict[str, None] = OrderedDict()
        self._walks = FilmWalks(config.max_requests)

    async def start(self) -> None:
        """Waits for the model."""
        self.facts = await self.model.facts.remote()
        self.videos = Videos(self.config, self.folder, self.facts["num_frames"], self.facts["image_size"])

    def close(self) -> None:
        self._walks.close()
        self.videos.close()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request as in work. Raises Problem: 429 when there are too many already."""
        self.check_room()
        self._in_work += 1
        metrics.IN_WORK.inc()
        try:
            yield
        finally:
            self._in_work -= 1
            metrics.IN_WORK.dec()

    def check_room(self) -> None:
        """Raises Problem: 429 when a request would not be admitted now."""
        if self._in_work >= self.config.max_requests:
            raise BUSY

    async def health(self) -> dict[str, Any]:
        """Facts of the model as they are now. Raises Problem: 503 when it does not answer."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                facts: dict[str, Any] = await self.model.facts.remote()
        except Exception as error:
            raise Problem(503, "not_ready", f"the model does not answer ({type(error).__name__})") from None
        return facts

    async def ground(
        self, video: Video, questions: Sequence[str], name: str = "", tell: Tell = lambda _: None
    ) -> list[Written]:
        """One answer for each question; what was asked before is asked anew.

        Args:
            name: what the tubes call the video; default: its name.
            tell: called after each window of a film, from another thread.

        Raises:
            Problem: 422 the answers may have more boxes than ``max_boxes``; 429, 503 see ``admitted``.
        """
        self._check_boxes(video, questions)
        walk = is_film(video.facts["duration_s"], self.facts["num_frames"])
        found = await (self._ground_film(video, questions, tell) if walk else self._ground_at_once(video, questions))
        return await asyncio.to_thread(self._written, video, found, name or video.name)

    async def overlay(self, video: Video, questions: Sequence[str]) -> Path:
        """An MP4 with the tubes of these questions, or of the last one asked. Raises Problem: 404 when none was."""
        asked = self.videos.store.asked
        if not questions:
            last = await asyncio.to_thread(asked, video)
            if last is None:
                raise Problem(404, "nothing_asked", f"{video.name}: nothing was asked about it yet; give a `question`")
            return await self.videos.draw(video, [last])
        check_questions(questions, self.config)
        self._check_boxes(video, questions)
        known = {question: await asyncio.to_thread(asked, video, question) for question in dict.fromkeys(questions)}
        new = [question for question, answer in known.items() if answer is None]
        if new:
            known |= {one.answer.question: one.text for one in await self.ground(video, new)}
        return await self.videos.draw(video, [known[question] or "" for question in questions])

    def _check_boxes(self, video: Video, questions: Sequence[str]) -> None:
        frames, most = video.facts["num_frames"], self.config.max_boxes
        if len(questions) * frames > most:
            asked = f"{len(questions)} questions about {frames} frames may be answered with more than {most} boxes"
            raise Problem(422, "too_many_boxes", f"{video.name}: {asked}; ask fewer at once")

    def _written(self, video: Video, answers: Sequence[Answer], name: str) -> list[Written]:
        written = [Written.of(answer.of_video(name)) for answer in answers]
        for one in written:
            self.videos.store.remember(video, one.answer.question, one.text)
        return written

    async def _ground_at_once(self, video: Video, questions: Sequence[str]) -> list[Answer]:
        tubes = None
        if video.id in self._read:  # its frames need not travel
            tubes = await self._ask(Ask(video.id, questions))
        if tubes is None:
            tubes = await self._ask(Ask(video.id, questions, await self.videos.frames(video)))
        self._note(video.id)
        return _answered(tubes)

    async def _ground_film(self, video: Video, questions: Sequence[str], tell: Tell) -> list[Answer]:
        async def ask(clip: SampledFrames, asked: Sequence[str]) -> list[Answer]:
            part = shown_part(clip)  # what several ask of the same part shares a pass
            key = f"{video.id}@{part.begin_s:.3f}-{part.end_s:.3f}"
            return _answered(await self._ask(Ask(key, asked, clip, keep=False)))

        whole, num_frames = Span(0.0, video.facts["duration_s"]), self.facts["num_frames"]
        try:
            return await self._walks.ground(self.videos.reader(video), ask, whole, num_frames, questions, tell)
        except VideoError as error:
            raise refusal(error, video) from None

    async def _ask(self, ask: Ask) -> list[Answer] | None:
        try:
            tubes: list[Answer] | None = await self.model.options(session_id=ask.key).ground.remote(ask)
        except BackPressureError:
            raise BUSY from None
        except (DeploymentUnavailableError, RayActorError) as error:  # the second: its copy died while it answered
            log.warning("the model is not there: %s", error)
            raise NOT_THERE from None
        return tubes

    def _note(self, video_id: str) -> None:
        self._read[video_id] = None
        self._read.move_to_end(video_id)
        while len(self._read) > _KNOWN:
            self._read.popitem(last=False)


def _answered(tubes: list[Answer] | None) -> list[Answer]:
    if tubes is None:
        raise Problem(500, "internal_error", "the model took the frames and did not answer")
    return tubes
