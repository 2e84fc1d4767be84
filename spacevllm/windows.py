"""Films: longer than the frames of one look cover well. Coarse to fine, in bounded memory, on one device.

    overlapping windows, each asked like a video of its own → the most confident answer → what goes on across a
    window's border is joined → a second, denser look around both borders of the answer

Windows are read while those before them are asked, and forgotten: what is kept of each is its answers, a kilobyte each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spacevllm.answer import Answer
from spacevllm.span import Span, frame_range
from spacevllm.tube import Tube, interpolate_boxes
from spacevllm.video.errors import TooLarge, VideoError
from spacevllm.video.parts import ReadParts
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames

Windows = Literal["auto", "off"]
Read = Callable[[Span], SampledFrames]  # the frames of one part; raises VideoError
Ask = Callable[[SampledFrames, Sequence[str]], Sequence[Answer]]

SECONDS_PER_FRAME = 2.0  # frames further apart miss what happens between them
MAX_WINDOWS = 100_000  # of one film: a day of them at one frame a window; more is a forged length
OVERLAP = 0.5  # of neighbouring windows: an event shorter than half a window is whole in one of them
_MOVES = 2  # frame distances of the first look by which a second one may correct a border


@dataclass(frozen=True)
class Candidate:
    """One window's answer. tube: without dense boxes, which are made anew. part: the window."""

    tube: Tube
    span: Span
    part: Span

    @classmethod
    def of(cls, tube: Tube, span: Span, part: Span) -> Candidate:
        return cls(replace(tube, begin_frame=0, end_frame=0, boxes=tube.boxes[:0].copy()), span, part)


@dataclass(frozen=True)
class Walked:
    """How far a walk through a film has come.

    Attributes:
        done: windows looked at, unreadable ones included, of ``total``; then come the second looks.
        best: of each question the surest answer so far, without dense boxes; None where no window's had a span.
    """

    done: int
    total: int
    best: Sequence[Tube | None]


def window_s(num_frames: int) -> float:
    """Seconds that ``num_frames`` cover well."""
    return num_frames * SECONDS_PER_FRAME


def is_film(duration_s: float, num_frames: int) -> bool:
    """Whether ``num_frames`` would lie too far apart."""
    return duration_s > window_s(num_frames)


def plan_windows(whole: Span, length_s: float, overlap: float = OVERLAP, max_windows: int = MAX_WINDOWS) -> list[Span]:
    """Windows of ``length_s`` that cover ``whole``, evenly spread, each overlapping the next by ``overlap`` or more.

    Raises:
        TooLarge: that would be more than ``max_windows``.
    """
    rest = whole.end_s - whole.begin_s - length_s
    if rest <= 1e-3:  # also where only rounding is left
        return [whole]
    steps = math.ceil(rest / (length_s * (1 - overlap)))
    if steps >= max_windows:
        what = f"{rest + length_s:.0f} s are {steps + 1} windows of {length_s:g} s"
        raise TooLarge(f"{what}, more than the allowed {max_windows}")
    begins = np.linspace(whole.begin_s, whole.end_s - length_s, steps + 1)
    return [Span(float(begin), min(float(begin) + length_s, whole.end_s)) for begin in begins]


def ground_film(
    read: ReadParts,
    ask: Ask,
    whole: Span,
    num_frames: int,
    questions: Sequence[str],
    tell: Callable[[Walked], None] = lambda _: None,
) -> list[Answer]:
    """One answer of one tube for each question about a film: the best of every window's. Windows overlap and each of
    them answers, so which others are the same event again cannot be told.

    Args:
        read: gives ``num_frames`` frames of each part. ask: gives an answer a question, in the film's seconds.
        whole: the part of the film to look at.
        tell: called before the first window and after each.

    Returns:
        In order; ``windows`` counts the windows that were asked, ``windows_unread`` those that could not be decoded.
        Without a span where no window's answer had one.

    Raises:
        VideoError: no window can be decoded. TooLarge: there would be more than ``MAX_WINDOWS``.
    """
    length_s = window_s(num_frames)
    found: list[list[Candidate]] = [[] for _ in questions]
    surest: list[Tube | None] = [None] * len(questions)  # that have a span, so far
    spare: list[Tube] = []  # the surest answers of all, for questions that get no span anywhere
    errors, info, count = [], None, 0
    parts = plan_windows(whole, length_s)
    tell(Walked(0, len(parts), tuple(surest)))
    for part, clip in zip(parts, read(parts), strict=True):
        if isinstance(clip, VideoError):
            errors.append(clip)
        else:
            tubes = [answer.best for answer in ask(clip, questions)]
            info, count = clip.info, count + 1
            spare = [max(pair, key=_confidence) for pair in zip(spare or tubes, tubes, strict=True)]
            for number, tube in enumerate(tubes):
                if tube.span is not None:
                    found[number].append(Candidate.of(tube, tube.span, part))
                    surest[number] = max(filter(None, (surest[number], found[number][-1].tube)), key=_confidence)
        tell(Walked(count + len(errors), len(parts), tuple(surest)))
    if info is None:
        raise errors[0]
    best = [join(kept, info, length_s / num_frames) if kept else tube for kept, tube in zip(found, spare, strict=True)]
    best = _look_again(read, ask, best, whole, num_frames, info)
    return [Answer([replace(tube, windows=count, windows_unread=len(errors))]) for tube in best]


