"""The one table of what may go wrong, and what follows from each."""

from __future__ import annotations

import errno

import pytest
from pydantic import TypeAdapter, ValidationError

from pipelines.core.failures import (
    PERMANENT,
    TRANSIENT,
    Breaker,
    Retry,
    TooManyFailures,
    is_machine_fault,
    is_transient,
)
from spacevllm.video.errors import VideoError


def test_every_reason_of_a_video_has_a_class():
    reasons = {error.reason for error in VideoError.__subclasses__()}
    assert reasons <= PERMANENT.keys() | TRANSIENT.keys() and not PERMANENT.keys() & TRANSIENT.keys()
    assert is_transient("timeout: clip.mp4: 60 s") and not is_transient("missing: clip.mp4")


def test_the_words_of_earlier_releases_are_read():
    read = TypeAdapter(Retry).validate_python
    assert [read(word) for word in (True, False, "transient", "all")] == ["all", "none", "transient", "all"]
    with pytest.raises(ValidationError):
        read("some")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("this question breaks the model"), False),
    ],
)
def test_what_is_the_machine_s_fault(error, fault):
    assert is_machine_fault(error) == fault


def test_a_run_ends_when_most_of_its_last_rows_fail_in_ways_that_pass():
    breaker = Breaker()
    for _ in range(10):
        breaker.see(["not_a_video: x", "low_confidence: x"] * 10)  # text files, and what a stage judges
    breaker.see(["", "storage: s3://b/a: SlowDown"] * 30)
    with pytest.raises(TooManyFailures, match=r"31 of the last 60 .*\(30 storage, 1 timeout\): timeout: a.mp4;"):
        breaker.see(["timeout: a.mp4"])
    few = Breaker()
    few.see(["storage: x"] * 59)  # a small archive has rows that say why
