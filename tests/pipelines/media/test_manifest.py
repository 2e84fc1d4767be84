"""Manifest files: a row a question, in four formats; a row that is wrong costs itself and says why."""

from __future__ import annotations

import json
import os
from itertools import groupby
from operator import itemgetter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from pipelines.archive.plan import open_plan
from pipelines.archive.questions import read_questions
from pipelines.media.entries import SCHEMA, plain_rows
from pipelines.media.manifest import list_videos, media_rows, read_manifest
from spacevllm.config import ConfigError
from spacevllm.data.instance import instance_id

ROWS = [
    {"video": "clip0.mp4", "question": "a dog"},
    {"video": "clip0.mp4", "question": "a cat"},
    {"video": "clip0.mp4", "question": "a dog", "begin_s": 0.5, "end_s": 1.0},
    {"video": "clip1.mp4", "question": "a dog", "begin_s": 0.5},
]
WRITERS = {
    "jsonl": lambda path: path.write_text("\n\n".join(map(json.dumps, ROWS))),
    "json": lambda path: path.write_text(json.dumps(ROWS)),
    "csv": lambda path: path.write_text(
        "video,question,begin_s,end_s\n"
        "clip0.mp4,a dog,,\nclip0.mp4,a cat,,\nclip0.mp4,a dog,0.5,1\nclip1.mp4,a dog,0.5,\n"
    ),
    "parquet": lambda path: pq.write_table(pa.table({name: [row.get(name) for row in ROWS] for name in ROWS[2]}), path),
}


def listed(path):
    table = list_videos(str(path))
    assert table.schema.equals(SCHEMA)
    return table.to_pylist()


def pairs(manifest, *questions):
    """(uri, its questions) of every media that is asked something."""
    with open_plan() as plan:
        plan.ask(manifest if isinstance(manifest, pa.Table) else list_videos(str(manifest)), questions)
        rows = plan.database.execute(
            "SELECT uri, text FROM asked JOIN media USING (m) JOIN texts USING (q) ORDER BY uri, m, n"
        )
        return [(uri, [text for _, text in asked]) for uri, asked in groupby(rows.fetchall(), itemgetter(0))]


@pytest.mark.parametrize("form", WRITERS)
def test_all_formats_say_the_same(archive, form):
    WRITERS[form](archive / f"m.{form}")
    first, second, third = listed(archive / f"m.{form}")
    uri = str(archive / "clip0.mp4")  # beside the manifest
    assert (first["uri"], first["id"], first["questions"]) == (uri, instance_id(uri), ["a dog", "a cat"])
    assert (second["begin_s"], second["end_s"], second["questions"]) == (0.5, 1.0, ["a dog"])
    assert (third["begin_s"], third["end_s"]) == (0.5, None)
    assert first["version"] == second["version"] != ""
    assert len({first["id"], second["id"], third["id"]}) == 3
    assert next(row["id"] for row in listed(archive)) == first["id"]  # the folder's row is the same


def test_a_video_that_cannot_be_looked_at_costs_its_own_row(archive):
    """Its version is not known; the decoder will say what is wrong."""
    names = ["clip0.mp4", "x" * 300 + ".mp4", "clip0.mp4/inside.mp4", "nul\\u0000.mp4"]
    (archive / "m.jsonl").write_text("".join(f'{{"video": "{name}", "question": "q"}}\n' for name in names))
    rows = listed(archive / "m.jsonl")
    assert len(rows) == 4 and [bool(row["version"]) for row in rows].count(True) == 1
    assert media_rows({name: str(archive / name) for name in names[:3]})["version"].to_pylist()[1:] == ["", ""]


