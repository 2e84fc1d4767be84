"""Frames of videos that were sent and not asked about yet: their first question need not decode them again."""

from __future__ import annotations

from collections import OrderedDict

from spacevllm.video.reader import SampledFrames


class KeptFrames:
    """Decoded videos within a byte budget, the one used longest ago leaves first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.kept: OrderedDict[str, SampledFrames] = OrderedDict()

    def get(self, key: str) -> SampledFrames | None:
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def drop(self, key: str) -> None:
        if clip := self.kept.pop(key, None):
            self.bytes -= clip.nbytes

    def put(self, key: str, clip: SampledFrames) -> None:
        if key in self.kept:
            return
        self.kept[key] = clip
        self.bytes += clip.nbytes
        while self.bytes > self.max_bytes:
            self.bytes -= self.kept.popitem(last=False)[1].nbytes
