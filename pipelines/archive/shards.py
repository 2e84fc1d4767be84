"""``--shard 2/4``: independent jobs that share one OUT. Whose a media is depends on nothing but the media. The job that
finds all others done writes the summary of the whole.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple, Self

from pipelines.core import storage
from pipelines.core.stage import Summary, named

ADDED = ("in", "ok", "failed", "new", "decoded", "videos")  # of all shards


class Shard(NamedTuple):
    """The ``number``-th (from 1) of ``of`` parts."""

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Self:
        """Of ``2/4``. Raises ValueError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"shard {text!r} is no part like 1/4, 2/4, 3/4 or 4/4")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.of}"


def joined(out: str, shard: Shard) -> Summary | None:
    """The summary of all shards; None: not all have ended with the same model and the same way to look."""
    parts = []
    for number in range(1, shard.of + 1):
        try:
            parts.append(storage.read_json(storage.join(out, named("summary.json", Shard(number, shard.of).name))))
        except FileNotFoundError:
            return None
    if len({part["generation"] for part in parts}) > 1:
        return None
    errors: Counter[str] = Counter()
    for part in parts:
        errors.update(part["errors"])
    about = {name: parts[0][name] for name in ("model_id", "model_digest", "generation")}
    added = {name: sum(part[name] for part in parts) for name in ADDED}
    counts = {**added, "errors": dict(errors.most_common()), "seconds": max(part["seconds"] for part in parts)}
    return {"stage": "ground", **counts, "shards": shard.of, "exports": {}, **about}