def test_a_row_that_is_wrong_costs_itself_and_says_why(archive):
    bad = {
        '{"video": "clip0.mp4"}': "it asks no question",
        '{"question": "a dog"}': "it names no video",
        '{"video": "clip0.mp4", "question": "q", "begin_s": 3, "end_s": 2}': "begin_s 3 is not before end_s 2",
        '{"video": "clip0.mp4", "question": "q", "begin_s": "soon"}': "begin_s: Input should be a valid number",
        '{"video": "clip0.mp4", "question": "q", "begin_s": -1}': "begin_s: Input should be greater than or equal to 0",
        '{"video": "clip0.mp4", "question": "q", "end_s": NaN}': "end_s: Input should be a finite number",
        '{"video": 7, "question": "q"}': "video: Input should be a valid string",
        '{"video": "htp://host/clip.mp4", "question": "q"}': "Protocol not known: htp",
        '{"video": "zip://a.mp4::/nowhere/x.zip", "question": "q"}': "No such file or directory",
        '{"video": ': "is no JSON",
        "[]": "is no object",
    }
    (archive / "m.jsonl").write_text("\n".join(['{"video": "clip0.mp4", "question": "a dog"}', *bad]))
    rows = {row["uri"].rpartition("#")[2]: row for row in listed(archive / "m.jsonl")}
    assert len(rows) == 1 + len(bad) and rows[str(archive / "clip0.mp4")]["error"] == ""
    for number, reason in enumerate(bad.values(), start=2):
        assert rows[str(number)]["error"].startswith(f"manifest: m.jsonl row {number}: ")
        assert reason in rows[str(number)]["error"]
    assert sum(len(asked) for _, asked in pairs(archive / "m.jsonl")) == 1 + len(bad)  # each has its row in the output


def test_a_manifest_names_only_what_is_allowed(archive, tmp_path):
    """Where a row may not look, nothing tells it whether something is there."""
    allowed, secret = archive, tmp_path / "archive-secret"
    secret.mkdir()
    (secret / "s.mp4").write_bytes(b"x")
    (allowed / "link.mp4").symlink_to(secret / "s.mp4")
    (secret / "deep").mkdir()
    (allowed / "folder").symlink_to(secret / "deep")
    (allowed / "beside.mp4").symlink_to(allowed / "clip1.mp4")
    inside = [
        "clip0.mp4", "beside.mp4", "gone.mp4", "./x/../clip2.mp4", f"file://{allowed}/clip3.mp4", "http://127.0.0.1:9/b.mp4",
    ]  # fmt: skip
    outside = [
        f"{secret}/s.mp4", f"{secret}/gone.mp4", "../archive-secret/no.mp4", "x/../../archive-secret/n.mp4", "link.mp4",
        f"file://{secret}/t.mp4", "s3://team/ab.mp4", "s3://team/a/../c.mp4", "https://host/videos/%2e%2e/c.mp4",
        "https://host@other/videos/c.mp4", "https://host/other/c.mp4", "zip://a.mp4::https://host/videos/a.zip",
        "ftp://127.0.0.1:9/a.mp4", f"file://{allowed}/folder/../s.mp4", "https://host/videos/a.mp4::file:///etc/passwd",
    ]  # fmt: skip
    (allowed / "m.json").write_text(json.dumps([{"video": name, "question": "q"} for name in [*inside, *outside]]))
    allow = [str(allowed), "s3://team/a", "https://host/videos/", "http://127.0.0.1:9"]
    found = list_videos(str(allowed / "m.json"), allow).to_pylist()
    errors = {row["uri"]: row["error"] for row in found if row["error"]}
    assert set(errors) == {f"{allowed}/m.json#{n}" for n in range(len(inside) + 1, len(inside) + len(outside) + 1)}
    for error in errors.values():
        assert error.startswith("not_allowed: m.json row ") and "--allow PREFIX" in error
    assert all(row["version"] == row["error"] for row in found if row["error"])  # none was looked at
    assert len(found) == len(inside) + len(outside)


def test_a_row_with_too_many_cells_is_wrong(archive):
    (archive / "m.csv").write_text("video,question\nclip0.mp4,a dog\nclip1.mp4,a dog, and a cat\n")
    assert [row["error"] for row in listed(archive / "m.csv")] == [
        "",
        "manifest: m.csv row 2: line 3 has more cells than the header",
    ]


