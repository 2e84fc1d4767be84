"""Strips show the box where it is, the funnel names every count, the card escapes what it is told."""

from __future__ import annotations

import io
from base64 import b64decode
from fractions import Fraction
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
from PIL import Image

from spacevllm.data.instance import SCHEMA, Instance
from spacevllm.data.statistics import Statistics
from spacevllm.data.synthesis.funnel import funnel
from spacevllm.drawing.data_card import DataCard, Example, Origin, render_html, render_markdown
from spacevllm.drawing.funnel import draw_funnel
from spacevllm.drawing.strip import ACCENT, GAP, HEIGHT, box_at, draw_strip, to_data_uri
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames

NASTY = "<script>alert(1)</script> | & dog"


def tube(**changes):
    fields = {
        "id": "a", "task": "stvg", "source": "test", "split": "train", "media": "a.mp4", "media_type": "video",
        "question": NASTY, "begin_frame": 10, "end_frame": 20, "begin_s": 1.0, "end_s": 2.0, "box_frames": [10, 18],
        "boxes": [[0, 0, 40, 40], [80, 0, 120, 40]], "fps_num": 10, "num_frames": 30, "width": 160, "height": 120,
        "duration_s": 3.0,
    }  # fmt: skip
    return Instance(**(fields | changes))


def sampled(indices):
    info = VideoInfo(
        path="a.mp4", width=80, height=60, fps=Fraction(10), num_frames=30, duration_s=3.0, first_pts_s=0.0, rotation=0,
        mirrored=False, keyframes=(0,), independent_gops=True, times_s=np.arange(30) / 10, pts=np.arange(30),
        time_base=Fraction(1, 10), codec="h264", container="mp4",
    )  # fmt: skip
    frames = np.zeros((len(indices), 60, 80, 3), np.uint8)
    return SampledFrames(info, np.array(indices), np.array(indices) / 10, frames)


def test_the_box_is_drawn_where_it_is_and_only_in_the_span():
    strip = np.asarray(draw_strip(tube(), sampled([5, 14, 19, 25])))
    width = 80 * HEIGHT // 60
    assert strip.shape == (HEIGHT, 4 * (width + GAP) - GAP, 3)
    columns = [np.flatnonzero((strip[:, n * (width + GAP) :][:, :width] == ACCENT).all(-1).any(0)) for n in range(4)]
    assert not len(columns[0]) and not len(columns[3])
    scale = width / 160  # from the record's pixels to the strip's
    assert abs(columns[1].min() - 40 * scale) <= 2 and abs(columns[1].max() - 80 * scale) <= 2  # half-way
    assert abs(columns[2].min() - 80 * scale) <= 2  # after the last annotated frame it stands still
    assert box_at(tube(begin_frame=None, end_frame=None), 29) is not None and box_at(tube(), 20) is None


def test_the_picture_is_in_the_page():
    uri = to_data_uri(Image.new("RGB", (8, 6), (250, 0, 0)))
    picture = Image.open(io.BytesIO(b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (8, 6)


def test_the_funnel_is_a_picture_that_names_every_count():
    drawn = ElementTree.fromstring(
        draw_funnel(funnel(1200, [("refiner", "no_box")] * 300 + [("filter", "crowded")] * 90))
    )
    words = " ".join("".join(drawn.itertext()).split())
    for word in ("1,200 · 100%", "900 · 75%", "−25%: no box 300", "810 · 68%", "crowded 90", "about 60%"):
        assert word in words
    assert drawn.get("aria-label").startswith("analyzer keeps 1200 of 1200")
    assert draw_funnel(funnel(0, [])).startswith("<svg")


def test_the_card_escapes_what_it_is_told_and_does_without_anything():
    statistics = Statistics()
    empty = DataCard("Nothing", {}, Statistics(), 0)
    assert "0 records" in render_html(empty) and "Nothing." in render_markdown(empty)
    statistics.add(pa.Table.from_pylist([tube().to_row()], schema=SCHEMA))
    origin = Origin("test", "a|b.json", 2, 1, None, {NASTY: 1}, "")
    card = DataCard(NASTY, {"seed": "0"}, statistics, 1, [origin], examples=[Example(tube(), "")], left_out={NASTY: 3})
    page = render_html(card)
    assert "<script>" not in page and page.count("&lt;script&gt;") >= 4 and "could not be read" in page
    lines = render_markdown(card).splitlines()
    row = next(line for line in lines if line.startswith("| test | a"))
    assert row == r"| test | a\|b.json | – | 2 | 1 | 1: <script>alert(1)</script> \| & dog |"
    assert "| spatio-temporal (STVG) | 1 | 0 | 110,000 | 0.00 % |" in lines
