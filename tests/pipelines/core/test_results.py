"""The table of finished rows: what is committed is there once, whoever writes, dies or comes again."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from pipelines.core import failures, storage
from pipelines.core.commits import Block, Commits, committing
from pipelines.core.delta import Log
from pipelines.core.results import Results, loose_files
from spacevllm.config import ConfigError


def block(results, **rows):
    """Writes a file; id → fingerprint, or (fingerprint, error)."""
    told = [(name, *((row, "") if isinstance(row, str) else row)) for name, row in rows.items()]
    table = pa.Table.from_pylist(
        [{"id": n, "status": "failed" if e else "ok", "error": e, "fingerprint": f} for n, f, e in told]
    )
    return Block(results.write(table), list(rows))


def add(results, replacing=(), **rows):
    with committing(results, set(replacing)) as commits:
        commits.add(block(results, **rows))


def seen(results):
    """What readers see."""
    rows = [row for row, _ in results.rows(["id", "fingerprint", "error"])]
    assert len(rows) == len({row["id"] for row in rows})
    return {row["id"]: row["error"] or row["fingerprint"] for row in rows}


@pytest.fixture
def results(tmp_path):
    return Results(str(tmp_path / "a b é#?" / "tubes"), "tiny-1", keep_good=True)


def test_what_no_commit_names_is_no_row(results):
    block(results, a="1")
    assert seen(results) == {"a": "1"}  # a folder without a log, as earlier releases left it
    add(results, b="1")
    assert seen(results) == {"b": "1"}
    assert results.done({"a": "1", "b": "1", "c": "1"}) == ({"b"}, set())
    assert results.collect({"b": "1"})["id"].to_pylist() == ["b"]


def test_another_model_adds_and_removes_nothing(results):
    add(results, a="1", b="1")
    other = Results(results.folder, "tiny-2", keep_good=True)
    assert other.done({"a": "9", "b": "9"}) == (set(), set())
    add(other, a="9")
    assert (seen(results), seen(other)) == ({"a": "1", "b": "1"}, {"a": "9"})
    table = pa.table(DeltaTable(results.folder).to_pyarrow_table(filters=[("generation", "=", "tiny-1")]))
    assert sorted(table["id"].to_pylist()) == ["a", "b"]


def test_a_new_row_takes_the_place_of_the_old_one_in_one_commit(results):
    add(results, a="1", b="1", c="1")
    done, replacing = results.done({"a": "2", "b": "1"})
    assert (done, replacing) == ({"b"}, {"a"})
    add(results, replacing, a="2")
    assert seen(results) == {"a": "1", "b": "1", "c": "1"}  # as when the driver is killed here
    assert results.done({"a": "2"}) == ({"a"}, set())
    assert seen(results) == {"a": "2", "b": "1", "c": "1"}
    assert Log(results.folder).files(results.waiting) == []


def test_a_failure_never_takes_the_place_of_a_good_row(results):
    add(results, a="1", b=("1", "timeout: 1"))
    away = {"a": "", "b": ""}  # they are missing now
    done, replacing = results.done(away, failures.again("transient"))
    assert (done, replacing) == (set(), {"a", "b"})
    add(results, replacing, a=("", "missing: a"), b=("", "missing: b"))
    newest = results.collect(away)
    assert newest["error"].to_pylist() == ["missing: a", "missing: b"]
    assert seen(results) == {"a": "1", "b": "missing: b"}
    assert results.done(away, failures.again("transient"))[0] == {"a", "b"}  # and are not looked for again
    assert results.done({"a": "1"})[0] == {"a"}  # it is back
    assert results.collect({"a": "1"})["status"].to_pylist() == ["ok"] and not Log(results.folder).files(
        results.waiting
    )

    add(results, results.done({"a": "2"})[1], a=("2", "truncated: a"))  # it came back damaged
    assert seen(results)["a"] == "1" and results.collect({"a": "2"})["error"].to_pylist() == ["truncated: a"]
    add(results, results.done({"a": "3"})[1], a="3")  # then repaired: two rows wait, the newer one counts
    assert results.collect({"a": "3"})["error"].to_pylist() == [""] and seen(results)["a"] == "3"
    assert not Log(results.folder).files(results.waiting)

    judged = Results(results.folder + "2")  # where a row that is not ok is a verdict
    add(judged, a="1")
    add(judged, judged.done({"a": "2"})[1], a=("2", "too small"))
    judged.settle({})
    assert seen(judged) == {"a": "too small"}


def test_what_cannot_be_looked_at_stands(results):
    add(results, a="1", b=("1", "timeout: b"), c=("1", "empty_file: c"))
    unknown = dict.fromkeys("abc")
    assert results.done(unknown, failures.again("transient")) == ({"a"}, {"b", "c"})
    add(results, "bc", b=("", "storage: b"), c=("", "storage: c"))
    assert results.collect(unknown)["error"].to_pylist() == ["", "storage: b", "storage: c"]
    assert seen(results) == {"a": "1", "b": "storage: b", "c": "storage: c"}


@pytest.mark.parametrize(("retry", "left"), [("transient", {"b", "d"}), ("all", {"b", "c", "d"}), ("none", set())])
def test_which_failures_are_tried_again(results, retry, left):
    add(results, a="1", b=("1", "timeout: b"), c=("1", "not_a_video: c"), d=("1", "whatever: d"))
    done, replacing = results.done(dict.fromkeys("abcd", "1"), failures.again(retry))
    assert replacing == left and done == set("abcd") - left


def test_a_folder_of_an_earlier_release_goes_on(results):
    storage.write_table(storage.join(results.folder, "part-1.parquet"), pa.table(rows("a", "b")))
    storage.write_table(storage.join(results.folder, "part-2.parquet"), pa.table(rows("b", "c")))  # b: a late worker
    storage.write_table(
        storage.join(results.folder, "part-3.parquet"), pa.table(rows("d")).append_column("more", [[1]])
    )
    assert results.done(dict.fromkeys("abcde", "1")) == (set("abcd"), set())
    assert seen(results) == dict.fromkeys("abcd", "1")
    add(results, e="1")
    assert results.collect(dict.fromkeys("abcde", "1"))["id"].to_pylist() == list("abcde")
    assert "more" in {field.name for field in DeltaTable(results.folder).schema().fields}


def rows(*ids):
    return {"id": ids, "status": ["ok"] * len(ids), "error": [""] * len(ids), "fingerprint": ["1"] * len(ids)}


def test_two_drivers_leave_each_row_once(results):
    """Both asked for all of it; each came with blocks of its own cut, the second one to a table it had not seen."""
    first, second = Commits(results, set()), Commits(results, set())
    first.add(block(results, a="1", b="1"))
    first.close()
    second.add(block(results, b="1", c="1"))
    second.add(block(results, a="1"))
    second.close()
    assert seen(results) == {"a": "1", "b": "1", "c": "1"}


def test_many_drivers_at_once_leave_each_row_once(results):
    def drive(number):
        with committing(results, set()) as commits:
            for start in range(0, 24, 3):
                names = [f"row{(start + number + i) % 24}" for i in range(3)]
                commits.add(block(results, **dict.fromkeys(names, "1")))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(drive, range(4)))
    assert seen(results) == {f"row{i}": "1" for i in range(24)}


def test_an_exchange_that_others_disturb_is_made_anew(results, monkeypatch):
    add(results, a="1", b="1")
    add(results, results.done({"a": "2"})[1], a="2")
    write, others = Results.write, iter([lambda: add(results, c="1")])

    def disturbed(self, table, generation=""):
        next(others, lambda: None)()
        return write(self, table, generation)

    monkeypatch.setattr(Results, "write", disturbed)
    results.settle({})
    assert seen(results) == {"a": "2", "b": "1", "c": "1"}


def test_a_folder_that_the_engine_would_misread_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="%hex"):
        Results(str(tmp_path / "a%41")).done({})


def test_many_small_files_become_few_and_the_old_ones_go(results):
    with committing(results, set()) as commits:
        for i in range(6):
            commits.add(block(results, **{f"row{i}": "1"}))
    other = Results(results.folder, "tiny-2")
    add(other, row0="2")
    log = Log(results.folder)
    assert not log.compact(results.generation) and log.compact(results.generation, least=6)
    assert (
        len(results.uris()) == 1
        and seen(results) == {f"row{i}": "1" for i in range(6)}
        and seen(other) == {"row0": "2"}
    )
    assert results.done({"row0": "1", "row9": "1"}) == ({"row0"}, set())
    log.sweep(hours=0)
    assert len(loose_files(results.folder)) == 2 and seen(results) == {f"row{i}": "1" for i in range(6)}


def test_a_store_that_refuses_is_no_conflict(results, monkeypatch):
    """Else it would be tried for ever."""
    add(results, a="1")
    refused = CommitFailedError("403 Forbidden")
    monkeypatch.setattr(DeltaTable, "create_write_transaction", lambda *_, **__: (_ for _ in ()).throw(refused))
    with pytest.raises(storage.OutputError, match=r"cannot write .*403 Forbidden"):
        add(results, b="1")
    assert seen(results) == {"a": "1"}


def test_a_driver_whose_clock_is_an_hour_late_loses_nothing(results, monkeypatch):
    add(results, a="1")
    add(results, results.done({"a": ""})[1], a=("", "missing: a"))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    add(results, results.done({"a": "2"})[1], a="2")
    assert results.collect({"a": "2"})["fingerprint"].to_pylist() == ["2"] and seen(results) == {"a": "2"}
