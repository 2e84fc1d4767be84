"""Parts of one film, read in bundles: what neighbours share is decoded once, and one damaged place costs its own parts.

A film is probed once. Then whoever has its file, here or on another machine, reads any bundle of its parts by frame
numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spacevllm.frame_size import FrameSize, fit_size
from spacevllm.span import Span
from spacevllm.video.errors import VideoError
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames, lost_frames, part_indices

BUNDLE_BYTES, BUNDLE_PARTS = 128 << 20, 16  # of frames, at most, that are read together
ALL_BYTES = 1 << 30  # of all bundles that are read ahead of one that is looked at

ReadParts = Callable[[Sequence[Span]], Iterator[SampledFrames | VideoError]]
"""The frames of each part, in order, or why it has none; some are read ahead."""
Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # as ``find_frames``, of one file


class Part(NamedTuple):
    """indices: (T,) int64, non-decreasing frame numbers. shown: its borders as those of frames; None: all."""

    indices: np.ndarray
    shown: Span | None


class Pictures(NamedTuple):
    """What was read of a bundle.

    Attributes:
        indices: (F,) int64, increasing. frames: (F, H, W, 3) uint8.
        errors: place in the bundle → why that part was not read; the others' may still lack frames.
    """

    indices: np.ndarray
    frames: np.ndarray
    errors: Mapping[int, VideoError]


@dataclass(frozen=True)
class Bundle:
    """Parts that are read together; of one without a frame, why."""

    parts: tuple[Part | VideoError, ...]

    @property
    def wanted(self) -> np.ndarray:
        """(U,) int64, increasing: the frames of all parts."""
        indices = (part.indices for part in self.parts if isinstance(part, Part))
        return np.unique(np.concatenate([np.zeros(0, np.int64), *indices]))

    def read(self, find: Find) -> Pictures:
        """All at once or, where the decoder does not come through it, each part by itself."""
        try:
            return Pictures(*find(self.wanted), {})
        except VideoError as error:
            if len(self.parts) == 1:
                return Pictures(np.zeros(0, np.int64), np.zeros((0, 0, 0, 3), np.uint8), {0: error})
        alone = [Bundle((part,)).read(find) for part in self.parts]
        read = [pictures for pictures in alone if len(pictures.indices)] or alone[:1]
        indices, first = np.unique(np.concatenate([pictures.indices for pictures in read]), return_index=True)
        frames = np.concatenate([pictures.frames for pictures in read])[first]
        return Pictures(indices, frames, {n: p.errors[0] for n, p in enumerate(alone) if p.errors})

    def clips(self, info: VideoInfo, pictures: Pictures) -> Iterator[SampledFrames | VideoError]:
        for place, part in enumerate(self.parts):
            error = part if isinstance(part, VideoError) else pictures.errors.get(place)
            yield error or _clip(info, part, pictures)  # type: ignore[arg-type]  # it is a Part


def bundled(info: VideoInfo, parts: Sequence[Span], num_frames: int, size: FrameSize, readers: int = 1) -> list[Bundle]:
    """The parts in their order; as many together as memory allows, with as many bundles as ``readers`` read ahead, but
    work for every reader."""
    width, height = fit_size(size, info.width, info.height)
    most = min(BUNDLE_BYTES, ALL_BYTES // readers) // (num_frames * width * height * 3)
    count = max(1, min(most, BUNDLE_PARTS, -(-len(parts) // readers)))
    placed = [_placed(info, num_frames, part) for part in parts]
    return [Bundle(tuple(placed[i : i + count])) for i in range(0, len(placed), count)]


def read_bundles(
    info: VideoInfo, bundles: Iterable[Bundle], start: Callable[[Bundle], Callable[[], Pictures]], ahead: int
) -> Iterator[SampledFrames | VideoError]:
    """The clips of all bundles, in order.

    Args:
        start: begins to read a bundle; what it returns waits for it. ahead: bundles that are being read while the
            clips of one are looked at.
    """
    reading: deque[tuple[Bundle, Callable[[], Pictures]]] = deque()
    for bundle in bundles:
        reading.append((bundle, start(bundle)))
        if len(reading) > ahead:
            first, wait = reading.popleft()
            yield from first.clips(info, wait())
    for first, wait in reading:
        yield from first.clips(info, wait())


def parts_reader(info: VideoInfo, num_frames: int, size: FrameSize, find: Find) -> ReadParts:
    """Reads parts of a file that ``find`` reads, one bundle ahead."""

    def read(parts: Sequence[Span]) -> Iterator[SampledFrames | VideoError]:
        with ThreadPoolExecutor(1, "parts") as thread:
            bundles = bundled(info, parts, num_frames, size)
            yield from read_bundles(info, bundles, lambda bundle: thread.submit(bundle.read, find).result, ahead=1)

    return read


def _placed(info: VideoInfo, num_frames: int, part: Span) -> Part | VideoError:
    try:
        return Part(*part_indices(info, num_frames, part))
    except VideoError as error:
        return error


def _clip(info: VideoInfo, part: Part, pictures: Pictures) -> SampledFrames | VideoError:
    wanted = np.unique(part.indices)  # (U,)
    found = np.isin(wanted, pictures.indices)  # (U,)
    if not found.all():
        return lost_frames(info.path, wanted, found)
    frames = pictures.frames[np.searchsorted(pictures.indices, part.indices)]  # (T, H, W, 3)
    return SampledFrames(info, part.indices, info.times_s[part.indices], frames, part=part.shown)
