"""What kinds of failure there are: the one table that says what a reason means and whether trying again can help.

    permanent   the file or the row itself: tried again only when it has changed, or with ``retry_failed=all``
    transient   the world around it: a store that throttles, a time-out, memory; the next run tries it again

What is wrong with the *machine* (a broken GPU, a full disk) is no row's failure: it ends the worker, which comes back
with a new process, and after some in a row the run, which names the machine.
"""

from __future__ import annotations

import errno
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

PERMANENT = {
    "empty_file": "the file has no bytes",
    "not_a_video": "no container or codec that is known",
    "no_video_stream": "sound only",
    "still_image": "a picture, where something is asked about time",
    "truncated": "the file ends before its last frame",
    "undecodable_frames": "frames that do not come out of the decoder",
    "empty_segment": "the part asked for holds no frame",
    "too_large": "more pixels, frames or seconds than are allowed",
    "implausible_time": "time stamps that its frames cannot fill",
    "missing": "there is no such file; when it comes, its version changes",
    "name": "its name is not UTF-8",
    "manifest": "the row of the manifest cannot be used",
    "not_allowed": "outside what --allow names",
    "unparsable": "the model's answer has no span",
}
TRANSIENT = {
    "storage": "the file could not be fetched",
    "timeout": "reading took longer than allowed",
    "crashed": "the decoder died or ran out of memory",
    "decode": "the decoder failed in a way that nobody foresaw",
    "predict": "the model failed on it",
    "killed_worker": "the worker died of it, three times",
}

Retry = Annotated[
    Literal["transient", "all", "none"],
    BeforeValidator(lambda value: {True: "all", False: "none"}.get(value, value) if isinstance(value, bool) else value),
]


def reason_of(error: str) -> str:
    """``"timeout: clip.mp4: …"`` → ``"timeout"``."""
    return error.partition(":")[0]


def is_transient(error: str) -> bool:
    """Whether trying again can help; also for reasons that this table does not know."""
    return reason_of(error) not in PERMANENT


def again(retry: str) -> Callable[[str], bool]:
    """Which failed rows ``retry_failed`` does again, by their ``error``."""
    rules: dict[str, Callable[[str], Any]] = {"transient": is_transient, "all": bool, "none": lambda _: False}
    return rules[retry]


class MachineFault(RuntimeError):
    """A machine that fails whatever it is given; no row is to blame."""


class TooManyFailures(RuntimeError):
    """So much fails in ways that pass that going on would only fail the rest."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_DEVICE = re.compile(
    r"CUDA error|CUBLAS_STATUS|cuDNN error|CUDNN_STATUS|uncorrectable ECC|no kernel image", re.IGNORECASE
)


def is_machine_fault(error: BaseException) -> bool:
    """Whether ``error`` tells of the machine (a broken device, a full disk) and not of what it was given. A device that
    has run out of memory is not broken: the next video may be smaller."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return type(error).__name__ == "AcceleratorError" or bool(_DEVICE.search(str(error)))


class Breaker:
    """Ends a run when too large a share of its last rows failed in ways that pass."""

    WINDOW, SHARE = 60, 0.5  # rows, of them

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=self.WINDOW)

    def see(self, errors: Iterable[str]) -> None:
        """Raises TooManyFailures."""
        self._last.extend(errors)
        passing = [error for error in self._last if reason_of(error or "") in TRANSIENT]  # not a stage's own verdicts
        if len(self._last) == self.WINDOW and len(passing) > self.SHARE * self.WINDOW:
            reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(map(reason_of, passing)).most_common())
            raise TooManyFailures(
                f"{len(passing)} of the last {self.WINDOW} failed in ways that pass ({reasons}): {passing[-1]}; "
                "what is done is kept: run the same command again when it has passed"
            )
