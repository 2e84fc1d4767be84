"""What leaves an actor that writes its own rows, and what the driver makes of it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.core import landing, storage
from pipelines.core.parts import Parts
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


def test_rows_are_written_where_they_are_made(tmp_path):
    worker = landing.writing(Worker, Parts(str(tmp_path)))
    assert worker.__name__ == "Worker"
    assert list(landing.landed(Blocks(worker("ok")(BLOCK), worker("failed")(BLOCK)))) == [(2, 0), (2, 2)]
    assert storage.read_table(tmp_path)["id"].to_pylist() == ["a", "b"]  # the same rows again replaced their file


def test_what_concerns_the_user_reaches_the_driver_as_it_is(tmp_path):
    refused = landing.writing(Worker, Parts(str(tmp_path / "out")))("refuse")(BLOCK)
    with pytest.raises(ConfigError, match=r"^this model does not load$"):
        list(landing.landed(Blocks(refused)))
    (tmp_path / "file").write_text("no folder")
    unwritable = landing.writing(Worker, Parts(str(tmp_path / "file/tubes")))("ok")(BLOCK)
    with pytest.raises(storage.OutputError, match="cannot write"):
        list(landing.landed(Blocks(unwritable)))
