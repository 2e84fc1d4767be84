"""What knowing nothing scores: answers without a look at the pixels, scored by the same code as a model's.

Random ones draw from a seed and the instance's id, so a query's draw does not depend on the queries around it. Their
objects are the tracks that the data set itself annotates on the same media, the right one among them: where few are
known, this baseline is generous to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from spacevllm.data.instance import Instance, instance_id
from spacevllm.evaluation.prediction import Track
from spacevllm.evaluation.protocols import clip_span
from spacevllm.span import Span
from spacevllm.tube import Tube, interpolate_boxes

CENTRE_SIDE = 0.5  # the centre box takes half the frame's width and half its height

Answer = Tube | np.ndarray | str

Tracks = Mapping[str, Sequence[Track]]
Baseline = Callable[[Instance, Tracks, np.random.Generator], Answer]


def known_tracks(instances: Sequence[Instance]) -> dict[str, list[Track]]:
    """Every different annotated track of each media, in an order that does not depend on that of the instances."""
    found: dict[str, dict[bytes, Track]] = {}
    for instance in instances:
        own = (instance.box_frames, instance.boxes)
        for frames, boxes in (own, *((tube.box_frames, tube.boxes) for tube in instance.more)):
            if not boxes:
                continue
            track = Track(np.array(frames, np.int64), np.array(boxes, np.float64))
            found.setdefault(instance.media, {})[track.frames.tobytes() + track.boxes.tobytes()] = track
    return {media: [tracks[key] for key in sorted(tracks)] for media, tracks in found.items()}


def generator(instance: Instance, seed: int, draw: int) -> np.random.Generator:
    """The random numbers of one draw for one instance."""
    return np.random.default_rng(int(instance_id(seed, draw, instance.id), 16))


def centre_box(instance: Instance) -> np.ndarray:
    """(4,) float64 xyxy, in the middle of the frame."""
    size = np.array([instance.width, instance.height, instance.width, instance.height], np.float64)
    low, high = (1 - CENTRE_SIDE) / 2, (1 + CENTRE_SIDE) / 2
    return size * [low, low, high, high]


def centre_box_whole_clip(instance: Instance, tracks: Tracks, rng: np.random.Generator) -> Tube:
    begin, end = clip_span(instance)
    return _tube(instance, begin, end, Track(np.array([begin]), centre_box(instance)[None]))


def random_object_random_span(instance: Instance, tracks: Tracks, rng: np.random.Generator) -> Tube:
    """A known object between two different frame borders of the clip, each pair as likely as any other."""
    first, last = clip_span(instance)
    begin, end = first + np.sort(rng.choice(last - first + 1, size=2, replace=False))
    return _tube(instance, int(begin), int(end), _pick(tracks[instance.media], rng))


def whole_clip(instance: Instance, tracks: Tracks, rng: np.random.Generator) -> Tube:
    return _spoken(instance, *_clip_seconds(instance))


def random_span(instance: Instance, tracks: Tracks, rng: np.random.Generator) -> Tube:
    return _spoken(instance, *np.sort(rng.uniform(*_clip_seconds(instance), size=2)))


def centre_box_alone(instance: Instance, tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
    return centre_box(instance)


def random_object(instance: Instance, tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
    return _pick(tracks[instance.media], rng).boxes[0]


def first_option(instance: Instance, tracks: Tracks, rng: np.random.Generator) -> str:
    return "A"


# A random option needs no draw: its expectation is 1 / options, see scoring.py.
CONSTANT: dict[str, dict[str, Baseline]] = {
    "stvg": {"centre_box_whole_clip": centre_box_whole_clip},
    "vtg": {"whole_clip": whole_clip},
    "rec": {"centre_box": centre_box_alone},
    "qa": {"first_option": first_option},
}
RANDOM: dict[str, dict[str, Baseline]] = {
    "stvg": {"random_object_random_span": random_object_random_span},
    "vtg": {"random_span": random_span},
    "rec": {"random_object": random_object},
    "qa": {},
}


def _pick(tracks: Sequence[Track], rng: np.random.Generator) -> Track:
    return tracks[int(rng.integers(len(tracks)))]


def _clip_seconds(instance: Instance) -> tuple[float, float]:
    begin, end = (_seconds(instance, frame) for frame in clip_span(instance))
    return begin, end


def _seconds(instance: Instance, frame: int) -> float:
    return instance.duration_s * frame / max(instance.num_frames, 1)


def _tube(instance: Instance, begin: int, end: int, track: Track) -> Tube:
    span = Span(_seconds(instance, begin), _seconds(instance, end))
    return _answer(instance, span, begin, end, track)


def _spoken(instance: Instance, begin_s: float, end_s: float) -> Tube:
    return _answer(instance, Span(float(begin_s), float(end_s)), 0, 0, Track(np.zeros(1, np.int64), np.zeros((1, 4))))


def _answer(instance: Instance, span: Span, begin: int, end: int, track: Track) -> Tube:
    return Tube(
        video=instance.media,
        question=instance.question,
        answer="",
        span=span,
        begin_frame=begin,
        end_frame=end,
        boxes=interpolate_boxes(track.frames, track.boxes, np.arange(begin, end)),
        fps=float(instance.fps),
        num_frames=instance.num_frames,
        width=instance.width,
        height=instance.height,
        duration_s=instance.duration_s,
        sampled_frames=track.frames,
        sampled_boxes=track.boxes.astype(np.float32),
    )
