"""Tube: *when* and *where*, one span of one thing: the answer to one question about one video, or a part of it.

Frames are 0-based and half-open ``[begin, end)``. Times are seconds from the first frame. Boxes are ``xyxy`` in
pixels of the original (upright) frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spacevllm.span import Span

if TYPE_CHECKING:
    from spacevllm.video.overlay import Mark

ABSENT = "It is not there."  # what is learned and answered where nothing fits the question


def says_absent(answer: str) -> bool:
    """Whether a model's words are ``ABSENT``."""
    return answer.strip().rstrip(".").lower() == ABSENT.rstrip(".").lower()


def interpolate_boxes(frames: np.ndarray, boxes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Boxes on ``wanted`` frames, linear between known ``frames``, the nearest known box outside them.

    Args:
        frames: (K,) int, increasing (repeats allowed: a short clip repeats frames). K >= 1.
        boxes: (K, 4) xyxy.
        wanted: (F,) int.

    Returns:
        (F, 4) float32.
    """
    known, first = np.unique(np.asarray(frames), return_index=True)
    boxes = np.asarray(boxes, dtype=np.float64)[first]  # (K', 4)
    columns = [np.interp(wanted, known, boxes[:, c]) for c in range(4)]
    return np.stack(columns, axis=-1).astype(np.float32).reshape(-1, 4)  # (F, 4)


@dataclass(frozen=True)
class Tube:
    """Where and when the thing asked for is: one box on every frame of one span.

    Attributes:
        video: path or URI as given.
        question: the sentence asked.
        answer: the model's raw text; ``""`` for a tube that no model wrote.
        span: seconds, or None when the answer could not be read.
        begin_frame, end_frame: frames of the span, half-open; ``(0, 0)`` without a span.
        boxes: (end_frame - begin_frame, 4) float32, xyxy pixels of the original frame.
        fps: average frames per second. num_frames, width, height, duration_s: of the video.
        confidence: in [0, 1], that it is there: the presence head's, or for a model without one the geometric mean
            probability of the answer's tokens (its complement, for ``ABSENT``); calibrated if the model has a
            calibration.
        present: whether that is enough to say so; always False without a span.
        windows: looks at parts of a film, see ``spacevllm.windows``; 1 for a video seen at once. windows_unread: parts
            that could not be decoded.
        sampled_frames: (T,) int, the frames the model saw. sampled_boxes: (T, 4) float32, its box on each of them,
            in and out of the span: what a span-free score (gt_vIoU) reads.
        times_s: (end_frame - begin_frame,) float64, begin of each frame of the span, in a video whose frames do not
            come at even steps; empty: frame / fps.
        track: which of the things that answer the question it is; tubes of one thing have the same.
    """

    video: str
    question: str
    answer: str
    span: Span | None
    begin_frame: int
    end_frame: int
    boxes: np.ndarray
    fps: float
    num_frames: int
    width: int
    height: int
    duration_s: float
    confidence: float = 0.0
    present: bool = True
    windows: int = 1
    windows_unread: int = 0
    sampled_frames: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sampled_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    times_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    track: int = 0

    def __post_init__(self) -> None:
        if self.boxes.shape != (self.end_frame - self.begin_frame, 4):
            raise ValueError(
                f"a tube of frames [{self.begin_frame}, {self.end_frame}) needs one box a frame, "
                f"got boxes of shape {self.boxes.shape}"
            )

    @property
    def says_absent(self) -> bool:
        """The model's own words were that it is not there."""
        return says_absent(self.answer)

    @property
    def begin_s(self) -> float | None:
        return self.span.begin_s if self.span else None

    @property
    def end_s(self) -> float | None:
        return self.span.end_s if self.span else None

    def box_at(self, time_s: float) -> np.ndarray | None:
        """(4,) float32 xyxy pixels at ``time_s``, linear between frames; None outside the span."""
        if self.span is None or not self.span.begin_s <= time_s < self.span.end_s:
            return None
        times_s = self.times_s if len(self.times_s) else np.arange(self.begin_frame, self.end_frame) / self.fps  # (F,)
        columns = [np.interp(time_s, times_s, self.boxes[:, c]) for c in range(4)]
        return np.array(columns, dtype=np.float32)

    def draw(self, out: str | Path) -> Path:
        """Writes the video with the box in the span and a timeline under the picture to ``out`` (MP4)."""
        from spacevllm.video.overlay import COLOURS, draw_guarded  # drawing is optional for whoever only reads numbers

        return draw_guarded(self.video, [self.mark(COLOURS[0])], out)

    def mark(self, colour: str) -> Mark:
        """The tube as something to draw; colour: ``#rrggbb``."""
        from spacevllm.video.overlay import Mark

        span = (self.span.begin_s, self.span.end_s) if self.span else None
        detail = f"{span[0]:.2f} to {span[1]:.2f} s" if span else "no time could be read from the answer"
        return Mark(self.question, detail, colour, span, self.begin_frame, self.boxes)

    def to_dict(self) -> dict[str, Any]:
        """JSON form: plain numbers, ``boxes`` as ``[[frame, x1, y1, x2, y2], ...]``; ``times_s`` only if uneven,
        ``track`` only if it is not 0."""
        frames = range(self.begin_frame, self.end_frame)
        special: dict[str, Any] = {"times_s": np.round(self.times_s, 4).tolist()} if len(self.times_s) else {}
        special |= {"track": self.track} if self.track else {}
        return special | {
            "video": self.video,
            "question": self.question,
            "answer": self.answer,
            "begin_s": self.begin_s,
            "end_s": self.end_s,
            "begin_frame": self.begin_frame if self.span else None,
            "end_frame": self.end_frame if self.span else None,
            "boxes": [[f, *(round(float(v), 2) for v in b)] for f, b in zip(frames, self.boxes, strict=True)],
            "confidence": self.confidence,
            "present": self.present,
            "windows": self.windows,
            "windows_unread": self.windows_unread,
            "fps": self.fps,
            "num_frames": self.num_frames,
            "width": self.width,
            "height": self.height,
            "duration_s": self.duration_s,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Tube:
        """The inverse of ``to_dict`` (sampled boxes are not kept)."""
        known = row["begin_s"] is not None
        boxes = np.array([b[1:] for b in row["boxes"]], dtype=np.float32).reshape(-1, 4)
        plain = ("video", "question", "answer", "confidence", "fps", "num_frames", "width", "height", "duration_s")
        return cls(
            span=Span(row["begin_s"], row["end_s"]) if known else None,
            begin_frame=row["begin_frame"] if known else 0,
            end_frame=row["end_frame"] if known else 0,
            boxes=boxes,
            present=row.get("present", known),
            windows=row.get("windows", 1),
            windows_unread=row.get("windows_unread", 0),
            times_s=np.array(row.get("times_s", ()), np.float64),
            track=row.get("track", 0),
            **{key: row[key] for key in plain},
        )
