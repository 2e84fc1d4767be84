"""``spacevllm report`` on an archive whose answers are the truth itself."""

from __future__ import annotations

import html
import re

import pyarrow as pa
import pytest

from jobs.report import ReportConfig, make
from pipelines.archive.answers import ANSWERS
from pipelines.core import storage
from pipelines.media.manifest import read_records
from spacevllm.video import probe


@pytest.fixture(scope="module")
def tubes(data, tmp_path_factory):
    """What ``ground`` writes: three right answers and a failed one."""
    out = tmp_path_factory.mktemp("tubes")
    records = [row for row in read_records(str(data), "test").to_pylist() if row["task"] == "stvg"][:3]
    rows = [right_answer(row, data) for row in records]
    rows.append(
        {"id": "gone", "video": "gone.mp4", "question": "where?", "status": "failed", "error": "missing: it is gone"}
    )
    storage.write_table(out / "tubes" / "part.parquet", pa.Table.from_pylist(rows, schema=ANSWERS))
    return out


def right_answer(row, data):
    same = ("question", "task", "begin_s", "end_s", "begin_frame", "end_frame", "num_frames", "width", "height")
    inside = range(row["begin_frame"], row["end_frame"])
    known = dict(zip(row["box_frames"], row["boxes"], strict=True))
    boxes = [{"frame": f, **dict(zip(("x1", "y1", "x2", "y2"), known[f], strict=True))} for f in inside]
    return {
        **{name: row[name] for name in same},
        "id": row["id"],
        "video": str(data / row["media"]),
        "status": "ok",
        "error": "",
        "boxes": boxes,
        "sampled_boxes": boxes,
        "answer": "",
        "confidence": 1.0,
        "fps": row["fps_num"] / row["fps_den"],
        "duration_s": row["duration_s"],
        "model_id": "truth",
        "model_digest": "0",
    }


def test_report_shows_each_answer_beside_the_truth(cli, tubes, data, tmp_path):
    status, out, error = cli("report", "--tubes", tubes, "--data", data, "--out", tmp_path / "r")
    assert status == 0, error
    assert out.splitlines()[-1] == f"report: {tmp_path / 'r' / 'report.html'}"
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("data:video/mp4;base64") == 3
    assert "missing: it is gone" in page
    assert "1.00" in page  # tIoU and vIoU of the truth with itself
    assert len(list((tmp_path / "r" / "clips").glob("*.mp4"))) == 3


def test_report_without_truth_shows_a_choice(cli, tubes, tmp_path):
    assert cli("report", "--tubes", tubes, "--out", tmp_path, "max_clips=2")[0] == 0
    assert (tmp_path / "report.html").read_text().count("data:video/mp4;base64") == 2


def test_the_surest_first_cut_to_their_spans(cli, tubes, tmp_path):
    rows = storage.read_table(tubes / "tubes").to_pylist()
    for number, row in enumerate(rows[:3]):
        row |= {"confidence": 0.3 * (number + 1), "present": number > 0}
    storage.write_table(tmp_path / "t" / "tubes" / "part.parquet", pa.Table.from_pylist(rows, schema=ANSWERS))
    arguments = ("--tubes", tmp_path / "t", "--out", tmp_path / "r", "order=confidence", "margin_s=0.5")
    status, _, error = cli("report", *arguments)
    assert status == 0, error
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.index(html.escape(rows[2]["question"])) < page.index(html.escape(rows[1]["question"]))
    assert page.count("data:video/mp4;base64") == 2  # the first is not there
    assert "2 answers, 1 not there, 1 failed" in page and "not there: confidence 30%" in page
    rest_s = float(re.search(r'data-begin="([^"]+)"', page)[1])  # at rest, the first frame that has a box
    assert 0 < rest_s + max(rows[2]["begin_s"] - 0.5, 0) - rows[2]["begin_s"] < 1 / rows[2]["fps"] + 1e-6
    clip = probe(tmp_path / "r" / "clips" / "0000.mp4")
    begin, end = max(rows[2]["begin_s"] - 0.5, 0), min(rows[2]["end_s"] + 0.5, rows[2]["duration_s"])
    assert clip.duration_s == pytest.approx(end - begin, abs=0.26)
    assert f'data-shown="{float(begin)}"' in page


def test_a_video_that_is_gone_since_costs_its_own_clip(cli, tubes, tmp_path):
    rows = storage.read_table(tubes / "tubes").to_pylist()
    rows[1] |= {"video": str(tmp_path / "moved.mp4")}
    older = pa.Table.from_pylist(rows[:2], schema=ANSWERS).drop_columns(["present"])  # of an older release
    storage.write_table(tmp_path / "t" / "tubes" / "a.parquet", older)
    storage.write_table(tmp_path / "t" / "tubes" / "b.parquet", pa.Table.from_pylist(rows[2:], schema=ANSWERS))
    status, out, error = cli("report", "--tubes", tmp_path / "t", "--out", tmp_path / "r")
    assert status == 3, error
    assert out.splitlines()[-1].endswith("report.html (1 clips could not be drawn, the page says why)")
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("data:video/mp4;base64") == 2
    assert f"missing: {tmp_path}/moved.mp4: No such file" in page and "missing: it is gone" in page
    summary = storage.read_json(tmp_path / "r" / "summary.json")
    assert [summary[name] for name in ("in", "ok", "failed", "found", "undrawn")] == [4, 3, 1, 3, 1]


def test_a_page_of_some_of_the_answers(tubes, tmp_path):
    first = storage.read_table(tubes / "tubes", ["id"])["id"][0].as_py()
    summary = make(ReportConfig(tubes=str(tubes), out=str(tmp_path)), {first})
    assert (summary["in"], summary["found"]) == (1, 1)


def test_no_answers_are_no_report(cli, tmp_path):
    (tmp_path / "t" / "tubes").mkdir(parents=True)
    status, _, error = cli("report", "--tubes", tmp_path / "t", "--out", tmp_path / "r")
    assert status == 2 and "holds no answers" in error and error.count("\n") == 1
