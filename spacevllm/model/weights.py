"""Weight files: safetensors only, their tables checked against the model before a weight is read.

A safetensors file is 8 bytes of length, a JSON table of names, shapes and offsets, then the tensors; renaming them
changes the table alone, so that ``copy_renamed`` streams the tensors byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from safetensors import SafetensorError, safe_open

from spacevllm.config import ConfigError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
_LISTED = 10
_BLOCK = 16 << 20


class CheckpointError(ConfigError):
    """Weights that cannot be read as they are; the message says which, and what to do."""


class Stored(NamedTuple):
    """A tensor in a file. dtype: safetensors' name, e.g. ``BF16``. begin, end: bytes, counted from the first tensor."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def weight_files(folder: Path) -> list[Path]:
    """``model.safetensors``, or the shards that ``model.safetensors.index.json`` names, in order.

    Raises:
        FileNotFoundError: there is none, there are only pickles, or a shard is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        files = [folder / name for name in sorted(set(read_json(folder / INDEX)["weight_map"].values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {_some(missing)}, which {INDEX} names: fetch the folder again")
        return files
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        raise FileNotFoundError(
            f"{folder} has no {SINGLE}, only {_some(pickles)}: pickled weights are refused, since opening one runs the "
            f"code in it; fetch the safetensors, or convert them where you trust their source"
        )
    raise FileNotFoundError(f"{folder} has no {SINGLE} and no {INDEX}")


def read_table(file: Path) -> dict[str, Stored]:
    """Name → where and what, in the order of the file.

    Raises:
        CheckpointError: not a whole safetensors file.
    """
    try:
        with safe_open(file, "np"):  # checks the table against the file's size
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{file} is cut short or damaged ({error}): fetch it again") from None
    with file.open("rb") as stream:
        table, _ = _table_and_start(stream)
    entries = [Stored(file, n, e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for n, e in table.items()]
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.begin)}


def check_fit(
    where: object,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    optional: Collection[str] = (),
    advice: str = "do config.json and the weights belong together?",
) -> None:
    """Raises CheckpointError that lists, ten of a kind, the missing, the unexpected and the misshapen tensors.

    Args:
        expected, found: name → shape. optional: names of ``expected`` that may be missing.
    """
    missing = [name for name in expected if name not in found and name not in optional]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    complaints = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names]
    if complaints:
        raise CheckpointError(f"{where}: weights do not fit the model; {'; '.join(complaints)}; {advice}")


def copy_renamed(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Writes the tensors of ``source`` under other names, unchanged, holding no more than 16 MiB of them.

    Args:
        names: name in ``source`` → name in ``target``; tensors that it does not name are left out.
    """
    kept = [entry for name, entry in read_table(source).items() if name in names]
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in kept:
        begin, end = end, end + entry.end - entry.begin
        table[names[entry.name]] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(table, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors start at a multiple of 8
    with source.open("rb") as reader, target.open("wb") as writer:
        _, start = _table_and_start(reader)
        writer.write(len(encoded).to_bytes(8, "little") + encoded)
        for entry in kept:
            reader.seek(start + entry.begin)
            _copy(reader, writer, entry.end - entry.begin)


def write_index(folder: Path, files: Iterable[Path]) -> None:
    """``model.safetensors.index.json`` over ``files``, which lie in ``folder``."""
    entries = [entry for file in files for entry in read_table(file).values()]
    index = {
        "metadata": {"total_size": sum(entry.end - entry.begin for entry in entries)},
        "weight_map": {entry.name: entry.file.name for entry in entries},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Raises CheckpointError where ``file`` is not a JSON object."""
    try:
        tree = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found a {type(tree).__name__}")
    return tree


def _table_and_start(stream: BinaryIO) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(stream.read(8), "little")
    table = json.loads(stream.read(length))
    table.pop("__metadata__", None)
    return table, 8 + length


def _copy(reader: BinaryIO, writer: BinaryIO, size: int) -> None:
    while size:
        block = reader.read(min(size, _BLOCK))
        if not block:
            raise CheckpointError(f"{reader.name} became shorter while it was copied")
        size -= writer.write(block)


def _some(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
