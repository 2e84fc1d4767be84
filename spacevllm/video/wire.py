"""What a child that reads hostile bytes may tell its parent: JSON and raw arrays of known types, never code.

    length, JSON {"value": … or "error": [class, message], "buffers": [length, …]}, buffers

A pickle would be a program that the parent runs.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import struct
import time
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from spacevllm.span import Span
from spacevllm.video import errors
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames

LENGTH = struct.Struct(">Q")
_RECORDS = {record.__name__: record for record in (SampledFrames, VideoInfo, Span)}
_MAX_TEXT = 1 << 22  # bytes of JSON; what may be long travels as arrays
_FEW = 64  # whole numbers that may be text
_PLAIN = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]


class Malformed(Exception):
    """The other end does not say what it should."""


def send(fd: int, answer: Any) -> None:
    """An answer or, if it is an exception, an error.

    Raises:
        TypeError: it holds what cannot be sent.
    """
    buffers: list[memoryview] = []
    failed = isinstance(answer, BaseException)
    told = {"error": [type(answer).__name__, str(answer)]} if failed else {"value": _tree(answer, buffers)}
    text = json.dumps(told | {"buffers": [buffer.nbytes for buffer in buffers]}).encode()
    for part in [memoryview(LENGTH.pack(len(text))), memoryview(text), *buffers]:
        _write_all(fd, part)


def receive(fd: int, deadline: float, max_bytes: int) -> Any:
    """What ``send`` sent; an error is given back, not raised.

    Args:
        deadline: monotonic seconds. max_bytes: of all its arrays.

    Raises:
        TimeoutError: at ``deadline``. EOFError: the other end is gone. Malformed: no answer.
    """
    (length,) = LENGTH.unpack(_read_exactly(fd, LENGTH.size, deadline))
    try:
        _check(length <= _MAX_TEXT, f"{length} bytes of text")
        told = json.loads(_read_exactly(fd, length, deadline))
        lengths = told["buffers"]
        _check(all(type(n) is int and n >= 0 for n in lengths) and sum(lengths) <= max_bytes, "too many bytes")
        buffers = [_read_exactly(fd, n, deadline) for n in lengths]
        return _error(*told["error"]) if "error" in told else _value(told["value"], buffers)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


def _tree(value: Any, buffers: list[memoryview]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        buffers.append(np.ascontiguousarray(value).data)
        return {"array": len(buffers) - 1, "dtype": value.dtype.name, "shape": list(value.shape)}
    if isinstance(value, tuple) and len(value) > _FEW and all(type(one) is int for one in value):  # keyframes
        return {"ints": _tree(np.array(value), buffers)}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_tree(one, buffers) for one in value]}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, Path):
        return {"path": str(value)}
    if type(value).__name__ in _RECORDS:
        return {type(value).__name__: {f.name: _tree(getattr(value, f.name), buffers) for f in fields(value)}}
    raise TypeError(f"a decoding process cannot send a {type(value).__name__}")


def _value(tree: Any, buffers: list[bytearray]) -> Any:
    if not isinstance(tree, dict):
        _check(not isinstance(tree, list), "a bare list")
        return tree
    if "array" in tree:
        _check(tree["dtype"] in _PLAIN, f"an array of {tree['dtype']}")
        return np.frombuffer(buffers[tree["array"]], tree["dtype"]).reshape(tree["shape"])
    ((kind, content),) = tree.items()
    if kind in _RECORDS:
        return _RECORDS[kind](**{name: _value(one, buffers) for name, one in content.items()})
    makers: dict[str, Callable[[Any], Any]] = {
        "list": lambda content: [_value(one, buffers) for one in content],
        "tuple": lambda content: tuple(_value(one, buffers) for one in content),
        "ints": lambda content: tuple(_value(content, buffers).tolist()),
        "fraction": lambda content: Fraction(*content),
        "path": Path,
    }
    return makers[kind](content)


def _error(kind: str, message: str) -> Exception:
    """Of our own classes and Python's; of any other a RuntimeError that names it."""
    known = getattr(errors, kind, None) or getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, UnicodeError):
        return known(str(message))
    return RuntimeError(f"{kind}: {message}")


def _check(fine: bool, what: str) -> None:
    if not fine:
        raise ValueError(what)


def _write_all(fd: int, data: memoryview) -> None:
    rest = data.cast("B") if data.nbytes else memoryview(b"")  # an empty array cannot be cast
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read_exactly(fd: int, length: int, deadline: float) -> bytearray:
    data = bytearray(length)
    rest = memoryview(data)
    readable = select.poll()
    readable.register(fd, select.POLLIN)
    while rest:
        if not readable.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError
        count = os.readv(fd, [rest])
        if count == 0:
            raise EOFError
        rest = rest[count:]
    return data
