"""How long, how large and with how much memory a video may be read: the same for every stage."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from spacevllm.config import Config
from spacevllm.frame_size import FrameSize
from spacevllm.video.guard import GuardedSampler
from spacevllm.video.limits import Limits


class Plan(NamedTuple):
    """What the model wants to see: ``num_frames`` uniform frames of this size."""

    num_frames: int
    size: FrameSize


class ReadOptions(Config):
    """Of the process that decodes, and of what it is given. What is over a limit is a failed row, never a failed run.

    Attributes:
        timeout_s: a video that takes longer is given up; its decoder is killed.
        timeout_per_frame_s: more seconds for each wanted frame: in a 4K film each is a seek with seconds of decoding.
        memory_mb: what decoding may take, MiB; None: no limit. 64 frames of 4K need 0.3 GB, of 8K 1 GB.
        max_pixels: largest picture taken (width × height; 8K), in every frame of a video.
        max_frames, max_duration_s: longest video taken (a day at 60 frames a second).
    """

    timeout_s: float = Field(default=60.0, gt=0)
    timeout_per_frame_s: float = Field(default=5.0, ge=0)
    memory_mb: int | None = Field(default=4096, gt=0)
    max_pixels: int = Field(default=8192 * 4608, ge=1)
    max_frames: int = Field(default=24 * 3600 * 60, ge=1)
    max_duration_s: float = Field(default=24 * 3600.0, gt=0)

    def open_sampler(self) -> GuardedSampler:
        limits = Limits(self.max_pixels, self.max_frames, self.max_duration_s)
        per_frame = self.timeout_per_frame_s
        return GuardedSampler(self.timeout_s, self.memory_mb, timeout_per_frame_s=per_frame, limits=limits)
