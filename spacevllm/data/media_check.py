"""What annotations promise about a video or image, held against the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import Field

from spacevllm.config import Config
from spacevllm.video.probe import VideoInfo


class Tolerance(Config):
    """How far a file may be from what is annotated.

    Attributes:
        frames: numbers of frames may differ by so many. fps: by this share. duration_s: seconds.
    """

    frames: int = Field(default=1, ge=0)
    fps: float = Field(default=0.005, ge=0)
    duration_s: float = Field(default=0.5, ge=0)


class Promise(NamedTuple):
    """What the records say; 0: nothing. ``last_frame``: behind the last frame that a span or a box names."""

    fps: float
    num_frames: int
    width: int
    height: int
    duration_s: float
    last_frame: int


def promise_of(row: Mapping[str, Any]) -> Promise:
    """Of one record, a row of ``SCHEMA``. Images promise no frame rate."""
    tubes = [row, *(row.get("more") or ())]
    fps = row["fps_num"] / row["fps_den"] if row["fps_den"] else 0.0
    counted = row["num_frames"] if row["media_type"] == "image" or row["fps_num"] else 0  # 1 is the field's default
    last = max(max(max(tube["box_frames"] or [-1]) + 1, tube["end_frame"] or 0) for tube in tubes)
    return Promise(fps, counted, row["width"], row["height"], row["duration_s"], last)


def join(a: Promise, b: Promise) -> Promise:
    """Of two records about the same file: the larger of each number."""
    return Promise(
        max(a.fps, b.fps),
        max(a.num_frames, b.num_frames),
        max(a.width, b.width),
        max(a.height, b.height),
        max(a.duration_s, b.duration_s),
        max(a.last_frame, b.last_frame),
    )


def differences(promise: Promise, found: VideoInfo, allowed: Tolerance) -> Iterator[tuple[str, str]]:
    """(reason, words) for everything that is promised and not so; reasons are short slugs."""
    if promise.width and (promise.width, promise.height) != (found.width, found.height):
        told, there = f"{promise.width}x{promise.height}", f"{found.width}x{found.height}"
        yield "other_size", f"annotated {told}, the file has {there}"
    if promise.num_frames and abs(promise.num_frames - found.num_frames) > allowed.frames:
        yield "other_frame_count", f"annotated {promise.num_frames} frames, the file has {found.num_frames}"
    fps = float(found.fps)
    if promise.fps and abs(promise.fps - fps) > allowed.fps * fps:
        yield "other_fps", f"annotated {promise.fps:.6g} frames/s, the file has {fps:.6g}"
    if promise.duration_s and abs(promise.duration_s - found.duration_s) > allowed.duration_s:
        yield "other_duration", f"annotated {promise.duration_s:.2f} s, the file has {found.duration_s:.2f} s"
    if promise.last_frame > found.num_frames + allowed.frames:
        yield "annotated_past_end", f"frame {promise.last_frame - 1} is annotated, the file has {found.num_frames}"
