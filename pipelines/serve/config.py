"""Configuration of the service: where it listens, what it takes and refuses, how far it scales."""

from __future__ import annotations

import ipaddress
import os

from pydantic import Field, SecretStr

from spacevllm.config import Config, ConfigError

API_KEY_VARIABLE = "SPACEVLLM_API_KEY"
MIN_KEY_LENGTH = 16


class Replicas(Config):
    """How many copies of one part run.

    Attributes:
        min, max: the number follows the load between them; equal: it stays.
        target_ongoing_requests: each copy is meant to have so many requests; more start a copy, fewer stop one.
    """

    min: int = Field(default=1, ge=1)
    max: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=2.0, gt=0)


class ServeConfig(Config):
    """One server.

    Attributes:
        model: folder of a trained model (``from_pretrained`` layout, safetensors only).
        host, port: where it listens. Anything but this machine (127.0.0.1) needs an ``api_key``.
        api_key: what requests have to send, ``Authorization: Bearer KEY``; default: the variable SPACEVLLM_API_KEY.
            Empty: none is asked for.
        allowed_hosts: names, beside this machine's, under which a server without a key answers (a web page of another
            name must not reach it through the browser); for a proxy in front of it.
        device: of the model, as torch names it. gpus: of one copy of the model; None: one, or none with device ``cpu``.
        media_root: folder or URI prefix below which requests may name videos; ``""``: none.
        allowed_uris: further prefixes, such as ``https://videos.example.org/public/``, whose videos may be named.
        allow_private_addresses: whether https:// may lead to addresses that are not public.
        max_upload_mb: cap of a request's body and of a fetched video, MiB. max_inline_mb: of a video inside JSON.
        upload_timeout_s: most seconds a client takes to send its request, and a fetched video to arrive.
        max_questions, max_question_chars: caps of questions in one request, and of their length.
        max_boxes: of one request's answers, one a frame and question: what they may need of memory and time.
        max_requests: requests that may be in work or in line in one copy of the ingress; beyond, they get 429 at once.
        decoders: videos decoded at once in one copy of the ingress, each in a process that can be killed.
        decode_timeout_s, decode_timeout_per_frame_s, decode_memory_mb: a video that takes more time (in all, and for
            each frame that the model sees) or memory to decode is refused.
        draw_timeout_s: most seconds for one overlay; with the same memory.
        max_pixels, max_frames, max_duration_s: largest picture (width × height, in any frame) and longest video taken.
        store: folder for videos that were sent; ``""``: a temporary one. Several machines need a shared one.
        store_mb: MiB of it, answers and drawings included; the videos unused for longest leave first.
        memory_mb: MiB on the device for videos that were asked about, so that asking again reads nothing; 0: none.
        host_memory_mb: MiB of host memory for those that have to leave the device.
        frames_mb: MiB of an ingress's memory for frames of videos that were not asked about yet; films are not kept.
        batch_frames: frames that the model takes on at once; batch_wait_s: how long a batch waits for company.
        shutdown_s: after SIGTERM, requests in work have so many seconds to end.
        ingress, replicas: copies of the ingress (CPU) and of the model.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    api_key: SecretStr = Field(default_factory=lambda: SecretStr(os.environ.get(API_KEY_VARIABLE, "")))
    allowed_hosts: list[str] = Field(default=[])
    device: str = "cpu"
    gpus: float | None = Field(default=None, ge=0)
    media_root: str = ""
    allowed_uris: list[str] = Field(default=[])
    allow_private_addresses: bool = False
    max_upload_mb: int = Field(default=256, ge=1)
    max_inline_mb: int = Field(default=32, ge=1)
    upload_timeout_s: float = Field(default=300.0, gt=0)
    max_questions: int = Field(default=64, ge=1)
    max_question_chars: int = Field(default=1000, ge=1)
    max_boxes: int = Field(default=1_000_000, ge=1)
    max_requests: int = Field(default=36, ge=1)
    decoders: int = Field(default=2, ge=1)
    decode_timeout_s: float = Field(default=60.0, gt=0)
    decode_timeout_per_frame_s: float = Field(default=2.0, ge=0)
    decode_memory_mb: int | None = Field(default=4096, ge=64)
    draw_timeout_s: float = Field(default=300.0, gt=0)
    max_pixels: int = Field(default=4096 * 2304, ge=1)
    max_frames: int = Field(default=200_000, ge=1)
    max_duration_s: float = Field(default=4 * 3600.0, gt=0)
    store: str = ""
    store_mb: int = Field(default=4096, ge=1)
    memory_mb: int = Field(default=2048, ge=0)
    host_memory_mb: int = Field(default=0, ge=0)
    frames_mb: int = Field(default=256, ge=0)
    batch_frames: int = Field(default=256, ge=1)
    batch_wait_s: float = Field(default=0.005, ge=0)
    shutdown_s: float = Field(default=30.0, ge=0)
    ingress: Replicas = Replicas()
    replicas: Replicas = Replicas()

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb << 20

    @property
    def num_gpus(self) -> float:
        return self.gpus if self.gpus is not None else float(self.device != "cpu")


def check_access(config: ServeConfig) -> None:
    """Raises ConfigError when the server would be open to others without a key worth the name."""
    key = config.api_key.get_secret_value()
    if key and (len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key):
        raise ConfigError(f"{API_KEY_VARIABLE}: a key has at least {MIN_KEY_LENGTH} ASCII characters and no space")
    if not key and not is_loopback(config.host):
        raise ConfigError(
            f"host {config.host} is open to other machines: set a key in the variable {API_KEY_VARIABLE}, "
            "or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; names other than localhost do not tell."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
