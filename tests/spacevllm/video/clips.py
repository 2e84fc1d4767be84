"""Real MP4s for the tests, written with PyAV: every frame differs from its neighbours, in every region."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def pattern(index: int, width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8: a moving gradient, and the frame's number as 12 black or white cells along the top."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 2 + index * 5, y * 2 + index * 3, (x + y) + index * 7], axis=-1) % 256
    cell = max(width // 12, 1)
    for bit in range(12):
        image[: height // 6, bit * cell : (bit + 1) * cell] = 255 * ((index >> bit) & 1)
    return image.astype(np.uint8)


def corners(width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8: red green / blue white quarters, to see how a frame was turned."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (0, 0, 255)
    image[height // 2 :, width // 2 :] = 255
    return image


def write_pngs(path: Path, sizes: Sequence[tuple[int, int]], rate: int = 10) -> Path:
    """A MOV of black PNGs of these sizes that says it is 64 x 64: large pictures in few bytes."""
    pictures = {}
    for size in set(sizes):
        file = io.BytesIO()
        Image.new("1", size).save(file, "png")
        pictures[size] = file.getvalue()
    with av.open(str(path), "w", format="mov") as out:
        stream = out.add_stream("png", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        for number, size in enumerate(sizes):
            packet = av.Packet(pictures[size])
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = Fraction(1, rate)
            out.mux(packet)
    return path


def write_clip(
    path: Path,
    frames: int | Sequence[np.ndarray] = 57,
    size: tuple[int, int] = (160, 120),
    rate: Fraction | int = 25,
    gop: int = 12,
    b_frames: int = 2,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation: int = 0,
    hflip: bool = False,
    audio: bool = False,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Writes frames (a count of ``pattern`` frames, or pictures) and returns ``path``.

    Args:
        pts: time stamp of each frame in ``time_base`` (default 1/rate); for late starts and variable rates.
        rotation: display matrix, degrees anticlockwise as PyAV counts.
        container: muxer options, e.g. ``{"movflags": "faststart"}``.
    """
    width, height = size
    images = [pattern(i, width, height) for i in range(frames)] if isinstance(frames, int) else list(frames)
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "18", "preset": "veryfast"} | (options or {}) if codec == "libx264" else options or {}
        if time_base is not None:
            stream.time_base = stream.codec_context.time_base = time_base
        if rotation or hflip:
            stream.set_display_rotation(rotation, hflip=hflip)
        sound = _add_sound(out) if audio else None
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i if pts is None else pts[i]
            frame.time_base = time_base or Fraction(1) / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _write_sound(out, sound)
    return path


def write_sound(path: Path) -> Path:
    """An MP4 with an audio track only."""
    with av.open(str(path), "w") as out:
        _write_sound(out, _add_sound(out))
    return path


def shift_edit_list(path: Path, ticks: int) -> Path:
    """Moves the start of the only edit by ``ticks`` of the track's time base: players skip what lies before."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst")
    version, count = data[at + 4], struct.unpack_from(">I", data, at + 8)[0]
    assert version == 0 and count == 1
    (media_time,) = struct.unpack_from(">i", data, at + 16)
    struct.pack_into(">i", data, at + 16, media_time + ticks)
    path.write_bytes(data)
    return path


def decode_all(path: Path) -> tuple[np.ndarray, list[float]]:
    """The reference: every frame (N, H, W, 3) in order and its time in seconds, decoded from the start, no seek."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return np.stack([f.to_ndarray(format="rgb24") for f in frames]), [float(f.pts * f.time_base) for f in frames]


def _add_sound(out: av.container.OutputContainer) -> av.AudioStream:
    return out.add_stream("aac", rate=16000, layout="mono")


def _write_sound(out: av.container.OutputContainer, stream: av.AudioStream) -> None:
    for i in range(16):
        wave = (np.sin(np.arange(1024) * 0.1) * 3000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, i * 1024
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


NTSC = Fraction(30000, 1001)
IRREGULAR = np.cumsum(np.random.default_rng(0).integers(200, 3000, 40)).tolist()  # ticks of 1/12800 s

# What both backends read exactly
CLIPS: dict[str, Callable[[Path], Path]] = {
    "plain.mp4": write_clip,
    "no_b_frames.mp4": lambda p: write_clip(p, b_frames=0),
    "one_gop.mp4": lambda p: write_clip(p, gop=250),
    "all_intra.mp4": lambda p: write_clip(p, gop=1),
    "short_gops.mp4": lambda p: write_clip(p, gop=3, b_frames=3),
    "one_frame.mp4": lambda p: write_clip(p, frames=1),
    "ntsc_late.mp4": lambda p: write_clip(p, rate=NTSC, time_base=Fraction(1, 30000), pts=range(1001, 58 * 1001, 1001)),
    "variable_rate.mp4": lambda p: write_clip(p, frames=40, time_base=Fraction(1, 12800), pts=IRREGULAR),
    "open_gops.mp4": lambda p: write_clip(
        p, b_frames=3, options={"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}
    ),
    "open_gop_tail.mp4": lambda p: write_clip(
        p, frames=14, options={"x264-params": "open-gop=1:keyint=12:bframes=2:b-pyramid=strict"}
    ),
    "hidden_start.mp4": lambda p: shift_edit_list(write_clip(p), 5 * 512),
    "hidden_gop.mp4": lambda p: shift_edit_list(write_clip(p), 14 * 512),
    "turned.mp4": lambda p: write_clip(p, rotation=-90),
    "upside_down.mp4": lambda p: write_clip(p, rotation=180),
    "fragmented.mp4": lambda p: write_clip(p, container={"movflags": "frag_keyframe+empty_moov"}),
    "with_sound.mp4": lambda p: write_clip(p, audio=True),
    "matroska.mkv": write_clip,
    "vp9.webm": lambda p: write_clip(p, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    "hevc.mp4": lambda p: write_clip(p, codec="libx265", options={"x265-params": "log-level=none:keyint=12"}),
}
# What decord would misread
PYAV_ONLY: dict[str, Callable[[Path], Path]] = {
    "stream.ts": write_clip,
    "mpeg4.avi": lambda p: write_clip(p, codec="mpeg4"),
    "mirrored.mp4": lambda p: write_clip(p, hflip=True),
}
