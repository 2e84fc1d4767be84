"""The plan of a run in DuckDB says what the functions in Python say, row for row."""

from __future__ import annotations

import pyarrow as pa
import pytest
import standin

from pipelines.archive.plan import open_plan
from pipelines.archive.predict import describe
from pipelines.archive.tubes import results_of
from pipelines.archive.work import WORK, Question, make_work, wanted_ids
from pipelines.core import failures, storage
from pipelines.core.commits import Block, committing
from pipelines.core.ids import Ids
from pipelines.core.keys import Keys
from pipelines.core.results import count_rows
from pipelines.media.manifest import SCHEMA
from pipelines.media.stream import Chunks
from spacevllm.config import ConfigError
from spacevllm.data.instance import instance_id

MODEL = describe("m", standin.load)
UGLY = [
    "/a b/é😀.mp4",
    "s3://b/x'\"\\%41?.mp4",
    "/nul\0.mp4",
    "/sep\x1f.mp4",
    "/new\nline.mp4",
    " ",
    "/" + "long" * 900,
]
PARTS = [(None, None), (0.5, None), (None, 1e16), (1e-7, 0.1 + 0.2), (12.0, 13.25), (1 / 3, 2e22), (None, None)]
VERSIONS = ["etag", None, "", "12-17.25", "é", "v\x1f1", "x"]
TEXTS = ["a dog", "", 'who\'s "there"?', "né\u2028e\t%s", "a\x1fdog", "{}", "a dog"]


