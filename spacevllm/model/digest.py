"""Which model it is: a digest of what its answers come from, worked out once for as long as no file changes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from spacevllm import calibration
from spacevllm.model.weights import read_json, weight_files

KNOWN = ".digest.json"  # beside the weights
# Fields of ``SpaceVLLMConfig`` that answers depend on, with its defaults: those enter no digest, so that folders that
# are silent about a field, such as a backbone's or older ones, keep theirs.
ANSWER_FIELDS: dict[str, Any] = {
    "num_frames": 64,
    "num_queries": 65,
    "prompt_order": "video_first",
    "query_layout": "interleaved",
    "space_head": "queries",
    "time_encoding": "list",
    "image_pooling": False,
    "tower_frames": 1,
    "frame_tokens": 144,
    "outer_vision_tokens": False,
    "queries_in_text_tasks": False,
    "decoder_attention": "parameter_free",
    "decoder_cross_attention": "dual",
    "decoder_layers": 1,
    "decoder_hidden_size": 512,
    "presence_head": False,
    "system_prompt": "You are a helpful assistant.",
}


def cache_folder() -> Path:
    """Where this machine keeps what can be made or fetched again: ``XDG_CACHE_HOME/spacevllm``."""
    home = os.path.expanduser("~")  # stays "~" for a user without one, as containers have them
    usual = os.path.join(home, ".cache") if home != "~" else tempfile.gettempdir()
    return Path(os.environ.get("XDG_CACHE_HOME") or usual, "spacevllm")


def digest_of(folder: Path, fields: Mapping[str, Any] | None = None) -> str:
    """16 hex digits of the SHA-256 of weights, calibration and what ``config.json`` says differently from the defaults:
    answers change with each of them.

    Weights are read once: the sum is kept in ``.digest.json`` beside them, or in the cache folder where that cannot be
    written, and holds while no file's size or time of change is another.

    Args:
        fields: of the configuration, that differ from the folder's.
    """
    files = [*weight_files(folder), *folder.glob(calibration.FILE)]
    tree = read_json(folder / "config.json") | dict(fields or {})
    told = {name: tree[name] for name, usual in ANSWER_FIELDS.items() if tree.get(name, usual) != usual}
    sums = _known_sum(folder, files)
    if not told:
        return sums[:16]
    return hashlib.sha256(f"{sums}{json.dumps(told, sort_keys=True)}".encode()).hexdigest()[:16]


def _known_sum(folder: Path, files: Sequence[Path]) -> str:
    """SHA-256 over the bytes of ``files``, from where it is kept if that is of these very files."""
    facts = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    places = [folder / KNOWN, cache_folder() / "digests" / f"{place}.json"]
    for path in places:
        try:
            known = json.loads(path.read_text())
            if known["files"] == facts:
                return str(known["sha256"])
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or one that is none
            continue
    known = {"files": facts, "sha256": _sum(files)}
    any(_keep(path, json.dumps(known)) for path in places)
    return str(known["sha256"])


def _sum(files: Sequence[Path]) -> str:
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def _keep(path: Path, text: str) -> bool:
    """Whether ``path`` could be written: whole or not at all, as others may read or write it now."""
    temporary = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        return False
    return True
