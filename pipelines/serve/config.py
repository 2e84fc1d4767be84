"""Configuration of the service: where it listens and what it refuses."""

from __future__ import annotations

from pydantic import Field

from spacevllm.config import Config


class ServeConfig(Config):
    """One server.

    Attributes:
        model: folder of a trained model (``from_pretrained`` layout).
        host, port: where it listens; this machine only, unless told otherwise: there is no login.
        device: of the model, as torch names it.
        media_root: folder or URI prefix below which JSON requests may name videos; ``""``: uploads only.
        max_upload_mb: cap of a request's body, MiB.
        max_questions: cap of questions in one request.
        decode_timeout_s, decode_memory_mb: a video that takes more time or memory to decode is refused.
        max_pixels, max_frames: largest picture (width × height) and longest video taken.
        memory_mb: MiB on the device for videos that were asked about, so that asking again reads nothing; 0: none.
        host_memory_mb: MiB of host memory for those that have to leave the device.
        max_ongoing_requests, max_queued_requests: beyond both, a request gets 503 at once.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    device: str = "cpu"
    media_root: str = ""
    max_upload_mb: int = Field(256, ge=1)
    max_questions: int = Field(64, ge=1)
    decode_timeout_s: float = Field(60.0, gt=0)
    decode_memory_mb: int | None = Field(4096, ge=64)
    max_pixels: int = Field(4096 * 2304, ge=1)
    max_frames: int = Field(200_000, ge=1)
    memory_mb: int = Field(2048, ge=0)
    host_memory_mb: int = Field(0, ge=0)
    max_ongoing_requests: int = Field(4, ge=1)
    max_queued_requests: int = Field(32, ge=1)
