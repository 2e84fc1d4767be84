"""The wanted frames of a video, exactly those a decode from the start would give, at the least cost.

Two passes. The fast one seeks to keyframes and leaves out frames nobody needs; whatever it does not find goes to the
careful one, a plain decode from the first packet. Frames are matched by time stamp, so a seek that lands elsewhere
costs time, never a wrong frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from spacevllm.frame_size import FrameSize, fit_size
from spacevllm.span import Span
from spacevllm.video.errors import EmptySegment, UndecodableFrames
from spacevllm.video.files import is_handed_over, open_bytes
from spacevllm.video.image import is_image, read_image
from spacevllm.video.limits import UNLIMITED, Limits
from spacevllm.video.packets import decode_packet, packets_from
from spacevllm.video.probe import VideoInfo, check_file, open_video, scan
from spacevllm.video.sampling import uniform_indices

Backend = Literal["pyav", "decord"]
_Read = Callable[[list[int]], Iterator[tuple[int, np.ndarray]]]

_KEYFRAME_BYTES = 40  # an int and its place in a tuple
_HELD_FRAMES = 8  # of a decoder, at once
SEEK_GAIN = 4  # frames; a seek throws away what the decoder holds back for reordering, so it has to save more
_DECORD_CONTAINERS = ("mp4", "matroska")  # decord 0.6 gives other frames for MPEG-TS and no times for AVI


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """Frames as a model sees them.

    Attributes:
        info: of the whole video.
        indices: (T,) int64, non-decreasing frame numbers.
        times_s: (T,) float64, seconds from the video's first frame.
        frames: (T, H, W, 3) uint8 RGB, upright.
        part: of the video, in its seconds, that was sampled from, its borders those of frames; None: all of it.
    """

    info: VideoInfo
    indices: np.ndarray
    times_s: np.ndarray
    frames: np.ndarray
    part: Span | None = field(default=None, kw_only=True)

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes: besides the frames the times and keyframes of all the video."""
        info = self.info
        arrays = (self.indices, self.times_s, self.frames, info.times_s, info.pts)
        return sum(array.nbytes for array in arrays) + _KEYFRAME_BYTES * len(info.keyframes)


def shown_part(clip: SampledFrames) -> Span:
    """What of the video the clip shows; its begin is second 0 in prompts and answers."""
    return clip.part or Span(0.0, clip.info.duration_s)


def shown_s(info: VideoInfo, part: Span | None) -> float:
    """Seconds of a part, None: of the video."""
    return info.duration_s if part is None else part.end_s - part.begin_s


def sample_frames(
    path: str | Path,
    num_frames: int,
    backend: Backend = "pyav",
    segment: tuple[int, int] | None = None,
    max_pixels: int | None = None,
    max_frames: int | None = None,
    part: Span | None = None,
    size: FrameSize | None = None,
    info: VideoInfo | None = None,
    max_duration_s: float | None = None,
    most_s: float = math.inf,
) -> SampledFrames:
    """``num_frames`` uniform frames of a local video; a PNG or JPEG gives its one picture (T == 1).

    Args:
        segment: frames ``[begin, end)`` to sample from (the end is cut to the video's); None: all.
        max_pixels: largest width × height accepted, of each frame. max_frames, max_duration_s: longest video accepted.
        part: the same in seconds (the end is cut to the video's); what is shown at its begin belongs to it.
        size: that frames are resized to, and no more than one is held as it was; None: they come as they are.
        info: of this very file, if it was probed before: its packets are not read again.
        most_s: what is to be sampled from and is longer is not decoded: T == 0. Films are asked for part by part.

    Raises:
        VideoError: a subclass that names the reason; see ``spacevllm.video.errors``.
    """
    path, limits = str(path), Limits(max_pixels, max_frames, max_duration_s)
    check_file(path)
    if is_image(path):
        info, picture = read_image(path, limits)
        return SampledFrames(info, np.zeros(1, np.int64), info.times_s, _resized(picture, size))
    with open_video(path, limits) as (container, stream):
        info = info or scan(path, container, stream, limits)
        begin, end = _segment(info, segment, part)
        shown = _seconds(info, begin, end)
        indices = begin + uniform_indices(end - begin, num_frames)  # (T,)
        if shown_s(info, shown) > most_s:
            indices = indices[:0]
        if _checked(backend) == "pyav":
            frames = _gather(
                info, indices, lambda wanted: _read_pyav(container, stream, info, wanted, limits, size), size
            )
    if backend == "decord":
        frames = _gather(info, indices, lambda wanted: _read_decord(info, wanted, size), size)
    return SampledFrames(info, indices, info.times_s[indices], frames, part=shown)


