"""What the stages hand on: a caption, what the detector saw, one track, a tube; or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

STAGES = ("analyzer", "annotator", "refiner", "filter")


class Rejected(ValueError):
    """The sample is of no use. ``reason`` is a short slug that tables count; the message says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, so that it pickles
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True)
class Caption:
    """A captioned part of a video: what the pipeline starts from.

    Attributes:
        id: unique among the captions.
        source, split: the data set it comes from. media: the video's path or URI.
        text: the caption.
        begin_s, end_s: the rough interval, seconds from the first frame.
    """

    id: str
    source: str
    split: str
    media: str
    text: str
    begin_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError(f"caption {self.id}: the text is empty")
        if not 0 <= self.begin_s < self.end_s:  # NaN fails too
            raise ValueError(f"caption {self.id}: interval [{self.begin_s}, {self.end_s}) is empty or inverted")


@dataclass(frozen=True)
class Clip:
    """Facts of the video that the record keeps; as in ``Instance``."""

    fps: Fraction
    num_frames: int
    width: int
    height: int
    duration_s: float


@dataclass(frozen=True, eq=False)
class Detections:
    """What the detector found for one phrase on the annotated frames.

    Attributes:
        frames: (T,) int64, increasing. times_s: (T,) float64.
        boxes: for each frame (K, 4) float xyxy pixels. scores: for each frame (K,) in [0, 1].
    """

    frames: np.ndarray
    times_s: np.ndarray
    boxes: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Track:
    """At most one box a frame.

    Attributes:
        rows: (N,) int64, increasing: which of the annotated frames have a box.
        boxes: (N, 4) float64 xyxy pixels. scores: (N,) in [0, 1].
        counts: (N,) int64, how many boxes the detector found on that frame.
    """

    rows: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class RoughTube:
    """A track within its tightened borders. Frames and seconds are half-open; ``frames`` (N,) of the track's boxes."""

    begin_frame: int
    end_frame: int
    begin_s: float
    end_s: float
    frames: np.ndarray
    track: Track
