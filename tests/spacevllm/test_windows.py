"""Films, coarse to fine: on a real two-hour file, asked by something that finds light in the frames it is shown."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import partial
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacevllm.answer import Answer
from spacevllm.span import Span, frame_range
from spacevllm.tube import Tube, interpolate_boxes
from spacevllm.video import probe, sample_frames
from spacevllm.video.errors import TooLarge, UndecodableFrames
from spacevllm.video.parts import parts_reader
from spacevllm.video.reader import find_frames
from spacevllm.windows import SECONDS_PER_FRAME, ground_film, is_film, looks, one_ahead, plan_windows

FRAMES, SECONDS = 8, 7200
LIGHTS = {"a flash": (3601, 3604), "a minute of light": (5003, 5063), "the end": (7196, 7200)}


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """Two hours at one frame a second: dark, but for ``LIGHTS``, in which a bright square stands further right."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast", "g": "60", "qp": "20"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for second in range(SECONDS):
            picture = np.zeros((32, 32, 3), np.uint8)
            for number, (begin, end) in enumerate(LIGHTS.values()):
                if begin <= second < end:
                    picture[8:16, 8 * number : 8 * number + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def light_finder(clip, questions):
    """A tube a question, from the first to the last frame that shows its light; unsure of all where none does."""
    return [Answer([_find(clip, question, list(LIGHTS).index(question))]) for question in questions]


def _find(clip, question, number):
    lit = np.flatnonzero(clip.frames[:, 8:16, 8 * number : 8 * number + 8].mean(axis=(1, 2, 3)) > 128)
    info, part = clip.info, clip.part or Span(0, clip.info.duration_s)
    step = clip.times_s[1] - clip.times_s[0]
    span = Span(clip.times_s[lit[0]], min(clip.times_s[lit[-1]] + step, part.end_s)) if len(lit) else part
    begin, end = frame_range(span, info.times_s, info.duration_s)
    boxes = np.tile(np.float32([8 * number, 8, 8 * number + 8, 16]), (len(clip.indices), 1))
    return Tube(
        video=info.path, question=question, answer="", span=span, begin_frame=begin, end_frame=end,
        boxes=interpolate_boxes(clip.indices, boxes, np.arange(begin, end)), fps=1.0, num_frames=info.num_frames,
        width=32, height=32, duration_s=info.duration_s, confidence=0.9 if len(lit) else 0.2,
        sampled_frames=clip.indices, sampled_boxes=boxes,
    )  # fmt: skip


def reader(film, info, broken=()):
    def read(part):
        clip = sample_frames(film, FRAMES, part=part, info=info)
        if any(begin < part.end_s and part.begin_s < end for begin, end in broken):
            raise UndecodableFrames("damaged")
        return clip

    return one_ahead(read)


@pytest.mark.slow
def test_lights_in_two_hours_are_found_to_the_second_in_bounded_memory(film):
    info = probe(film)
    whole = Span(0, info.duration_s)
    read = parts_reader(info, FRAMES, 32, partial(find_frames, film, info, size=32))
    tracemalloc.start()
    tubes = ground_film(read, light_finder, whole, FRAMES, list(LIGHTS))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # all frames of all windows at once are 44 MB
    for tube, (begin, end) in zip(tubes, LIGHTS.values(), strict=True):
        assert (tube.span.begin_s, tube.span.end_s) == (begin, end)
        assert (tube.begin_frame, tube.end_frame, tube.windows) == (begin, end, 899)
        assert (np.diff(tube.sampled_frames) > 0).all() and tube.boxes.shape == (end - begin, 4)
    assert tubes[0].boxes.tolist() == [[0, 8, 8, 16]] * 3


def test_windows_that_cannot_be_read_are_counted_and_cost_only_themselves(film):
    info = probe(film)
    read = reader(film, info, broken=[(1000, 1100)])
    [tube] = ground_film(read, light_finder, Span(900, 3700), FRAMES, ["a flash"])
    assert (tube.span.begin_s, tube.span.end_s) == LIGHTS["a flash"]
    assert tube.windows_unread == 14 and tube.windows + tube.windows_unread == 349
    with pytest.raises(UndecodableFrames, match="damaged"):
        ground_film(read, light_finder, Span(1010, 1090), FRAMES, ["a flash"])


def test_every_window_is_told_with_the_best_answer_so_far(film):
    info, told = probe(film), []
    read = reader(film, info, broken=[(1000, 1020)])
    [found, other] = ground_film(read, light_finder, Span(900, 3700), FRAMES, ["a flash", "the end"], told.append)
    assert [walked.done for walked in told] == list(range(350)) and {walked.total for walked in told} == {349}
    assert told[0].best == (None, None)
    sure = [walked.best[0].confidence for walked in told[1:]]
    assert sure == sorted(sure) and sure[0] == 0.2 and sure[-1] == found.confidence == 0.9
    assert told[-1].best[1].confidence == other.confidence and not len(told[-1].best[0].boxes)


def test_an_answer_nowhere_stays_an_answer_without_a_span(film):
    def mute(clip, questions):
        return [
            Answer([replace(found.best, span=None, begin_frame=0, end_frame=0, boxes=np.zeros((0, 4)))])
            for found in light_finder(clip, questions)
        ]

    info, told = probe(film), []
    [tube] = ground_film(reader(film, info), mute, Span(0, 100), FRAMES, ["a flash"], told.append)
    assert tube.span is None and tube.windows > 1 and told[-1].best == (None,)


@given(st.floats(0, 1e4), st.floats(0.1, 1e4), st.floats(1, 500), st.floats(0, 0.9))
def test_windows_cover_everything_and_overlap(begin, duration, length, overlap):
    whole = Span(begin, begin + duration)
    windows = plan_windows(whole, length, overlap)
    assert windows[0].begin_s == pytest.approx(whole.begin_s) and windows[-1].end_s == pytest.approx(whole.end_s)
    assert all(w.end_s - w.begin_s <= length + 1e-6 or (w == whole and duration <= length + 0.01) for w in windows)
    for a, b in pairwise(windows):
        assert b.begin_s > a.begin_s and a.end_s - b.begin_s >= overlap * length - 1e-6


def test_a_forged_length_makes_no_list_of_millions():
    assert len(plan_windows(Span(0, 24 * 3600), 2.0)) == 86_399  # a day, one frame a window
    with pytest.raises(TooLarge, match="137438953472 s are 17179869183 windows of 16 s, more than the allowed 100000"):
        plan_windows(Span(0, 2**37), 16.0)
    with pytest.raises(TooLarge, match="more than the allowed 3"):
        plan_windows(Span(0, 40), 16.0, max_windows=3)
    assert len(plan_windows(Span(0, 40), 16.0, max_windows=4)) == 4


@given(st.floats(0, 990), st.floats(0.01, 500), st.integers(4, 64))
def test_second_looks_are_denser_and_hold_the_borders(begin, duration, frames):
    span, whole = Span(begin, min(begin + duration, 1000)), Span(0, 1000)
    length, gap = frames * SECONDS_PER_FRAME, SECONDS_PER_FRAME
    seen = looks(span, whole, length, gap)
    assert all(part.end_s - part.begin_s <= max(length / 2, 4 * gap) + 1e-6 for part in seen)
    for border in (span.begin_s, span.end_s):
        assert any(part.begin_s <= border <= part.end_s for part in seen)


def test_a_film_is_what_frames_cover_badly():
    assert not is_film(16.0, 8) and is_film(16.1, 8) and not is_film(128, 64)
