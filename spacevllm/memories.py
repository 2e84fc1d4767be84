"""Remembered videos within a byte budget: the one asked longest ago leaves first.

A memory takes 57 KB a token at 7B shape, so about 0.9 GB a video of 64 frames in bf16; reading the video again costs
its decoding and its prefill. What leaves the device may stay in host memory and come back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from spacevllm.model.memory import VideoMemory
from spacevllm.video.reader import SampledFrames


@dataclass(frozen=True, eq=False)
class RememberedClip(SampledFrames):
    """A clip that was read: ``frames`` are gone, (T, 0, 0, 3), and ``memory`` answers in their place."""

    memory: VideoMemory

    @classmethod
    def of(cls, clip: SampledFrames, memory: VideoMemory) -> RememberedClip:
        gone = np.empty((len(clip.frames), 0, 0, 3), np.uint8)
        return cls(clip.info, clip.indices, clip.times_s, gone, memory, part=clip.part)

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes."""
        return self.memory.nbytes + super().nbytes

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> RememberedClip:
        return replace(self, memory=self.memory.to(device, dtype))


@dataclass(frozen=True)
class MemoryStats:
    """hits: videos that were remembered. misses: videos that had to be read. evictions: videos forgotten.
    videos, bytes: now on the device. host_videos, host_bytes: now in host memory."""

    hits: int
    misses: int
    evictions: int
    videos: int
    bytes: int
    host_videos: int
    host_bytes: int


class _Kept(NamedTuple):
    """A clip with the device and precision in which it is asked."""

    clip: RememberedClip
    device: torch.device
    dtype: torch.dtype


class _Shelf:
    """Clips within ``max_bytes``, the least recently used first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def take(self, key: Hashable) -> _Kept | None:
        kept = self.kept.pop(key, None)
        self.bytes -= kept.clip.nbytes if kept else 0
        return kept

    def add(self, key: Hashable, kept: _Kept) -> list[tuple[Hashable, _Kept]]:
        """Adds what fits ``max_bytes`` by itself; returns what had to make room."""
        pushed = []
        while self.bytes + kept.clip.nbytes > self.max_bytes:
            oldest = next(iter(self.kept))
            pushed.append((oldest, self.kept[oldest]))
            self.take(oldest)
        self.kept[key] = kept
        self.bytes += kept.clip.nbytes
        return pushed


class VideoMemories:
    """Least recently used first out; safe to use from several threads. It serves one model on one device.

    The budgets bound what is kept: a memory in use by an asker lives until it has its answer.

    Args:
        max_bytes: on the model's device. A memory larger than this is not kept.
        host_bytes: for those that have to leave the device; 0: they are forgotten.
        dtype: kept in this precision, and given back in the model's; None: the model's. bfloat16 halves what an fp32
            model's memory takes and moves its boxes by about a hundredth.
    """

    def __init__(self, max_bytes: int, host_bytes: int = 0, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self._device, self._host = _Shelf(max_bytes), _Shelf(host_bytes)
        self._hits = self._misses = self._evictions = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> RememberedClip | None:
        """What ``put`` was given, from wherever it is kept; None if it is not."""
        with self._lock:
            kept = self._device.take(key) or self._host.take(key)
            if kept is None:
                return None
            self._hits += 1
            clip, device, dtype = kept
            kept = _Kept(clip.to(device), device, dtype)
            self._keep(key, kept)
        return kept.clip.to(device, dtype)

    def put(self, key: Hashable, clip: RememberedClip) -> None:
        """Keeps a video that was just read, and makes room for it."""
        states = clip.memory.visual
        kept = _Kept(clip.to(states.device, self.dtype), states.device, states.dtype)
        with self._lock:
            self._misses += 1
            self._device.take(key)
            self._host.take(key)
            self._keep(key, kept)

    @property
    def stats(self) -> MemoryStats:
        with self._lock:
            device, host = self._device, self._host
            counts = self._hits, self._misses, self._evictions
            return MemoryStats(*counts, len(device.kept), device.bytes, len(host.kept), host.bytes)

    def _keep(self, key: Hashable, kept: _Kept) -> None:
        if kept.clip.nbytes > self._device.max_bytes:
            return
        for pushed_key, pushed in self._device.add(key, kept):
            if pushed.clip.nbytes > self._host.max_bytes:
                self._evictions += 1
                continue
            offloaded = pushed._replace(clip=pushed.clip.to("cpu"))
            self._evictions += len(self._host.add(pushed_key, offloaded))


def file_key(path: str | Path) -> str:
    """Changes when the file does; ``""`` for a file that cannot be looked at."""
    try:
        facts = Path(path).stat()
    except (OSError, ValueError):  # the reader says what is wrong with it
        return ""
    return f"{Path(path).resolve()}:{facts.st_size}:{facts.st_mtime_ns}"
