"""Every source: a bad row costs itself and says why, and published files hold what was published."""

from __future__ import annotations

import pytest
from own_files import OWN
from published_files import PUBLISHED

from spacevllm.data.instance import SCHEMA, Instance
from spacevllm.data.sources import SOURCES, Dropped, read

SCHEMAS = PUBLISHED | OWN
CHANGES = [(name, number) for name, source in SCHEMAS.items() for number in range(len(source.bad))]


def split(found):
    """Instances and dropped ones."""
    found = list(found)
    return [x for x in found if isinstance(x, Instance)], [x for x in found if isinstance(x, Dropped)]


def test_every_source_is_tested():
    assert SCHEMAS.keys() == SOURCES.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_good_rows_become_records(name, tmp_path):
    source = SCHEMAS[name]
    kept, dropped = split(read(name, source.write(tmp_path, source.rows)))
    assert (len(kept), dropped) == (3, [])
    assert len({record.id for record in kept}) == 3
    for record in kept:
        assert record.id.startswith(f"{name}/") and record.source == name
        assert Instance.from_row(record.to_row()) == record
        assert [*record.to_row(), "more"] == SCHEMA.names


@pytest.mark.parametrize(("name", "number"), CHANGES)
def test_a_bad_row_costs_itself_alone(name, number, tmp_path):
    source = SCHEMAS[name]
    files = source.write(tmp_path, source.rows)
    good, _ = split(read(name, files))
    change, words = source.bad[number]
    first, second, third = source.rows
    kept, dropped = split(read(name, source.write(tmp_path, [first, change(second), third])))
    assert kept == [good[0], good[2]]
    [lost] = dropped
    assert lost.file in (files.annotations.name, files.questions and files.questions.name)
    assert lost.key and words in lost.reason, lost


@pytest.mark.parametrize("name", [name for name, source in SCHEMAS.items() if source.repeated])
def test_a_row_that_occurs_twice_is_kept_once(name, tmp_path):
    source = SCHEMAS[name]
    good, _ = split(read(name, source.write(tmp_path, source.rows)))
    kept, dropped = split(read(name, source.write(tmp_path, [*source.rows, source.rows[1]])))
    assert kept == good
    assert len(dropped) == 1 and "occurs before" in dropped[0].reason
