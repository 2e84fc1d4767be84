"""Video: what a file is (probe), which frames to see (sampling), those frames (reader), safely (guard)."""

from spacevllm.video.errors import VideoError
from spacevllm.video.guard import GuardedSampler, sandbox_status
from spacevllm.video.probe import VideoInfo, probe
from spacevllm.video.reader import Backend, SampledFrames, read_frames, sample_frames
from spacevllm.video.sampling import uniform_indices

__all__ = [
    "Backend",
    "GuardedSampler",
    "SampledFrames",
    "VideoError",
    "VideoInfo",
    "probe",
    "read_frames",
    "sample_frames",
    "sandbox_status",
    "uniform_indices",
]
