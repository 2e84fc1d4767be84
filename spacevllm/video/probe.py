"""What a video is, without decoding it: every packet is read, one frame is decoded (it knows the rotation).

Frames are identified by their presentation time stamp (pts) alone: `frame_count / fps` is wrong for late starts,
variable rates and edit lists, a pts is not.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from spacevllm.video.errors import (
    EmptyFile,
    MissingVideo,
    NotAVideo,
    NoVideoStream,
    TruncatedVideo,
    UndecodableFrames,
)
from spacevllm.video.files import ffmpeg_source, file_status, open_bytes
from spacevllm.video.limits import UNLIMITED, Limits, check_times

# A name says nothing about the content, so playlists, which name other files or hosts, are never opened.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,mp3,wav,flac,aac"


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """Facts of one video (or image). Frames are counted in presentation order, seconds from the first frame.

    Attributes:
        path: as given.
        width, height: display size in pixels, after rotation.
        fps: average frames per second; 0 for an image.
        num_frames: frames a player shows (an edit list may hide some of those stored).
        duration_s: end of the last frame; 0 for an image.
        first_pts_s: time stamp of the first frame in the file's own clock.
        rotation: degrees clockwise (0, 90, 180, 270) that turn the stored picture upright.
        mirrored: the stored picture has to be flipped left to right before it is turned.
        keyframes: frames at which decoding can start, increasing.
        independent_gops: the decoder starts afresh at every keyframe (no open GOPs) and no frame is hidden: readers
            that count frames after a seek are right only then.
        times_s: (N,) float64, begin of each frame, increasing, ``times_s[0] == 0``.
        pts: (N,) int64, time stamps in ``time_base`` seconds.
        codec, container: FFmpeg's names; an image has container ``image``.
    """

    path: str
    width: int
    height: int
    fps: Fraction
    num_frames: int
    duration_s: float
    first_pts_s: float
    rotation: int
    mirrored: bool
    keyframes: tuple[int, ...]
    independent_gops: bool
    times_s: np.ndarray
    pts: np.ndarray
    time_base: Fraction
    codec: str
    container: str

    def uneven_times(self, begin: int, end: int) -> np.ndarray:
        """(end - begin,) float64 seconds of these frames if any frame of the video lies more than half a frame off
        frame / fps, else (0,)."""
        step = 1 / float(self.fps or 1)
        off = np.abs(self.times_s - step * np.arange(len(self.times_s)))
        return self.times_s[begin:end] if off.max(initial=0) > step / 2 else self.times_s[:0]


def probe(
    path: str | Path,
    max_pixels: int | None = None,
    max_frames: int | None = None,
    max_duration_s: float | None = None,
) -> VideoInfo:
    """Reads every packet of a local video file once.

    Args:
        max_pixels: largest width × height accepted. max_frames, max_duration_s: longest video accepted.

    Raises:
        VideoError: a subclass that names the reason; see ``spacevllm.video.errors``.
    """
    limits = Limits(max_pixels, max_frames, max_duration_s)
    with open_video(path, limits) as (container, stream):
        return scan(str(path), container, stream, limits)


@contextmanager
def open_video(path: str | Path, limits: Limits = UNLIMITED) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The opened container and its video stream, set to decode in one thread and no larger picture than allowed.

    Raises:
        MissingVideo, EmptyFile, NotAVideo, NoVideoStream, TruncatedVideo (an MP4 without its index), TooLarge.
    """
    path = str(path)
    check_file(path)
    source, options = ffmpeg_source(path)
    options |= {"format_whitelist": _FORMATS} | limits.decoder_options  # opening decodes, too, if the header is vague
    try:
        container = av.open(source, options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise _explain_open(path, error) from None
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & stream.disposition.attached_pic:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "no"
            raise NoVideoStream(f"{path}: no video stream, only {kinds} streams")
        if stream.codec_context is None:
            raise NotAVideo(f"{path}: no decoder for its video codec")
        limits.check_pixels(path, stream.width, stream.height)
        stream.codec_context.options = limits.decoder_options
        stream.thread_type, stream.thread_count = "NONE", 1
        yield container, stream


def check_file(path: str) -> None:
    """Raises MissingVideo or EmptyFile, with what is there instead of a video."""
    try:
        status = file_status(path)
    except OSError as error:
        raise MissingVideo(f"{path}: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise MissingVideo(f"{path}: is a folder, not a video file")
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise EmptyFile(f"{path}: the file is empty (0 bytes)")


def scan(path: str, container: InputContainer, stream: VideoStream, limits: Limits = UNLIMITED) -> VideoInfo:
    """VideoInfo from the packets of a freshly opened container; afterwards it stands at its end."""
    packets = _read_packets(path, container, stream, limits)
    context = stream.codec_context
    if container.format.name == "avi" and context.name in ("h264", "hevc") and context.has_b_frames:
        raise NotAVideo(f"{path}: AVI keeps no presentation times for the B-frames of {context.name}; re-mux it to MP4")
    base = stream.time_base
    assert base is not None  # every demuxer sets one
    # Two frames of one time cannot be told apart, and the first is never seen: they count as one.
    shown = {pts: key for pts, key, hidden, _ in reversed(packets.entries) if not hidden}
    if not shown:
        raise NoVideoStream(f"{path}: the video stream has no frames to show")
    pts = np.array(sorted(shown), dtype=np.int64)  # (N,)
    last = next(duration for p, _, _, duration in packets.entries if p == pts[-1])
    ticks = int(pts[-1] - pts[0]) + (last or _typical_step(pts, stream, base))
    check_times(path, pts, ticks, base)
    limits.check_duration(path, float(ticks * base))
    _check_promised_end(path, stream, Fraction(int(pts[0]) + ticks) * base)
    rotation, mirrored = packets.orientation
    turned = rotation in (90, 270)
    return VideoInfo(
        path=path,
        width=packets.height if turned else packets.width,
        height=packets.width if turned else packets.height,
        fps=Fraction(stream.average_rate or len(pts) / (ticks * base)).limit_denominator(1_000_000),
        num_frames=len(pts),
        duration_s=float(ticks * base),
        first_pts_s=float(int(pts[0]) * base),
        rotation=rotation,
        mirrored=mirrored,
        keyframes=tuple(i for i, p in enumerate(pts.tolist()) if shown[p]),
        independent_gops=_independent_gops(packets),
        times_s=(pts - pts[0]) * base.numerator / base.denominator,
        pts=pts,
        time_base=base,
        codec=context.name,
        container=container.format.name,
    )


@dataclass
class _Packets:
    entries: list[tuple[int, bool, bool, int]]  # pts, is a keyframe, hidden by an edit list, duration
    width: int
    height: int
    orientation: tuple[int, bool]
    fresh: bool = True  # the decoder forgets everything at every keyframe


def _read_packets(path: str, container: InputContainer, stream: VideoStream, limits: Limits) -> _Packets:
    found: _Packets | None = None
    corrupt, early = False, 0
    context = stream.codec_context
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue  # an end mark or a repeated frame
            if found is None and not packet.is_keyframe:
                early += 1  # a recording or copy that was cut in before its first keyframe
                continue
            if packet.pts is None:
                raise NotAVideo(f"{path}: packets without time stamps ({container.format.name}); re-mux it to MP4")
            if found is None:
                found = _first_frame(path, stream, packet, limits)
            found.entries.append((packet.pts, packet.is_keyframe, packet.is_discard, packet.duration or 0))
            found.fresh = found.fresh and (not packet.is_keyframe or _starts_afresh(context, bytes(packet)))
            corrupt = packet.is_corrupt
            limits.check_frames(path, len(found.entries))
    except MemoryError:
        raise
    except (av.FFmpegError, IndexError) as error:  # IndexError: PyAV's, about a stream that only damage has invented
        count, reason = len(found.entries) if found else 0, getattr(error, "strerror", None) or error
        raise TruncatedVideo(f"{path}: reading stops after {count} frames: {reason}") from None
    if found is None:
        raise NoVideoStream(f"{path}: the video stream has no keyframe, so nothing can be decoded")
    promised = len(stream.index_entries) - early if "mp4" in container.format.name else len(found.entries)
    complete = len(found.entries) - corrupt
    if complete < promised:
        raise TruncatedVideo(f"{path}: the file ends after {complete} of {promised} frames")
    return found


def _first_frame(path: str, stream: VideoStream, packet: av.Packet, limits: Limits) -> _Packets:
    """Size and orientation from the first keyframe, alone; the container's own header fields are not exposed."""
    context = stream.codec_context
    try:  # a plain copy: the packet itself may be marked as hidden, and then no frame comes out
        frames = context.decode(av.Packet(bytes(packet))) + context.decode(None)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        limits.check_refused(path, context.width, context.height)
        raise UndecodableFrames(f"{path}: the first keyframe cannot be decoded: {error.strerror}") from None
    if not frames:
        raise UndecodableFrames(f"{path}: the first keyframe cannot be decoded")
    limits.check_pixels(path, frames[0].width, frames[0].height)
    return _Packets([], frames[0].width, frames[0].height, _orientation(frames[0]))


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Degrees clockwise and left-right flip that turn a stored frame upright, from its display matrix."""
    side_data: Any = frame.side_data  # PyAV's stubs know none of its keys
    if "DISPLAYMATRIX" not in side_data:
        return 0, False
    matrix = side_data["DISPLAYMATRIX"]
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()  # x' = ax + cy, y' = bx + dy, y down
    degrees = math.degrees(math.atan2(-c, d))  # where the y axis goes: a flip of x leaves it alone
    nearest = round(degrees / 90) * 90
    return (nearest % 360 if abs(degrees - nearest) < 2 else 0), a * d - b * c < 0


def _independent_gops(packets: _Packets) -> bool:
    keyframe = packets.entries[0][0]
    for pts, key, hidden, _ in packets.entries:
        keyframe = pts if key else keyframe
        if hidden or pts < keyframe:
            return False
    return packets.fresh


def _starts_afresh(context: VideoCodecContext, packet: bytes) -> bool:
    """False unless an H.264 or HEVC keyframe in 4-byte-length NAL units is proven an IDR picture; others are."""
    if context.name not in ("h264", "hevc"):
        return True
    at = 0
    while at + 4 < len(packet):
        kind = packet[at + 4] & 31 if context.name == "h264" else packet[at + 4] >> 1 & 63
        if kind in ((1, 2, 3, 4, 5) if context.name == "h264" else range(32)):  # the first slice of the picture
            return kind in ((5,) if context.name == "h264" else (19, 20))
        at += 4 + int.from_bytes(packet[at : at + 4], "big")
    return False


def _typical_step(pts: np.ndarray, stream: VideoStream, base: Fraction) -> int:
    """Ticks from frame to frame, for a last frame whose packet does not say how long it lasts."""
    if len(pts) > 1:
        return int(np.median(np.diff(pts)))
    return round(1 / (stream.average_rate * base)) if stream.average_rate else 1


def _check_promised_end(path: str, stream: VideoStream, end_s: Fraction) -> None:
    """Matroska has no list of frames, but writers leave the stream's end, ``00:01:02.5``, in a tag."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except ValueError:
        return  # no such tag, or free text
    promised = hours * 3600 + minutes * 60 + seconds
    if end_s < promised - Fraction(1, 2):
        raise TruncatedVideo(f"{path}: the file ends at {float(end_s):.2f} s of {float(promised):.2f} s")


def _explain_open(path: str, error: Exception) -> Exception:
    if isinstance(error, PermissionError):
        return MissingVideo(f"{path}: may not be read (permission denied)")
    try:
        with open_bytes(path) as file:
            head = file.read(12)
    except OSError as failure:
        return MissingVideo(f"{path}: cannot be read: {failure.strerror}")
    if head[4:8] == b"ftyp":
        return TruncatedVideo(f"{path}: an MP4 without its index (moov): the file was cut off, 0 frames can be found")
    return NotAVideo(f"{path}: not a video file ({getattr(error, 'strerror', None) or error})")