def manifest():
    """Rows of ``SCHEMA`` with ugly names, parts, versions and questions of their own."""
    rows = [
        {
            "id": instance_id(uri, *((begin or 0.0, end) if (begin, end) != (None, None) else ())),
            "uri": uri,
            "media": uri,
        }
        | {"version": version, "begin_s": begin, "end_s": end, "questions": [text], "error": ""}
        for uri, (begin, end), version, text in zip(UGLY, PARTS, VERSIONS, TEXTS, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def planned(plan, table, *texts, windows="auto"):
    plan.ask(table, [("", text) for text in texts])
    plan.mark(MODEL, windows)
    return plan


def table_of(plan):
    return pa.concat_tables([WORK.empty_table(), *plan.work()])


def by_hand(table, *texts, windows="auto"):
    asked = []
    for row in table.to_pylist():
        mine = [text for text in dict.fromkeys([*texts, *row["questions"]]) if text or not texts]
        asked.append((row, [Question(instance_id(row["id"], text), "stvg", text) for text in mine]))
    return make_work(asked, MODEL, windows)


@pytest.mark.parametrize(("windows", "texts"), [("auto", ["a dog", "eine Katze, né"]), ("off", [])])
def test_ids_and_fingerprints_are_those_of_python(tmp_path, windows, texts):
    table = manifest()
    with open_plan() as plan:
        planned(plan, table, *texts, windows=windows)
        plan.find_missing(results_of(str(tmp_path), "g"), failures.again("none"))
        work, hand = table_of(plan), by_hand(table, *texts, windows=windows)
        assert work.schema.equals(hand.schema) and work.to_pylist() == hand.to_pylist()
        assert set(plan.ids) == set(wanted_ids(hand)) and plan.num_pairs == len(plan.ids)
        names = pa.chunked_array([[*plan.ids, "0" * 16, "no id"]], pa.string())
        assert plan.among(names) == wanted_ids(hand)


def test_two_questions_with_one_id_are_refused(tmp_path):
    [row] = manifest().slice(4, 1).to_pylist()
    rows = [row | {"id": "a", "questions": ["b\x1fc"]}, row | {"id": "a\x1fb", "uri": "/other.mp4", "questions": ["c"]}]
    with open_plan() as plan, pytest.raises(ConfigError, match=r"/other\.mp4: 'c' has the id of another question"):
        planned(plan, pa.Table.from_pylist(rows, schema=SCHEMA))


def test_what_is_done_is_what_results_say(tmp_path):
    """Every kind of row that can be there, by the rule in Python and in SQL."""
    results = results_of(str(tmp_path), "g")
    rows = [
        {"version": version, "uri": f"/{n}.mp4", "media": f"/{n}.mp4", "id": f"m{n}", "questions": ["q"], "error": ""}
        for n, version in enumerate(["1", "1", "1", "1", "1", None, None, None, "1"])
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    hand = wanted_ids(by_hand(table))
    errors = ["", "timeout: it", "missing: it", "", None, "", "timeout: it", "missing: it", ""]
    there = [
        {"id": name, "status": "failed" if error else "ok", "error": error, "fingerprint": fingerprint or "0" * 16}
        for (name, fingerprint), error in zip(hand.items(), errors, strict=True)
        if error is not None
    ]
    there[3]["fingerprint"] = "f" * 16  # of another version
    with committing(results, set()) as commits:
        for row in there:
            commits.add(Block(results.write(pa.Table.from_pylist([row])), [row["id"]]))
    for retry in ("transient", "all", "none"):
        done, replacing = results.done(hand, failures.again(retry))
        with open_plan() as plan:
            planned(plan, table).find_missing(results, failures.again(retry))
            left = {q["id"] for row in table_of(plan).to_pylist() for q in row["questions"]}
            assert left == set(hand) - done and set(plan.replacing) == replacing
            assert (plan.num_missing, plan.num_missing_media) == (len(left), len(left))


def test_what_ended_how_is_counted_and_what_is_missing_or_doubled_is_told(tmp_path):
    results, table = results_of(str(tmp_path), "g"), manifest()
    hand = wanted_ids(by_hand(table, "q"))
    with open_plan() as plan:
        keys = planned(plan, table, "q").find_missing(results, failures.again("none"))
        with pytest.raises(RuntimeError, match="13 rows expected, 0 found"):
            keys.count()
        rows = [
            {"id": name, "status": "failed" if n % 3 else "ok", "error": ["", "timeout: a: b", "missing: x"][n % 3]}
            | {"fingerprint": fingerprint or "", "question": "q"}
            for n, (name, fingerprint) in enumerate(hand.items())
        ]
        with committing(results, set()) as commits:
            for half in (rows[:6], rows[6:]):
                commits.add(Block(results.write(pa.Table.from_pylist(half)), [row["id"] for row in half]))
        assert keys.count() == count_rows(results.collect(hand), 13)
        assert keys.count()["errors"] == {"timeout": 4, "missing": 4} and keys.num_files == 2
        file = results.write(
            pa.Table.from_pylist([rows[0] | {"id": rows[3]["id"], "fingerprint": rows[3]["fingerprint"]}])
        )
        results_log = results_of(str(tmp_path), "g")
        with committing(results_log, set()) as commits:
            commits.add(Block(file, ["another name"]))
        with pytest.raises(RuntimeError, match="13 rows expected, 14 found"):
            Keys(plan.database, results).count()


def test_ids_in_few_bytes():
    ids = Ids(pa.array([1, (1 << 64) - 1, 16], pa.uint64()).to_numpy())
    assert list(ids) == ["0" * 15 + "1", "0" * 14 + "10", "f" * 16] and len(ids) == 3
    assert "f" * 16 in ids and not any(name in ids for name in ("1", "f" * 17, "x" * 16, "", "-" + "0" * 14 + "1"))
    assert ids.isdisjoint(["0" * 16]) and not ids.isdisjoint(["0" * 16, "f" * 16])


def test_many_media_keep_their_order(tmp_path):
    rows = [
        {"id": f"{n}", "uri": f"/{n:05d}.mp4", "media": f"/{n:05d}.mp4", "version": "1", "questions": [], "error": ""}
        for n in range(5000)
    ]
    with open_plan() as plan:
        planned(plan, pa.Table.from_pylist(rows, schema=SCHEMA), "a", "b")
        plan.find_missing(results_of(storage.join(str(tmp_path), "o"), "g"), failures.again("none"))
        with plan.spread(str(tmp_path / "o")) as work:
            assert isinstance(work, Chunks) and work.num_rows == 5000
            tables = [storage.read_table(uri) for uri in work.uris]
            assert [table.num_rows for table in tables] == [2048, 2048, 904]
        assert not (tmp_path / "o/.plan").exists()
        work = pa.concat_tables(tables)
        assert work["uri"].to_pylist() == [row["uri"] for row in rows]
        assert {tuple(q["question"] for q in asked) for asked in work["questions"].to_pylist()} == {("a", "b")}