def part_indices(info: VideoInfo, num_frames: int, part: Span) -> tuple[np.ndarray, Span | None]:
    """(T,) int64 frames that ``sample_frames`` takes of a part, and its borders as those of frames.

    Raises:
        EmptySegment: the part holds no frame.
    """
    begin, end = _segment(info, None, part)
    return begin + uniform_indices(end - begin, num_frames), _seconds(info, begin, end)


def find_frames(
    path: str | Path,
    info: VideoInfo,
    indices: np.ndarray,
    size: FrameSize,
    backend: Backend = "pyav",
    max_pixels: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the frames that come out of the decoder; the others are damaged.

    Args:
        path: of the very file that ``info`` is about. indices: (U,) int64, increasing.

    Returns:
        (F,) int64, those that were found, and (F, H, W, 3) uint8 RGB of that size, upright.

    Raises:
        VideoError: the file is gone, or a frame is larger than allowed.
    """
    path, limits = str(path), Limits(max_pixels)
    check_file(path)
    info = replace(info, path=path)
    if _checked(backend) == "decord":
        frames, found = _collect(info, indices, lambda wanted: _read_decord(info, wanted, size), size)
    else:
        with open_video(path, limits) as (container, stream):
            read = partial(_read_pyav, container, stream, info, limits=limits, size=size)
            frames, found = _collect(info, indices, read, size)
    return indices[found], frames[found]


def read_frames(info: VideoInfo, indices: Sequence[int] | np.ndarray, backend: Backend = "pyav") -> np.ndarray:
    """Frames ``indices`` (any order, repeats allowed) of a probed video: (T, H, W, 3) uint8 RGB, upright.

    Raises:
        IndexError: an index outside ``[0, info.num_frames)``.
        UndecodableFrames: a frame does not come out of the decoder.
    """
    indices = np.asarray(indices, dtype=np.int64)  # (T,)
    outside = indices[(indices < 0) | (indices >= info.num_frames)]
    if len(outside):
        raise IndexError(f"{info.path}: no frame {outside[0]}, it has frames 0 to {info.num_frames - 1}")
    if info.container == "image":
        return read_image(info.path, UNLIMITED)[1][indices]
    if _checked(backend) == "decord":
        return _gather(info, indices, lambda wanted: _read_decord(info, wanted))
    with open_video(info.path) as (container, stream):
        return _gather(info, indices, lambda wanted: _read_pyav(container, stream, info, wanted))


def plan_runs(wanted: Sequence[int], keyframes: Sequence[int]) -> list[tuple[int | None, list[int]]]:
    """Splits increasing ``wanted`` frames into runs: seek to a keyframe (None: to the start), then decode on.

    A new run begins only where its keyframe lies more than ``SEEK_GAIN`` frames after the last wanted frame.
    """
    runs: list[tuple[int | None, list[int]]] = []
    before = np.searchsorted(np.asarray(keyframes, dtype=np.int64), wanted, side="right") - 1  # (T,)
    for frame, k in zip(wanted, before.tolist(), strict=True):
        start = int(keyframes[k]) if k > 0 else None
        if not runs or (start is not None and start - runs[-1][1][-1] > SEEK_GAIN):
            runs.append((start, []))
        runs[-1][1].append(frame)
    return runs


def _checked(backend: str) -> str:
    if backend not in get_args(Backend):
        raise ValueError(f"backend {backend!r} is none of {', '.join(get_args(Backend))}")
    return backend


def _segment(info: VideoInfo, segment: tuple[int, int] | None, part: Span | None) -> tuple[int, int]:
    """Frames ``[begin, end)``."""
    if part is not None:
        if part.begin_s >= min(part.end_s, info.duration_s):
            what = f"{part.begin_s:g} s to {part.end_s:g} s"
            raise EmptySegment(f"{info.path}: {what} holds none of its {info.duration_s:g} s")
        begin = int(np.searchsorted(info.times_s, part.begin_s, side="right")) - 1
        return begin, max(int(np.searchsorted(info.times_s, part.end_s, side="left")), begin + 1)
    begin, end = segment or (0, info.num_frames)
    end = min(end, info.num_frames)
    if not 0 <= begin < end:
        raise EmptySegment(f"{info.path}: segment {segment} holds none of its {info.num_frames} frames")
    return begin, end


def _seconds(info: VideoInfo, begin: int, end: int) -> Span | None:
    if (begin, end) == (0, info.num_frames):
        return None
    return Span(float(info.times_s[begin]), float(info.times_s[end]) if end < info.num_frames else info.duration_s)


def _gather(info: VideoInfo, indices: np.ndarray, read: _Read, size: FrameSize | None = None) -> np.ndarray:
    """(T, H, W, 3) from ``read(wanted)``, which yields (frame number, upright picture) in any order."""
    wanted, place = np.unique(indices, return_inverse=True)  # (U,), (T,)
    frames, found = _collect(info, wanted, read, size)
    if not found.all():
        raise lost_frames(info.path, wanted, found)
    return frames if len(wanted) == len(indices) and (wanted == indices).all() else frames[place]


def lost_frames(path: str, wanted: np.ndarray, found: np.ndarray) -> UndecodableFrames:
    """wanted: (U,) frame numbers, increasing. found: (U,) bool."""
    lost = int(wanted[~found][0])
    return UndecodableFrames(
        f"{path}: decoded {found.sum()} of {len(wanted)} wanted frames, the first lost is frame {lost}"
    )


def _collect(info: VideoInfo, wanted: np.ndarray, read: _Read, size: FrameSize | None) -> tuple[np.ndarray, np.ndarray]:
    """(U, H, W, 3) of increasing ``wanted`` (U,), and (U,) bool which of them came."""
    width, height = _fitted(info, size)
    frames, found = np.empty((len(wanted), height, width, 3), np.uint8), np.zeros(len(wanted), bool)
    if not len(wanted):
        return frames, found
    rows = {frame: row for row, frame in enumerate(wanted.tolist())}
    for frame, picture in read(wanted.tolist()):
        frames[rows[frame]] = picture
        found[rows[frame]] = True
    if not found.all():
        _need_memory(info)
    return frames, found


def _need_memory(info: VideoInfo) -> None:
    """Raises MemoryError where frames may have been lost for want of it: decoders take that for damage, and do not say
    so. What they hold is still held."""
    np.empty(_HELD_FRAMES * info.width * info.height * 2, np.uint8)  # at most 2 bytes a pixel, as a rule


def _fitted(info: VideoInfo, size: FrameSize | None) -> tuple[int, int]:
    return fit_size(size, info.width, info.height) if size else (info.width, info.height)


def _resized(frames: np.ndarray, size: FrameSize | None) -> np.ndarray:
    if not size:
        return frames
    from spacevllm.video.resize import resize_frames  # Pillow, which decoding alone does not need

    return resize_frames(frames, size)


def _read_pyav(
    container: InputContainer,
    stream: VideoStream,
    info: VideoInfo,
    wanted: list[int],
    limits: Limits = UNLIMITED,
    size: FrameSize | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    number = {pts: i for i, pts in enumerate(info.pts.tolist())}
    missing = set(wanted)
    reformatter = VideoReformatter()  # one for all frames: setting it up costs more than using it
    careful = [(None, wanted)]
    for runs in (plan_runs(wanted, info.keyframes), careful):
        for start, run in runs:
            targets = {int(info.pts[i]) for i in missing.intersection(run)}
            position = None if start is None else int(info.pts[start])
            for frame in _decode_run(container, stream, position, targets, runs is not careful, info.path, limits):
                limits.check_pixels(info.path, frame.width, frame.height)
                i = number[frame.pts]
                missing.discard(i)
                yield i, _upright(_rgb(reformatter, frame, info, size), info)


def _decode_run(
    container: InputContainer,
    stream: VideoStream,
    position: int | None,
    targets: set[int],
    fast: bool,
    path: str,
    limits: Limits,
) -> Iterator[av.VideoFrame]:
    """Seeks, then yields the frames whose pts are in ``targets``; the fast pass gives up when it is past the last.

    A file so damaged that nothing can be read on ends the run, too. A target that is too large raises TooLarge.
    """
    if not targets:
        return
    context, last = stream.codec_context, max(targets)
    skip = fast and context.name == "h264"  # frames marked there as no reference influence no other frame
    for packet in packets_from(container, stream, position):
        context.skip_frame = "NONREF" if skip and packet.size and packet.pts not in targets else "DEFAULT"
        frames = decode_packet(packet)
        if not frames and packet.pts in targets:
            limits.check_refused(path, context.width, context.height)
        for frame in frames:
            # right after a seek, frames may refer to what came before it; from the start, the decoder knows best
            if frame.pts in targets and not (fast and frame.is_corrupt):
                targets.discard(frame.pts)
                yield frame
            if not targets or (fast and frame.pts is not None and frame.pts >= last):
                return


def _rgb(reformatter: VideoReformatter, frame: av.VideoFrame, info: VideoInfo, size: FrameSize | None) -> np.ndarray:
    """Converted and resized in one step, a quarter of what two take; a stream may change its own size half-way."""
    width, height = _fitted(info, size)
    if info.rotation in (90, 270):
        width, height = height, width
    how = "BICUBIC" if size else None  # antialiased
    made = reformatter.reformat(frame, width=width, height=height, format="rgb24", interpolation=how, threads=1)
    return made.to_ndarray()


def _upright(picture: np.ndarray, info: VideoInfo) -> np.ndarray:
    if info.mirrored:
        picture = picture[:, ::-1]
    return np.rot90(picture, -info.rotation // 90) if info.rotation else picture


def _read_decord(info: VideoInfo, wanted: list[int], size: FrameSize | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """decord turns frames itself, but knows no flip; its seeks are right only where GOPs are independent.

    Its FFmpeg is old: pixels are equal for progressive H.264, HEVC and VP9, but differ by one or two levels for MPEG-4
    part 2 (another inverse transform) and along coloured edges of interlaced video (chroma interpolated by field).
    """
    import decord  # optional, and slow to load

    if info.mirrored or not any(name in info.container for name in _DECORD_CONTAINERS):
        what = "mirrored video" if info.mirrored else info.container
        raise UndecodableFrames(f"{info.path}: decord does not read {what} exactly; use the backend pyav")
    try:
        source = open_bytes(info.path) if is_handed_over(info.path) else info.path  # read whole, into memory
        reader = decord.VideoReader(source, num_threads=1)
        if not info.independent_gops:
            targets = set(wanted)
            for i in range(wanted[-1] + 1):
                frame = reader.next()
                if i in targets:
                    yield i, _resized(frame.asnumpy()[None], size)[0]
        elif len(reader) == info.num_frames:
            pictures = reader.get_batch(wanted).asnumpy()  # (U, H, W, 3)
            yield from zip(wanted, _resized(pictures, size), strict=True)
        else:
            raise UndecodableFrames(f"{info.path}: decord counts {len(reader)} of {info.num_frames} frames")
    except decord.DECORDError as error:
        raise UndecodableFrames(f"{info.path}: decord: {str(error).strip().splitlines()[-1]}") from None