def join(candidates: Sequence[Candidate], info: VideoInfo, gap_s: float) -> Tube:
    """The most confident answer, with those that carry it on across a border of its window.

    An answer that ends where its window ends may be cut there: it goes on if a neighbour's answer, which reaches over
    that border, says so.

    Args:
        candidates: of one question, at least one. gap_s: seconds between the frames that were seen.
    """
    first, *others = sorted(candidates, key=lambda c: -c.tube.confidence)
    joined, span, reach = [first], first.span, first.part
    while True:
        more = next((c for c in others if _goes_on(span, reach, c, gap_s)), None)
        if more is None:
            return _merge(first.tube, joined[::-1], span, info)
        others.remove(more)
        joined.append(more)
        span, reach = _hull(span, more.span), _hull(reach, more.part)


def looks(span: Span, whole: Span, length_s: float, gap_s: float = SECONDS_PER_FRAME) -> list[Span]:
    """Where to look again: around the whole answer if that is at least twice as dense, else around each border."""
    margin = _MOVES * gap_s
    if span.end_s - span.begin_s + 2 * margin <= length_s / 2:
        return [_cut(span.begin_s - margin, span.end_s + margin, whole)]
    reach = max(margin, length_s / 8)
    return [_cut(border - reach, border + reach, whole) for border in (span.begin_s, span.end_s)]


def correct(span: Span, seen: Sequence[Candidate], gap_s: float) -> Span:
    """``span`` with the borders that second looks saw close to its own; others are another event's."""
    borders = []
    for border, second in ((span.begin_s, [c.span.begin_s for c in seen]), (span.end_s, [c.span.end_s for c in seen])):
        near = [s for s in second if abs(s - border) <= _MOVES * gap_s]
        borders.append(min(near, key=lambda s: abs(s - border)) if near else border)
    begin, end = borders
    return Span(begin, end) if begin < end else span


def _look_again(
    read: ReadParts, ask: Ask, tubes: Sequence[Tube], whole: Span, num_frames: int, info: VideoInfo
) -> list[Tube]:
    """The second looks of all questions, in the film's order: parts that lie together are read together."""
    wanted: dict[Span, list[int]] = {}
    for number, tube in enumerate(tubes):
        for part in () if tube.span is None else looks(tube.span, whole, window_s(num_frames)):
            wanted.setdefault(part, []).append(number)
    parts = sorted(wanted, key=lambda part: (part.begin_s, part.end_s))
    seen: list[list[Candidate]] = [[] for _ in tubes]
    for part, clip in zip(parts, read(parts), strict=True):
        if isinstance(clip, SampledFrames):
            seconds = ask(clip, [tubes[number].question for number in wanted[part]])
            for number, second in zip(wanted[part], seconds, strict=True):
                if second.best.span is not None:
                    seen[number].append(Candidate.of(second.best, second.best.span, part))
    return [_corrected(tube, second, whole, info) for tube, second in zip(tubes, seen, strict=True)]


def _corrected(tube: Tube, seen: Sequence[Candidate], whole: Span, info: VideoInfo) -> Tube:
    if tube.span is None:
        return tube
    better = correct(tube.span, seen, SECONDS_PER_FRAME)
    agreeing = [c for c in seen if c.span.begin_s < better.end_s and better.begin_s < c.span.end_s]
    return _merge(tube, [Candidate.of(tube, tube.span, whole), *agreeing], better, info)


def one_ahead(read: Read) -> ReadParts:
    """Reads parts one by one; the next is read meanwhile, and no more than that one."""

    def attempt(part: Span) -> SampledFrames | VideoError:
        try:
            return read(part)
        except VideoError as error:
            return error

    def read_parts(parts: Sequence[Span]) -> Iterator[SampledFrames | VideoError]:
        with ThreadPoolExecutor(1) as thread:
            following = [thread.submit(attempt, part) for part in parts[:1]]
            for part in parts[1:]:
                clip = following.pop().result()
                following.append(thread.submit(attempt, part))
                yield clip
            yield from (last.result() for last in following)

    return read_parts


def _goes_on(span: Span, reach: Span, other: Candidate, gap_s: float) -> bool:
    """Whether ``span`` is cut by a border of ``reach`` over which ``other`` goes on."""
    after = span.end_s >= reach.end_s - gap_s and other.span.begin_s <= span.end_s < other.span.end_s
    before = span.begin_s <= reach.begin_s + gap_s and other.span.begin_s < span.begin_s <= other.span.end_s
    return (after and other.part.begin_s < reach.end_s) or (before and other.part.end_s > reach.begin_s)


def _merge(tube: Tube, seen: Sequence[Candidate], span: Span, info: VideoInfo) -> Tube:
    """``tube`` with another span and boxes from all looks: on a frame that several saw, the last one's."""
    frames = np.concatenate([c.tube.sampled_frames for c in seen])  # (S,)
    boxes = np.concatenate([c.tube.sampled_boxes for c in seen])  # (S, 4)
    frames, last = np.unique(frames[::-1], return_index=True)
    boxes = boxes[::-1][last]
    begin, end = frame_range(span, info.times_s, info.duration_s)
    near = (frames >= begin) & (frames < end)
    if not near.any():  # the span lies between two frames that were seen
        near[np.abs(frames - begin).argmin()] = True
    dense = interpolate_boxes(frames[near], boxes[near], np.arange(begin, end))
    return replace(
        tube,
        span=span,
        begin_frame=begin,
        end_frame=end,
        boxes=dense,
        sampled_frames=frames,
        sampled_boxes=boxes,
        times_s=info.uneven_times(begin, end),
    )


def _confidence(tube: Tube) -> float:
    return tube.confidence


def _hull(a: Span, b: Span) -> Span:
    return Span(min(a.begin_s, b.begin_s), max(a.end_s, b.end_s))


def _cut(begin_s: float, end_s: float, whole: Span) -> Span:
    return Span(max(begin_s, whole.begin_s), min(end_s, whole.end_s))
