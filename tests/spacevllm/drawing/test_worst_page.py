"""The page of the worst: who is chosen, what is drawn, what is escaped; looked at in a browser where there is one."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from test_data_card_page import NASTY, sampled, tube

from spacevllm.drawing.strip import ACCENT, GAP, HEIGHT, TRUTH, draw_comparison
from spacevllm.drawing.worst import Case, render_worst
from spacevllm.span import Span


def test_truth_and_answer_are_drawn_each_in_its_span():
    answer = {14: np.array([0, 40, 40, 80]), 25: np.array([0, 40, 40, 80])}
    strip = np.asarray(draw_comparison(tube(), sampled([14, 25]), answer.get)).astype(int)
    width = 80 * HEIGHT // 60
    white, orange = (
        [bool((strip[:, n * (width + GAP) :][:, :width] == colour).all(-1).any()) for n in range(2)]
        for colour in (TRUTH, ACCENT)
    )
    assert (white, orange) == ([True, False], [True, True])  # frame 25 lies after the true span


def test_bars_lie_where_the_spans_do():
    spans = {"truth": Span(12, 14), "answered": Span(9, 11), "shown": Span(10, 20)}
    page = render_worst(
        "t", [Case("q", "who?", "a.mp4", 0.25, "vIoU", "ok", "From 9s to 11s.", **spans)], {"queries": 3}
    )
    assert re.findall(r'class="([ta])" style="left: ([\d.]+)%; width: ([\d.]+)%"', page) == [
        ("t", "20.00", "20.00"),
        ("a", "0.00", "10.00"),  # cut to what was shown
    ]
    assert "0.25<small>vIoU</small>" in page and "12.00 to 14.00 s" in page and "<dd>3</dd>" in page


def test_words_are_escaped_and_what_is_not_there_is_left_out():
    page = render_worst(NASTY, [Case(NASTY, NASTY, NASTY, 0.0, "correct", "unparsable", NASTY, wanted="B")], {})
    assert "<script>" not in page and page.count("&lt;script&gt;") >= 5
    assert "No frame could be read." in page and "(cannot be read)" in page and 'class="track"' not in page
    assert "Every query was answered perfectly" in render_worst("t", [], {})


def test_a_browser_shows_it_without_complaint(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("there is no Chromium here")
    case = Case("q", "who?", "a.mp4", 0.5, "vIoU", "ok", "x", truth=Span(1, 2), shown=Span(0, 4))
    (tmp_path / "worst.html").write_text(render_worst("The worst", [case] * 3, {}))
    complaints = []
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 390, "height": 800})
        tab.on("console", lambda message: complaints.append(message.text))
        tab.goto(f"file://{tmp_path}/worst.html")
        assert tab.locator("article").count() == 3
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390  # nothing sticks out on a phone
    assert not complaints