def test_questions_for_all_are_asked_beside_the_rows_own(archive):
    (archive / "m.csv").write_text("video\nclip0.mp4\nclip1.mp4\n")
    assert [asked for _, asked in pairs(archive / "m.csv", ("", "a dog"), ("clip1.mp4", "a cat"))] == [
        ["a dog"],
        ["a dog", "a cat"],
    ]
    assert pairs(archive / "m.csv") == []


def test_a_video_that_is_not_there_is_a_row(archive):
    (archive / "m.csv").write_text("video,question\ngone.mp4,a dog\nhttp://127.0.0.1:9/x.mp4,a dog\n")
    assert [row["version"] for row in listed(archive / "m.csv")] == ["", ""]


def test_a_name_that_no_table_can_hold_costs_its_own_row(archive):
    (archive / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"")
    manifest = list_videos(str(archive))
    [row] = [row for row in manifest.to_pylist() if row["error"]]
    assert row["uri"] == str(archive / "caf\\xe9.mp4") and "not UTF-8" in row["error"]
    assert pairs(manifest, ("", "what?")) == [(uri, ["what?"]) for uri in manifest["uri"].to_pylist()]
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        read_questions(os.fsdecode(b"caf\xe9?"), None)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("m.csv", b"clip0.mp4,a dog\n", "no manifest: it has no row with a video"),
        ("m.csv", b"vido;question\na.mp4;q\n", "(columns: vido;question; read: video, question, begin_s, end_s)"),
        ("m.csv", b"video,question,begin,end\na.mp4,q,0,1\n", "column 'begin' is not read, did you mean 'begin_s'?"),
        ("m.csv", b"video,query\na.mp4,q\n", "column 'query' is not read, did you mean 'question'?"),
        ("m.json", b"{}", "a list of objects is needed"),
        ("m.parquet", b"PAR1", "cannot be read"),
        ("m.csv", b"\xff\xfe\x00", "no UTF-8 text"),
        ("gone.csv", None, "no such file"),
    ],
)
def test_a_file_that_is_no_manifest_is_an_error(tmp_path, name, content, why):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        list_videos(str(tmp_path / name))


def test_questions_files_may_be_parquet_and_name_no_parts(tmp_path):
    pq.write_table(pa.table({"question": ["a dog"], "video": ["a.mp4"]}), tmp_path / "q.parquet")
    assert read_questions((), str(tmp_path / "q.parquet")) == [("a.mp4", "a dog")]
    (tmp_path / "q.csv").write_text("question,begin_s\na dog,3\n")
    with pytest.raises(ConfigError, match="only a manifest"):
        read_questions((), str(tmp_path / "q.csv"))


def test_two_borders_that_are_the_video_s_own_are_the_same_part(archive):
    rows = [{"video": "clip0.mp4", "question": q, "begin_s": b} for q, b in (("a", None), ("b", 0))]
    (archive / "m.json").write_text(json.dumps(rows))
    [row] = listed(archive / "m.json")
    assert row["questions"] == ["a", "b"] and row["begin_s"] is None


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_a_newline_ends_a_line(archive, end):
    """Unicode's other line ends may stand in JSON text and in a question."""
    texts = [f"a{mark}dog" for mark in "\u2028\u2029\x85\x0c"]
    rows = [json.dumps({"video": "clip0.mp4", "question": text}, ensure_ascii=False) for text in texts]
    (archive / "m.jsonl").write_bytes(end.join([*rows, "", ""]).encode())
    [row] = listed(archive / "m.jsonl")
    assert row["questions"] == texts and not row["error"]
    (archive / "q.txt").write_bytes(end.join([*texts, "", ""]).encode())
    assert read_questions((), str(archive / "q.txt")) == [("", text) for text in texts]


