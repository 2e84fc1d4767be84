"""From what a client sent or named to a video with its frames. Decoding and drawing happen in processes that can be
killed, so a hostile file costs its own request and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from pipelines.core import storage
from pipelines.serve import sources
from pipelines.serve.children import Children
from pipelines.serve.config import ServeConfig
from pipelines.serve.kept_frames import KeptFrames
from pipelines.serve.metrics import DECODE_SECONDS
from pipelines.serve.problems import Problem
from pipelines.serve.store import CONTENT, ID, Video, VideoStore, address_id, content_id, missing, save_upload
from spacevllm.answer import Answer
from spacevllm.drawing.overlay import draw_overlay
from spacevllm.frame_size import FrameSize
from spacevllm.span import Span
from spacevllm.video.errors import MissingVideo, VideoError
from spacevllm.video.guard import GuardedSampler
from spacevllm.video.limits import Limits
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames
from spacevllm.windows import is_film

log = logging.getLogger(__name__)


class Videos:
    """Every video the server may be asked about, and the frames of those not asked yet.

    Args:
        folder: of the store. num_frames, image_size: what the model sees.
    """

    def __init__(self, config: ServeConfig, folder: str, num_frames: int, image_size: FrameSize) -> None:
        self.config = config
        self.num_frames, self.image_size = num_frames, image_size
        self.store = VideoStore(folder, config.store_mb << 20)
        self._frames = KeptFrames(config.frames_mb << 20)
        self._canvas = tempfile.TemporaryDirectory(prefix="spacevllm-draw-", ignore_cleanup_errors=True)
        self._decoders = Children("decode", config.decoders, self._decoder)
        self._drawers = Children("draw", 1, self._drawer)

    async def receive(self, upload: IO[bytes], name: str) -> Video:
        """A video that was sent. Raises Problem: 422 if it cannot be decoded."""

        async def save(path: Path) -> None:
            await asyncio.to_thread(save_upload, upload, path)

        return await self._take_in(save, name)

    async def find(self, named: str) -> Video:
        """A video by its id, path or URI.

        Raises:
            Problem: 403, 404 it may not be named, or is not there; 422 it cannot be decoded; see ``sources.fetch``.
        """
        if ID.fullmatch(named):
            return await self.get(named)
        uri = sources.resolve(named, self.config.media_root, self.config.allowed_uris)
        if "://" not in uri:
            return await self._find_local(uri, named)

        async def save(path: Path) -> None:
            with path.open("wb") as file:
                await sources.fetch(uri, file, self.config)

        return await self._take_in(save, named)

    async def get(self, video_id: str) -> Video:
        """A video by its id alone. Raises Problem: 404."""
        video = await asyncio.to_thread(self.store.get, video_id)
        if video is None or (video.version and not self._may_be_named(video.path)):
            raise gone(video_id)
        return video

    def _may_be_named(self, path: str) -> bool:
        """A store may outlive the media root of the server that filled it."""
        try:
            return sources.resolve(path, self.config.media_root, self.config.allowed_uris) == path
        except Problem:
            return False

    async def remove(self, video_id: str) -> None:
        """Forgets a video, its answers and its drawings; a file below the media root stays. Raises Problem: 404."""
        video = await self.get(video_id)
        self._frames.drop(video.id)
        await asyncio.to_thread(self.store.remove, video.id)

    async def frames(self, video: Video) -> SampledFrames:
        """What the model sees of it. Raises Problem: 422 if it cannot be decoded (any more)."""
        clip = self._frames.get(video.id)
        if clip is None:
            clip = await self._decode(video.path, video)
            self._frames.put(video.id, clip)
        return clip

    def reader(self, video: Video) -> Callable[[Span], Coroutine[Any, Any, SampledFrames]]:
        """Reads parts of a film, as the model sees them; what it gives raises VideoError."""
        info: VideoInfo | None = None

        async def read(part: Span) -> SampledFrames:
            nonlocal info
            clip = await self._sample(video.path, part, info)
            info = clip.info  # its packets are listed once
            return clip

        return read

    async def draw(self, video: Video, answers: Sequence[str]) -> Path:
        """An MP4 of the video with these answers (JSON) drawn in; drawn once. Raises Problem: 422."""
        key = hashlib.sha256("\0".join(answers).encode()).hexdigest()[:16]
        if path := await asyncio.to_thread(self.store.drawing, video, key):
            return path
        try:
            path = await self._drawers.run(partial(self._draw, video, answers, key))
        except VideoError as error:
            raise refusal(error, video) from None
        except FileNotFoundError:
            raise gone(video.id) from None
        await self._make_room(video)
        return path

    def close(self) -> None:
        self._decoders.close()
        self._drawers.close()
        self._canvas.cleanup()

    def _decoder(self) -> GuardedSampler:
        config = self.config
        limits = Limits(config.max_pixels, config.max_frames, config.max_duration_s)
        per_frame = config.decode_timeout_per_frame_s
        return GuardedSampler(
            config.decode_timeout_s, config.decode_memory_mb, timeout_per_frame_s=per_frame, limits=limits
        )

    def _drawer(self) -> GuardedSampler:
        """It sees no video but the one it draws, and writes nowhere but here: not into the store."""
        return GuardedSampler(self.config.draw_timeout_s, self.config.decode_memory_mb, writes_to=self._canvas.name)

    async def _find_local(self, path: str, named: str) -> Video:
        try:
            version = await asyncio.to_thread(storage.version, path)
        except OSError:  # a name that is too long, a folder that may not be read
            version = ""
        if not version or os.path.isdir(path):
            raise missing(named)
        video_id = address_id(path, version)
        return self.store.get(video_id) or await self._admit(video_id, named, path, version)

    async def _take_in(self, save: Callable[[Path], Any], name: str) -> Video:
        with self.store.incoming() as folder:
            await save(folder / CONTENT)
            video_id = await asyncio.to_thread(content_id, folder / CONTENT)
            known = self.store.get(video_id)
            return known or await self._admit(video_id, name, str(folder / CONTENT), "", folder)

    async def _admit(self, video_id: str, name: str, path: str, version: str, folder: Path | None = None) -> Video:
        """Decodes it; what cannot be decoded never enters the store."""
        video = Video(video_id, name, path, version, {})
        clip = await self._decode(path, video)
        video = Video(video_id, name, path, version, _facts(clip.info))
        if not is_film(clip.info.duration_s, self.num_frames):  # films are read window by window
            self._frames.put(video_id, clip)
        if folder is not None:
            added = await asyncio.to_thread(self.store.add, folder, video)
        else:
            with self.store.incoming() as empty:
                added = await asyncio.to_thread(self.store.add, empty, video)
        await self._make_room(added)
        return added

    async def _make_room(self, video: Video) -> None:
        for removed in await asyncio.to_thread(self.store.trim, video.id):
            self._frames.drop(removed)

    async def _decode(self, path: str, video: Video) -> SampledFrames:
        try:
            clip = await self._sample(path)
        except VideoError as error:
            raise refusal(error, video) from None
        if clip.info.duration_s == 0:
            raise Problem(422, "still_image", f"{video.name} is a picture: it has no time to ask about")
        return clip

    async def _sample(self, path: str, part: Span | None = None, info: VideoInfo | None = None) -> SampledFrames:
        def sample(child: GuardedSampler) -> SampledFrames:
            with DECODE_SECONDS.time():
                return child.sample(path, self.num_frames, part=part, size=self.image_size, info=info)

        return await self._decoders.run(sample)

    def _draw(self, video: Video, answers: Sequence[str], key: str, child: GuardedSampler) -> Path:
        if path := self.store.drawing(video, key):  # somebody else had it drawn while this waited
            return path
        found = [Answer.from_dict(json.loads(answer)) for answer in answers]
        canvas = tempfile.TemporaryDirectory(dir=self._canvas.name, ignore_cleanup_errors=True)
        with canvas as wet, self.store.incoming() as folder:  # a child that is killed leaves a part of it
            drawn = Path(wet, "overlay.mp4")
            child.run(draw_overlay, video.path, found, str(drawn), max_pixels=self.config.max_pixels)
            return self.store.add_drawing(video, key, Path(shutil.move(drawn, folder)))


def gone(video_id: str) -> Problem:
    return Problem(404, "unknown_video", f"{video_id[:60]}: not here, or not any more; send it again")


def refusal(error: VideoError, video: Video) -> Problem:
    """Why ``video`` cannot be used, under the name that the client knows."""
    if isinstance(error, MissingVideo):  # it was there when it was asked about
        return gone(video.id)
    detail = str(error).replace(video.path, video.name)
    log.warning("%s: %s", error.reason, detail)
    return Problem(422, error.reason, detail)


def _facts(info: VideoInfo) -> dict[str, Any]:
    """``times_s``, when each frame begins, is there only where ``fps`` does not tell; ``start_s`` only where the first
    frame is not at the begin of the file's own clock, by which browsers go."""
    names = ("width", "height", "num_frames", "duration_s", "codec", "container")
    facts = {name: getattr(info, name) for name in names} | {"fps": float(info.fps)}
    uneven = info.uneven_times(0, info.num_frames)
    facts |= {"start_s": round(info.first_pts_s, 4)} if info.first_pts_s > 0 else {}
    return facts | ({"times_s": uneven.round(4).tolist()} if len(uneven) else {})
