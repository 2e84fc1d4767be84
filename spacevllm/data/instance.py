"""One Uni-STG instance: a question about one video or image, and its answer in time and space.

Every source is converted to this record and every stage reads it. Parquet shards hold ``SCHEMA``.

A data set is a folder::

    DIR/unistg/<split>/*.parquet    the records; `media` is relative to DIR (or an absolute path or URI)
    DIR/media/...                   videos and images, if the data set brings its own
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, get_args

import pyarrow as pa

from spacevllm.tube import ABSENT

Task = Literal["stvg", "vtg", "rec", "qa"]
MediaType = Literal["video", "image", "text"]
MEDIA_TYPES: tuple[str, ...] = get_args(MediaType)
TASKS: tuple[str, ...] = get_args(Task)
Part = tuple[float | None, float | None]  # begin and end in seconds; None: the video's own
PART_COLUMNS = (
    "task",
    "begin_s",
    "end_s",
    "segment_begin_frame",
    "segment_end_frame",
    "fps_num",
    "fps_den",
    "num_frames",
)

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("media", pa.string()),
        ("media_type", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("options", pa.list_(pa.string())),
        ("begin_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("begin_s", pa.float64()),
        ("end_s", pa.float64()),
        ("box_frames", pa.list_(pa.int64())),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("fps_num", pa.int64()),
        ("fps_den", pa.int64()),
        ("num_frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("duration_s", pa.float64()),
        ("sentence_type", pa.string()),
        ("segment_begin_frame", pa.int64()),
        ("segment_end_frame", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Instance:
    """One record. Frames are 0-based and half-open; seconds count from the first frame; boxes are xyxy pixels.

    Attributes:
        id: unique in the data set; ``instance_id`` makes one.
        task: stvg (span + boxes) · vtg (span) · rec (one box on an image) · qa (multiple choice or free text).
        source: name of the data set it comes from, e.g. ``vidstg``.
        split: ``train``, ``val`` or ``test``, or a benchmark's own (``testA``).
        media: path relative to the data set's folder, or an absolute path or URI; ``""`` for text.
        media_type: ``video``, ``image``, or ``text``: a ``qa`` about neither, so that general ability is kept.
        question: the sentence, as annotated; instruction wording is added by templates, not here.
        answer: gold text: ``""`` where the span or box is the answer; ``ABSENT`` for stvg and vtg about what does not
            occur, which then have neither span nor boxes; for ``qa`` the right option or free text.
        options: for multiple choice, the options in order; else empty.
        begin_frame, end_frame: true span in frames, None without one.
        begin_s, end_s: the same span in seconds (what sources without frames annotate), None without one. A qa has no
            span: the part of the video that it is asked about (MVBench), None: all of it.
        box_frames: (K,) increasing frame numbers that have a box; ``[0]`` for an image.
        boxes: K boxes of 4 numbers. They may lie outside the span: the object is visible there too.
        fps_num, fps_den: rational frame rate; 0/1 for an image.
        num_frames, width, height, duration_s: of the media; an image has 1 frame and 0 s. 0 for a video: not known.
            All 0 for text.
        sentence_type: ``declarative`` or ``interrogative``, or a multiple choice's group (MVBench's task, Video-MME's
            duration): benchmarks report them apart.
        segment_begin_frame, segment_end_frame: the clip of the video to look at (VidSTG's used_segment), half-open;
            None: the whole video.
    """

    id: str
    task: Task
    source: str
    split: str
    media: str
    media_type: MediaType
    question: str
    answer: str = ""
    options: list[str] = field(default_factory=list)
    begin_frame: int | None = None
    end_frame: int | None = None
    begin_s: float | None = None
    end_s: float | None = None
    box_frames: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    fps_num: int = 0
    fps_den: int = 1
    num_frames: int = 1
    width: int = 0
    height: int = 0
    duration_s: float = 0.0
    sentence_type: str = "declarative"
    segment_begin_frame: int | None = None
    segment_end_frame: int | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"instance {self.id}: task {self.task!r} is none of {', '.join(TASKS)}")
        if self.media_type not in MEDIA_TYPES:
            raise ValueError(f"instance {self.id}: media_type {self.media_type!r} is none of {', '.join(MEDIA_TYPES)}")
        if (self.media_type == "text") != (not self.media):
            raise ValueError(f"instance {self.id}: a {self.media_type} {'without' if not self.media else 'with'} media")
        if self.media_type == "text" and self.task != "qa":
            raise ValueError(f"instance {self.id}: task {self.task} needs a video or an image")
        if len(self.box_frames) != len(self.boxes):
            raise ValueError(f"instance {self.id}: box_frames and boxes differ in number")
        if not 0 <= self.duration_s < math.inf:
            raise ValueError(f"instance {self.id}: duration_s is negative or not finite")
        if not self.present and (self.begin_s is not None or self.boxes):
            raise ValueError(f"instance {self.id}: {ABSENT!r} is the answer, but there is a span or a box")
        if not self.present:
            return
        if self.task in ("stvg", "vtg") and (self.begin_s is None or self.end_s is None):
            raise ValueError(f"instance {self.id}: task {self.task} needs begin_s and end_s")
        if self.begin_s is not None and self.end_s is not None and not 0 <= self.begin_s < self.end_s:
            raise ValueError(f"instance {self.id}: the span is empty or inverted, or begins before the video")
        if self.task in ("stvg", "rec") and not self.boxes:
            raise ValueError(f"instance {self.id}: task {self.task} needs boxes")

    @property
    def present(self) -> bool:
        """False for a question about what does not occur."""
        return self.task not in ("stvg", "vtg") or self.answer != ABSENT

    @property
    def fps(self) -> Fraction:
        return Fraction(self.fps_num, self.fps_den)

    @property
    def ends_after_media(self) -> bool:
        """Whether the span ends after the video does. Some annotations do; they are kept as they are."""
        if self.end_frame is not None and self.num_frames:
            return self.end_frame > self.num_frames
        return self.end_s is not None and 0 < self.duration_s < self.end_s

    @property
    def shown_s(self) -> Part:
        """The part of the video to look at, see ``shown_part``."""
        return shown_part(vars(self))

    def seen_from(self, begin_s: float) -> Instance:
        """The same question about a clip that begins there: seconds count from it, frames as before."""
        if self.begin_s is None or self.end_s is None or not begin_s:
            return self
        return replace(self, begin_s=max(self.begin_s - begin_s, 0.0), end_s=self.end_s - begin_s)

    def to_row(self) -> dict[str, Any]:
        """A row of ``SCHEMA``."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Instance:
        """From a row of ``SCHEMA``; other columns are ignored.

        Raises:
            ValueError: the record contradicts itself; the message names the id and the field.
        """
        known = {name: row[name] for name in SCHEMA.names if name in row}
        for name in ("options", "box_frames"):
            known[name] = list(known[name]) if known.get(name) is not None else []
        boxes = known.get("boxes")
        known["boxes"] = [list(map(float, box)) for box in boxes] if boxes is not None else []
        return cls(**known)


def shown_part(row: Mapping[str, Any]) -> Part:
    """The seconds to look at (VidSTG's used_segment, the part that a qa is about), None at the video's own ends.

    Args:
        row: of ``SCHEMA``, with the columns ``PART_COLUMNS``.
    """
    if row["task"] == "qa":
        return row["begin_s"], row["end_s"]
    begin, end = row["segment_begin_frame"], row["segment_end_frame"]
    if begin is None or end is None:
        return None, None
    fps, last = Fraction(row["fps_num"], row["fps_den"]), end >= row["num_frames"] > 0
    # the middle of its first and last frame: no rounding of either side brings in a neighbour
    return float((begin + 0.5) / fps) if begin else None, None if last else float((end - 0.5) / fps)


def instance_id(*parts: object) -> str:
    """16 hex digits that depend only on ``parts``: the same input has the same id on every machine."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]