ROW = {"video": "clip0.mp4", "question": "a dog", "begin_s": 0.5, "end_s": 1.0}
ODD_ROWS = [
    *({"video": v} for v in (" clip1.mp4", "clip1.mp4\n", "./clip1.mp4", "../archive/clip1.mp4", "a//x.mp4", "a.mp4/")),
    *({"video": v} for v in ("file:///x.mp4", "memory://x.mp4", "ftp2://x", "a::b.mp4", "~x.mp4", "nul\0.mp4", "")),
    *({"video": v} for v in (None, "/", ".", "s3", "é/clip\u200d.mp4", "x" * 300 + ".mp4", "a?b#c.mp4", "%41.mp4")),
    *({"question": q} for q in (None, "", "  ", " a dog ", "a\tdog", "né?", "a dog")),
    *({"begin_s": b} for b in (None, 0.0, -1.0, float("nan"), float("inf"), 1.0, 2.0, 1e-320)),
    *({"end_s": e} for e in (None, 0.0, -1.0, float("nan"), float("inf"), 0.5, 1e16)),
    *({"video": f"{v}.mp4", "listed_version": v, "listed_size": 7} for v in ("etag", "", None)),
]  # fmt: skip


def test_a_parquet_manifest_read_by_columns_says_what_its_rows_say(archive):
    """JSON lines are read row by row; what is wrong with a row is told in the same words."""
    rows = [ROW, *(ROW | odd for odd in ODD_ROWS)]
    names = [*ROW, "listed_version", "listed_size"]
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    pq.write_table(table, archive / "m.parquet")
    (archive / "m.jsonl").write_text("".join(json.dumps({k: row.get(k) for k in names}) + "\n" for row in rows))
    by_columns, by_rows = read_manifest(str(archive / "m.parquet"), ()), read_manifest(str(archive / "m.jsonl"), ())
    told = [str(row).replace("m.jsonl", "m.parquet") for row in by_rows.to_pylist()]
    assert [str(row) for row in by_columns.to_pylist()] == told
    assert plain_rows(str(archive / "m.parquet")).plain.sum() > 10
    listed_rows = listed(archive / "m.parquet")
    whole = [[row for row in listed(archive / f"m.{form}") if not row["error"]] for form in ("parquet", "jsonl")]
    assert whole[0] == whole[1] and len(whole[0]) > 10
    assert {row["version"] for row in listed_rows if row["size"] == 7} == {"etag"}  # and was not looked up


def test_a_listed_archive_is_not_looked_at_again(archive, capsys):
    """Nor does it change a fingerprint whether a video was listed before or now."""
    assert main(["list", "--videos", str(archive), "--out", str(archive / "m.parquet")]) == 0
    assert "m.parquet (7 videos)" in capsys.readouterr().out
    before = listed(archive)
    assert listed(archive / "m.parquet") == before and {row["size"] for row in before} > {0, 11}
    (archive / "clip0.mp4").write_bytes(b"another")
    assert listed(archive / "m.parquet") == before
    assert main(["list", "--videos", str(archive), "--out", str(archive / "m.parquet")]) == 0  # again: now it is seen
    assert listed(archive / "m.parquet") == listed(archive) != before
    (archive / "q.csv").write_text(
        "video,question,begin_s\nclip1.mp4,a,\nclip1.mp4,b,\nclip2.mp4,a,1\ngone.mp4,a,\nclip2.mp4,a,-1\n"
    )
    assert main(["list", "--videos", str(archive / "q.csv"), "--out", str(archive / "m.parquet")]) == 0
    assert "3 videos; 1 left out: manifest: q.csv row 5: begin_s" in capsys.readouterr().out.replace("\n", " ")
    parts = [row for row in listed(archive / "q.csv") if not row["error"]]
    assert listed(archive / "m.parquet") == parts
    assert main(["list", "--videos", str(archive), "--out", str(archive / "m.csv")]) == 2
