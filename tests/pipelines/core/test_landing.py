"""What leaves an actor that writes its own rows, and what the driver makes of it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from botocore.exceptions import EndpointConnectionError

from pipelines.core import landing, storage
from pipelines.core.results import Results
from spacevllm.config import ConfigError


class Worker:
    def __init__(self, status):
        if status == "refuse":
            raise ConfigError("this model does not load")
        self.status = status

    def __call__(self, table):
        return table.append_column("status", pa.array([self.status] * table.num_rows))


class Blocks:
    """Stands for a Ray data set: its blocks are there already."""

    def __init__(self, *tables):
        self.tables = tables

    def iter_batches(self, **options):
        return iter(self.tables)


BLOCK = pa.table({"id": ["a", "b"], "fingerprint": ["f", "g"]})
OTHERS = pa.table({"id": ["c", "d"], "fingerprint": ["f", "g"]})


def test_rows_are_written_where_they_are_made(tmp_path):
    results = Results(str(tmp_path))
    worker = landing.writing(Worker, results)
    assert worker.__name__ == "Worker"
    worker("ok")(BLOCK)  # a worker that died before it could report
    blocks = pa.concat_tables([worker("ok")(BLOCK), worker("failed")(OTHERS)])
    assert list(landing.landed(Blocks(blocks), results, set())) == [(4, 2)]
    assert sorted(results.table(["id"])["id"].to_pylist()) == ["a", "b", "c", "d"]


def test_a_moments_trouble_of_a_store_is_waited_for_and_a_refusal_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(landing, "PAUSES_S", (0.0, 0.0))
    tries = []

    def write(error, until=9):
        tries.append(error)
        if len(tries) < until:
            with storage._writing("write it"):
                raise error
        return "written"

    assert landing.patiently(lambda: write(ConnectionError("reset"), until=3)) == "written" and len(tries) == 3
    for error, count in ((EndpointConnectionError(endpoint_url="http://s3"), 3), (PermissionError(13, "no"), 1)):
        tries.clear()
        with pytest.raises(storage.OutputError, match=r"cannot write it: .*; then run the same command again"):
            landing.patiently(lambda error=error: write(error))
        assert len(tries) == count
    with pytest.raises(ZeroDivisionError), storage._writing("write it"):
        raise ZeroDivisionError  # a mistake of ours is no trouble of a store


def test_what_concerns_the_user_reaches_the_driver_as_it_is(tmp_path):
    results = Results(str(tmp_path / "out"))
    refused, good = landing.writing(Worker, results)("refuse")(BLOCK), landing.writing(Worker, results)("ok")(OTHERS)
    with pytest.raises(ConfigError, match=r"^this model does not load$"):
        list(landing.landed(Blocks(pa.concat_tables([good, refused])), results, set()))
    assert sorted(results.table(["id"])["id"].to_pylist()) == ["c", "d"]  # what landed is done
    (tmp_path / "file").write_text("no folder")
    unwritable = landing.writing(Worker, Results(str(tmp_path / "file/tubes")))("ok")(BLOCK)
    with pytest.raises(storage.OutputError, match="cannot write"):
        list(landing.landed(Blocks(unwritable), results, set()))
