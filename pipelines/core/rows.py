"""Rows of a person's own file: JSON lines, JSON, CSV or Parquet. A row that cannot be read says why."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa

from pipelines.core import storage
from spacevllm.config import ConfigError

FORMATS = (".jsonl", ".json", ".csv", ".parquet")

Row = dict[str, Any]


def is_rows(uri: str) -> bool:
    return uri.lower().endswith(FORMATS)


def read_rows(uri: str) -> list[Row | str]:
    """Every row in order; in place of one that cannot be read, what is wrong with it. Blank lines are none.

    Raises:
        ConfigError: no such file, or as a whole not what its name says.
    """
    try:
        if uri.lower().endswith(".parquet"):
            return list(storage.read_table(uri).to_pylist())
        return _READERS[uri.rpartition(".")[2].lower()](storage.read_text(uri))
    except FileNotFoundError:
        raise ConfigError(f"no such file: {uri}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{uri} is no UTF-8 text: {error}") from None
    except (ValueError, csv.Error, pa.ArrowException) as error:
        raise ConfigError(f"{uri} cannot be read: {' '.join(str(error).split())}") from None


def _jsonl(text: str) -> list[Row | str]:
    return [_json_line(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _json_line(number: int, line: str) -> Row | str:
    try:
        return _row(json.loads(line), f"line {number}")
    except (ValueError, RecursionError) as error:
        return f"line {number} is no JSON: {error}"


def _json(text: str) -> list[Row | str]:
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("a list of objects is needed")
    return [_row(row, f"item {number}") for number, row in enumerate(rows, start=1)]


def _row(value: Any, place: str) -> Row | str:
    return value if isinstance(value, dict) else f"{place} is no object"


def _csv(text: str) -> list[Row | str]:
    reader = csv.DictReader(io.StringIO(text))
    return [
        f"line {reader.line_num} has more cells than the header" if None in row else row  # DictReader's way to say it
        for row in reader
    ]


_READERS = {"jsonl": _jsonl, "json": _json, "csv": _csv}
