"""The page, parsed as a browser would: what it says, what it embeds, and that it reaches for nothing outside."""

from __future__ import annotations

import base64
import html
import re
from html.parser import HTMLParser

import pytest
from drawn_clips import make_truth, make_tube, unread_tube, write_clip

from spacevllm.answer import Answer
from spacevllm.data.instance import TrueTube
from spacevllm.drawing.overlay import draw_overlay
from spacevllm.drawing.report import ReportItem, score_tables, write_report
from spacevllm.evaluation.scoring import evaluate

NASTY = '<script>alert("x")</script> & "what" is https://evil.example/x.png?'


class Page(HTMLParser):
    """Tags with their attributes, and the text outside script and style."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.hidden = [], [], 0
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.hidden:
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="module")
def written(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tube, truth = make_tube(clip), make_truth()
    overlay = draw_overlay(clip, [tube], folder / "overlays" / "one two.mp4", truth)
    scores, rows = evaluate([truth, make_truth(id="b", sentence_type="interrogative")], {"a": tube}, draws=2)
    items = [
        ReportItem(NASTY, str(clip), tube, truth, overlay, rows[0]["tiou"], rows[0]["viou"]),
        ReportItem("unread", "b.mp4", unread_tube(clip)),
        ReportItem("bad <b>", "broken.mp4", status="not_a_video", error="broken.mp4: not <a> video"),
    ]
    out = write_report(folder / "index.html", "Demo <1>", scores, items, {"model": "<tiny>", "steps": 5})
    return overlay, Page(out)


def test_it_is_one_file_that_fetches_nothing(written):
    _, page = written
    assert not page.all("link") and not page.all("iframe") and not page.all("img")
    for _, attributes in page.tags:
        for name in ("src", "href", "poster", "srcset", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:")
        assert "url(" not in attributes.get("style", "")
    styles = re.findall(r"<style>(.*?)</style>", page.source, re.S)
    assert styles and not any("url(" in style or "@import" in style for style in styles)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_the_overlay_is_embedded_byte_by_byte(written):
    overlay, page = written
    [video] = page.all("video")
    kind, data = video["src"].split(",", 1)
    assert kind == "data:video/mp4;base64"
    assert base64.b64decode(data) == overlay.read_bytes()


def test_every_text_is_escaped_and_there(written):
    _, page = written
    assert html.escape(NASTY).replace("&quot;", "&#34;") in page.source
    assert "alert(" not in "".join(re.findall(r"<script>(.*?)</script>", page.source, re.S))
    assert page.source.count("<script>") == 1
    for text in (NASTY, "unread", "bad <b>", "Demo <1>", "<tiny>", "not <a> video", "broken.mp4", "I see <nothing>."):
        assert text in page.text


def test_scores_stand_beside_their_baselines(written):
    _, page = written
    for text in ("protocol dense", "m_vIoU", "this model", "interrogative (1)", "centre box, whole clip",
                 "random object, random span", "2 questions", "1 without an answer"):  # fmt: skip
        assert text in page.text


def test_the_timeline_has_prediction_and_truth(written):
    _, page = written
    bars = {a["class"]: (a["x"], a["width"]) for a in page.all("rect") if a["class"] in ("answer", "truth")}
    assert bars == {"answer": ("25.0%", "50.0%"), "truth": ("10.0%", "50.0%")}
    assert "0.50 – 1.50 s" in page.text and "0.20 – 1.20 s" in page.text


def test_an_answer_of_several_tubes_has_a_bar_for_each(clip, tmp_path):
    again, other = make_tube(clip, 16, 20), make_tube(clip, 4, 10, confidence=0.1, track=1)
    answer = Answer([make_tube(clip, confidence=0.9), again, other])
    truth = make_truth(more=[TrueTube(0, 1.5, 2.0, 15, 20)])
    item = ReportItem("twice", str(clip), answer, truth)
    scores = {"several": {"stvg": {"set_tIoU": 0.25, "recall@0.5": 0.5, "n_queries": 7}}}
    page = Page(write_report(tmp_path / "index.html", "Demo", scores, [item]))
    bars = [(a["x"], a["y"], a["height"]) for a in page.all("rect") if a["class"] == "answer"]
    assert bars == [("25.0%", "6.0", "6.0"), ("80.0%", "6.0", "6.0"), ("20.0%", "12.0", "6.0")]
    assert len([a for a in page.all("rect") if a["class"] == "truth"]) == 2
    for text in ("1.60 – 2.00 s", "1.50 – 2.00 s", "7 questions with several right tubes", "set_tIoU", "25.0"):
        assert text in page.text


def test_counts_and_failures(written):
    _, page = written
    assert "3 questions about 3 videos: 2 answers, 1 failed." in page.text
    assert "not_a_video: broken.mp4: not <a> video" in page.text
    assert "no time could be read" in page.text
    assert "1 clip is embedded in this page." in page.text


@pytest.mark.parametrize("limits", [{"max_videos": 1}, {"max_megabytes": 0.012}])
def test_what_is_left_out_is_said_and_linked(clip, tmp_path, limits):
    tube = make_tube(clip)
    overlays = [draw_overlay(clip, [tube], tmp_path / place) for place in ("page/a.mp4", "page/b 1.mp4", "else/c.mp4")]
    assert all(6_000 < overlay.stat().st_size < 12_000 for overlay in overlays)  # two do not fit the bytes
    items = [ReportItem("q", "clip.mp4", tube, overlay=overlay) for overlay in overlays]
    page = Page(write_report(tmp_path / "page" / "index.html", "T", None, items, **limits))
    assert len(page.all("video")) == 1
    assert [a["href"] for a in page.all("a")] == ["b%201.mp4"]  # c does not travel with the page
    assert "c.mp4, 0.0 MB" in page.text
    assert "2 more were left out: a page holds at most" in page.text


def test_an_empty_report_still_is_a_page(tmp_path):
    page = Page(write_report(tmp_path / "deep" / "index.html", "Nothing yet", None, []))
    assert "0 questions about 0 videos" in page.text
    assert not page.all("table")


def test_a_missing_overlay_is_an_error(clip, tmp_path):
    with pytest.raises(FileNotFoundError):
        write_report(
            tmp_path / "a.html", "T", None, [ReportItem("q", "v", make_tube(clip), overlay=tmp_path / "no.mp4")]
        )


def test_score_tables_have_the_same_columns_in_every_line():
    truth = make_truth()
    qa = make_truth(id="c", task="qa", options=["yes", "no"], answer="no")
    tables = score_tables(evaluate([truth, make_truth(id="v", task="vtg"), qa], {"c": "(B)"}, draws=2)[0])
    assert [table.title for table in tables] == ["When and where", "When", "Multiple choice"]
    assert tables[2].columns == ["accuracy"] and tables[2].lines[0].values == [1.0]
    for table in tables:
        assert {len(line.values) for line in table.lines} == {len(table.columns)}
        assert [line.kind for line in table.lines].count("baseline") >= 1


def test_scores_come_from_evaluations_summary_as_it_is():
    dense = {"m_tIoU": 0.5, "n_queries": 2, "n_missing": 0, "n_unparsable": 0}
    summary = {"stage": "evaluate", "in": 2, "errors": {}, "stvg": {"dense": dense, "baselines": {}}, "vtg": {}}
    [table] = score_tables(summary)
    assert table.columns == ["m_tIoU"] and table.lines[0].values == [0.5]


def test_presence_is_a_table_beside_chance():
    found = {"auroc": 0.9, "false_alarms@recall0.95": 0.25, "recall": 0.8, "false_alarms": 0.1}
    [table] = score_tables({"stvg": {}, "presence": found | {"n_present": 6, "n_absent": 4}})
    assert (table.title, table.note) == ("Is it there?", "6 questions about what is there, 4 about what is not")
    assert table.columns[:2] == ["AUROC", "false alarms at 95% recall"]
    model, chance = table.lines
    assert model.values == [0.9, 0.25, 0.8, 0.1] and chance.values == [0.5, 0.95, None, None]
    assert score_tables({"presence": {}}) == []
