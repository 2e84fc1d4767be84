"""Overlays of real MP4s, decoded again and looked at pixel by pixel."""

from __future__ import annotations

import re

import av
import numpy as np
import pytest
from drawn_clips import BOX, HEIGHT, NUM_FRAMES, WIDTH, make_truth, make_tube, unread_tube, write_clip
from PIL import ImageColor

from spacevllm.answer import Answer
from spacevllm.data.instance import TrueTube
from spacevllm.drawing.overlay import TRUTH, draw_overlay, truth_marks
from spacevllm.video.errors import NotAVideo, UndecodableFrames
from spacevllm.video.overlay import COLOURS, GROUND, MAX_HEIGHT, MAX_SIDE, MIN_WIDTH, TRACK, Canvas
from spacevllm.video.probe import probe
from spacevllm.video.reader import read_frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


def decode(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])  # (N, H, W, 3)


def is_colour(pixel, colour: str) -> bool:
    return np.abs(pixel.astype(int) - ImageColor.getrgb(colour)).max() < 40  # chroma is coded at half size


class Drawn:
    """A decoded overlay and where things are in it."""

    def __init__(self, path, video, marks):
        self.frames, self.canvas = decode(path), Canvas(probe(video), marks)

    def at(self, frame: int, x: float, y: float) -> np.ndarray:
        """The pixel that shows point (x, y) of the upright video."""
        scale = self.canvas.scale
        return self.frames[frame, round(self.canvas.top + y * scale), round(self.canvas.left + x * scale)]

    def bar(self, row: int, seconds: float, frame: int = 0) -> np.ndarray:
        """The timeline of mark ``row`` at a time."""
        above = sum(self.canvas.bars[:row]) + row * (self.canvas.pad // 2)
        y = self.canvas.top + self.canvas.picture[1] + self.canvas.pad + above + self.canvas.bars[row] // 2
        return self.frames[frame, y, round(self.canvas._x(seconds))]


@pytest.fixture(scope="module")
def drawn(clip, tmp_path_factory):
    tube, truth = make_tube(clip), make_truth()
    out = draw_overlay(clip, [tube], tmp_path_factory.mktemp("out") / "deep" / "a.mp4", truth)
    return Drawn(out, clip, [tube.mark(COLOURS[0]), *truth_marks(truth)])


def test_every_frame_is_there_and_browsers_can_play_it(drawn, clip, tmp_path):
    out = draw_overlay(clip, [make_tube(clip)], tmp_path / "a.mp4")
    info = probe(out)
    assert (info.codec, info.num_frames, info.duration_s) == ("h264", NUM_FRAMES, pytest.approx(2.0, abs=0.02))
    np.testing.assert_allclose(info.times_s, np.arange(NUM_FRAMES) / 10, atol=1e-3)
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    head = out.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # the index comes first: playing starts before all is loaded


def test_small_videos_grow_until_text_is_legible(drawn):
    assert drawn.frames.shape[1:3] == drawn.canvas.size[::-1]
    assert drawn.canvas.picture == (MIN_WIDTH, HEIGHT * MIN_WIDTH // WIDTH)


@pytest.mark.parametrize("edge", [(BOX[0], 60), (BOX[2], 60), (70, BOX[1]), (70, BOX[3])])
def test_the_box_is_drawn_in_the_span_only(drawn, edge):
    inside = [is_colour(drawn.at(frame, *edge), COLOURS[0]) for frame in range(NUM_FRAMES)]
    assert inside == [5 <= frame < 15 for frame in range(NUM_FRAMES)]


def test_the_truth_is_drawn_in_its_own_span(drawn):
    edge = [is_colour(drawn.at(frame, 140, 80), TRUTH) for frame in range(NUM_FRAMES)]
    assert edge == [2 <= frame < 12 for frame in range(NUM_FRAMES)]


def test_the_picture_itself_is_untouched(drawn):
    assert np.abs(drawn.at(10, 20, 20).astype(int) - 20).max() < 12
    assert np.abs(drawn.at(10, 150, 20).astype(int) - 120).max() < 12


def test_the_timeline_shows_both_spans_and_a_playhead(drawn):
    assert is_colour(drawn.bar(0, 1.0), COLOURS[0]) and is_colour(drawn.bar(0, 1.8), TRACK)
    assert is_colour(drawn.bar(1, 1.0), TRUTH) and is_colour(drawn.bar(1, 1.6), TRACK)
    assert is_colour(drawn.bar(0, 1.7, frame=17), "#ffffff")


def test_several_tubes_have_colours_of_their_own(clip, tmp_path):
    tubes = [make_tube(clip, box=(10 + 50 * i, 20, 40 + 50 * i, 50), question=f"object {i}") for i in range(3)]
    drawn = Drawn(
        draw_overlay(clip, tubes, tmp_path / "a.mp4"),
        clip,
        [t.mark(c) for t, c in zip(tubes, COLOURS, strict=False)],
    )
    for i in range(3):
        assert is_colour(drawn.at(10, 10 + 50 * i, 35), COLOURS[i])
        assert is_colour(drawn.bar(i, 1.0), COLOURS[i])


def test_two_spans_of_one_thing_share_its_colour_and_its_bar(clip, tmp_path):
    answer = Answer(
        [
            make_tube(clip, 2, 6, confidence=0.9),
            make_tube(clip, 12, 16, confidence=0.8),
            make_tube(clip, 4, 10, box=(110, 30, 150, 90), track=1),
        ]
    )
    marks = answer.marks(COLOURS)
    assert [(mark.text, mark.detail) for mark in marks] == [
        ("the dark corner", "0.20 to 0.60 s; 1.20 to 1.60 s"),
        ("the dark corner (2)", "0.40 to 1.00 s"),
    ]
    drawn = Drawn(draw_overlay(clip, [answer], tmp_path / "a.mp4"), clip, marks)
    assert Drawn(answer.draw(tmp_path / "b.mp4"), clip, marks).frames.shape == drawn.frames.shape
    for edge, colour, frames in (
        (BOX[0], COLOURS[0], {2, 3, 4, 5, 12, 13, 14, 15}),
        (110, COLOURS[1], {*range(4, 10)}),
    ):
        assert {f for f in range(NUM_FRAMES) if is_colour(drawn.at(f, edge, 60), colour)} == frames
    bars = [[is_colour(drawn.bar(row, s), COLOURS[row]) for s in (0.45, 0.8, 1.4)] for row in range(2)]
    assert bars == [[True, False, True], [True, True, False]]


def test_the_truth_has_all_of_its_spans():
    far = TrueTube(1, 1.0, 1.5, 10, 15, [10, 14], [[0.0, 0.0, 9.0, 9.0]] * 2)
    first, other = truth_marks(make_truth(more=[TrueTube(0, 1.8, 2.0, 18, 20), far]))
    assert first.spans_s == [(0.2, 1.2), (1.8, 2.0)] and other.spans_s == [(1.0, 1.5)]
    assert first.is_truth and other.box_on(12).tolist() == [0, 0, 9, 9] and other.box_on(9) is None


def test_an_answer_without_a_span_keeps_its_caption(clip, tmp_path):
    tube = unread_tube(clip)
    drawn = Drawn(draw_overlay(clip, [tube], tmp_path / "a.mp4"), clip, [tube.mark(COLOURS[0])])
    assert is_colour(drawn.bar(0, 1.0), TRACK)
    assert drawn.frames[0, : drawn.canvas.top].max() > 200  # text


def test_a_tube_draws_itself(clip, tmp_path):
    assert len(decode(make_tube(clip).draw(tmp_path / "a.mp4"))) == NUM_FRAMES


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_picture_is_drawn_upright_as_the_model_saw_it(tmp_path, rotation, mirrored):
    clip = write_clip(tmp_path / "turned.mp4", rotation=rotation, mirrored=mirrored)
    info = probe(clip)
    tube = make_tube(clip, width=info.width, height=info.height, box=(20, 30, 80, 90))
    drawn = Drawn(draw_overlay(clip, [tube], tmp_path / "a.mp4"), clip, [tube.mark(COLOURS[0])])
    assert (drawn.canvas.picture[0] < drawn.canvas.picture[1]) == (rotation in (90, 270))
    assert is_colour(drawn.at(10, 50, 30), COLOURS[0])
    dark = read_frames(info, [0])[0].mean(-1) < 60  # (H, W)
    rows, columns = np.nonzero(dark)
    assert drawn.at(0, columns.mean(), rows.mean()).mean() < 60


def test_variable_rate_and_late_start_keep_their_times(tmp_path):
    steps = [0, 1, 2, 6, 7, 8, 12, 15]
    clip = write_clip(tmp_path / "late.mp4", steps=steps, first=3)
    tube = make_tube(clip, 2, 4, num_frames=8)
    out = draw_overlay(clip, [tube], tmp_path / "a.mp4")
    np.testing.assert_allclose(probe(out).times_s, np.array(steps) / 10, atol=1e-3)
    drawn = Drawn(out, clip, [tube.mark(COLOURS[0])])
    assert [is_colour(drawn.at(f, BOX[0], 60), COLOURS[0]) for f in range(8)] == [2 <= f < 4 for f in range(8)]


def test_large_and_odd_sizes(tmp_path):
    clip = write_clip(tmp_path / "large.mp4", size=(1922, 1082), num_frames=2)
    frames = decode(draw_overlay(clip, [make_tube(clip, 0, 1, (100, 100, 900, 900))], tmp_path / "a.mp4"))
    assert frames.shape[2] == MAX_SIDE and frames.shape[1] % 2 == 0


@pytest.mark.parametrize(
    "question", ["", "word " * 80, "x" * 300, "<b>&amp;</b>", "où est le chien…", "\n\n two \t lines"]
)
def test_any_question_fits(clip, tmp_path, question):
    frames = decode(draw_overlay(clip, [make_tube(clip, question=question)], tmp_path / "a.mp4"))
    assert len(frames) == NUM_FRAMES and frames.shape[1] < 700


def test_boxes_beyond_the_frame_or_unknown_do_no_harm(clip, tmp_path):
    boxes = np.array([[-50, -50, 500, 500], [np.nan] * 4, [100, 90, 40, 30]])
    assert len(decode(draw_overlay(clip, [make_tube(clip, 3, 6, boxes)], tmp_path / "a.mp4"))) == NUM_FRAMES


def test_a_bad_video_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.txt.mp4").write_text("not a video at all")
    (tmp_path / "out").mkdir()
    with pytest.raises(NotAVideo):
        draw_overlay(tmp_path / "a.txt.mp4", [], tmp_path / "out" / "a.mp4")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("size", [(16, 1024), (2, 3000), (400, 3000), (3000, 2)])
def test_very_tall_and_very_wide_pictures(tmp_path, size):
    clip = write_clip(tmp_path / "thin.mov", size=size, num_frames=2, codec="png")
    tube = make_tube(clip, 0, 2, (0, 0, *size), question="a question about it")
    drawn = Drawn(draw_overlay(clip, [tube], tmp_path / "a.mp4"), clip, [tube.mark(COLOURS[0])])
    (width, height), (left, top) = drawn.canvas.picture, (drawn.canvas.left, drawn.canvas.top)
    assert drawn.frames.shape[2] >= MIN_WIDTH and height <= MAX_HEIGHT and left * 2 + width == drawn.frames.shape[2]
    assert left == 0 or is_colour(drawn.frames[0, top + height // 2, left // 2], GROUND)


def test_damaged_packets_cost_their_own_frames(tmp_path):
    """Every packet of a PNG stream ends in an error of the codec's own."""
    clip = write_clip(tmp_path / "clip.mov", codec="png")
    whole = len(decode(draw_overlay(clip, [], tmp_path / "a.mp4")))
    data = bytearray(clip.read_bytes())
    at = [found.start() for found in re.finditer(b"\x89PNG", data)]
    for start in at[3:5]:
        data[start : start + 16] = bytes(16)
    clip.write_bytes(data)
    assert len(decode(draw_overlay(clip, [], tmp_path / "b.mp4"))) == whole - 2
    for start in at:
        data[start : start + 16] = bytes(16)
    clip.write_bytes(data)
    with pytest.raises(UndecodableFrames):
        draw_overlay(clip, [], tmp_path / "c.mp4")
