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

from spacevllm.span import Span
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

FURTHER = pa.struct(
    [
        ("track", pa.int64()),
        ("begin_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("begin_s", pa.float64()),
        ("end_s", pa.float64()),
        ("box_frames", pa.list_(pa.int64())),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
    ]
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
        ("more", pa.list_(FURTHER)),  # null in shards that have none, missing in older ones
    ]
)


@dataclass(frozen=True)
class TrueTube:
    """One right answer among several, frames, seconds and boxes as in ``Instance``.

    Attributes:
        track: which thing; 0 is the instance's own, of which this is a further span. Its boxes are the track's: empty
            where an earlier tube of the same track has them.
    """

    track: int
    begin_s: float
    end_s: float
    begin_frame: int | None = None
    end_frame: int | None = None
    box_frames: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> TrueTube:
        """From an item of the column ``more``; other fields are ignored. Raises ValueError: a field is missing."""
        missing = [name for name in ("track", "begin_s", "end_s") if row.get(name) is None]
        if missing:
            raise ValueError(f"a further tube needs {', '.join(missing)}")
        known = {name: row[name] for name in FURTHER.names if name in row}
        return cls(**(known | _lists(known)))


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
        more: of stvg and vtg, the further tubes where several are right: it happens again, or another thing fits, too.
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
    more: list[TrueTube] = field(default_factory=list)

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
        if self.more and (not self.present or self.task not in ("stvg", "vtg")):
            raise ValueError(f"instance {self.id}: more tubes, but the task is {self.task} or nothing is there")
        if not self.present:
            return
        if self.task in ("stvg", "vtg") and (self.begin_s is None or self.end_s is None):
            raise ValueError(f"instance {self.id}: task {self.task} needs begin_s and end_s")
        if self.begin_s is not None and self.end_s is not None and not 0 <= self.begin_s < self.end_s:
            raise ValueError(f"instance {self.id}: the span is empty or inverted, or begins before the video")
        if self.task in ("stvg", "rec") and not self.boxes:
            raise ValueError(f"instance {self.id}: task {self.task} needs boxes")
        boxed = {0}
        for number, tube in enumerate(self.more):
            if wrong := _fault(tube, needs_boxes=self.task == "stvg" and tube.track not in boxed):
                raise ValueError(f"instance {self.id}: more[{number}]: {wrong}")
            boxed.add(tube.track)

    @property
    def present(self) -> bool:
        """False for a question about what does not occur."""
        return self.task not in ("stvg", "vtg") or self.answer != ABSENT

    @property
    def fps(self) -> Fraction:
        return Fraction(self.fps_num, self.fps_den)

    @property
    def ends_after_media(self) -> bool:
        """Whether a span ends after the video does. Some annotations do; they are kept as they are."""
        further = any(self._is_past_end(tube.end_frame, tube.end_s) for tube in self.more)
        return further or self._is_past_end(self.end_frame, self.end_s)

    def _is_past_end(self, end_frame: int | None, end_s: float | None) -> bool:
        if end_frame is not None and self.num_frames:
            return end_frame > self.num_frames
        return end_s is not None and 0 < self.duration_s < end_s

    @property
    def tubes(self) -> list[TrueTube]:
        """All right answers, the instance's own first, each with the boxes of its track; empty without a span."""
        if self.begin_s is None or self.end_s is None:
            return []
        found = [TrueTube(0, self.begin_s, self.end_s, self.begin_frame, self.end_frame, self.box_frames, self.boxes)]
        for tube in self.more:
            same = next((other for other in found if other.track == tube.track), tube)
            boxed = same if not tube.boxes else tube
            found.append(replace(tube, box_frames=boxed.box_frames, boxes=boxed.boxes))
        return found

    @property
    def spans(self) -> list[Span]:
        """When the first thing does it, in order of time; what ends after the video ends with it."""
        mine = sorted((tube for tube in self.tubes if tube.track == 0), key=lambda tube: tube.begin_s)
        past_end = (self._is_past_end(tube.end_frame, tube.end_s) for tube in mine)
        return [Span(t.begin_s, self.duration_s if past else t.end_s) for t, past in zip(mine, past_end, strict=True)]

    @property
    def shown_s(self) -> Part:
        """The part of the video to look at, see ``shown_part``."""
        return shown_part(vars(self))

    def seen_from(self, begin_s: float) -> Instance:
        """The same question about a clip that begins there: seconds count from it, frames as before."""
        if self.begin_s is None or self.end_s is None or not begin_s:
            return self
        more = [
            replace(tube, begin_s=max(tube.begin_s - begin_s, 0.0), end_s=tube.end_s - begin_s)
            for tube in self.more
            if tube.end_s > begin_s
        ]
        return replace(self, begin_s=max(self.begin_s - begin_s, 0.0), end_s=self.end_s - begin_s, more=more)

    def to_row(self) -> dict[str, Any]:
        """A row of ``SCHEMA``, without an empty ``more``: lines of records with one tube stay as they ever were."""
        row = asdict(self)
        if not self.more:
            del row["more"]
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Instance:
        """From a row of ``SCHEMA``; other columns are ignored.

        Raises:
            ValueError: the record contradicts itself; the message names the id and the field.
        """
        known = {name: row[name] for name in SCHEMA.names if name in row}
        more = known.get("more")
        try:
            known["more"] = [TrueTube.from_row(tube) for tube in more] if more is not None else []
        except ValueError as error:
            raise ValueError(f"instance {row.get('id')}: more: {error}") from None
        known["options"] = list(known["options"]) if known.get("options") is not None else []
        return cls(**known | _lists(known))


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


def _lists(row: Mapping[str, Any]) -> dict[str, Any]:
    """Frames and boxes of a row as lists; Ray Data hands arrays over, JSON lines may lack them."""
    frames, boxes = row.get("box_frames"), row.get("boxes")
    return {
        "box_frames": list(frames) if frames is not None else [],
        "boxes": [list(map(float, box)) for box in boxes] if boxes is not None else [],
    }


def _fault(tube: TrueTube, needs_boxes: bool) -> str:
    """What is wrong with a further tube; ``""``: nothing."""
    if not 0 <= tube.begin_s < tube.end_s:
        return "the span is empty or inverted, or begins before the video"
    if (tube.begin_frame is None) != (tube.end_frame is None):
        return "begin_frame and end_frame go together"
    if tube.track < 0 or len(tube.box_frames) != len(tube.boxes):
        return "track is below 0" if tube.track < 0 else "box_frames and boxes differ in number"
    return f"track {tube.track} needs boxes" if needs_boxes and not tube.boxes else ""


def instance_id(*parts: object) -> str:
    """16 hex digits that depend only on ``parts``: the same input has the same id on every machine."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]
