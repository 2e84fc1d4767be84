"""What a person sees when something is wrong: one line (and what to write instead, where an error notes that) and an
exit status; a traceback only for bugs."""

from __future__ import annotations

import sys
import traceback

from pipelines.core.cluster import is_debug
from spacevllm.text import printable

OK, BUG, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def explain(error: BaseException) -> int:
    """Prints ``error`` as its reader needs it and returns the exit status."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else OK
    if is_debug():
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":  # typer's word for Ctrl-C
        return INTERRUPTED
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error)
        return USAGE
    line = _one_line(error)
    if line is None:
        if not is_debug():
            traceback.print_exception(error)
        return BUG
    notes = (printable(note, keep="\n") for note in getattr(error, "__notes__", ()))
    print(f"spacevllm: {printable(line)}", *notes, sep="\n", file=sys.stderr)
    return USAGE


def _one_line(error: BaseException) -> str | None:
    """The message for errors that the reader can correct; None for bugs."""
    if hasattr(error, "format_message"):  # typer's own: unknown option, missing argument
        context = getattr(error, "ctx", None)
        hint = f" (try: {context.command_path} --help)" if context else ""
        return " ".join(error.format_message().split()) + hint
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    if isinstance(error, _user_errors()):
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _user_errors() -> tuple[type[BaseException], ...]:
    """Classes whose message is written for the user. Imported here: only a failing command pays for it."""
    from pipelines.core.failures import MachineFault, TooManyFailures
    from pipelines.core.locks import StorageBusy
    from pipelines.core.looks import Unreachable
    from pipelines.core.storage import OutputError
    from spacevllm.config import ConfigError
    from spacevllm.video.errors import VideoError

    of_a_run = (StorageBusy, OutputError, Unreachable, MachineFault, TooManyFailures)
    return ConfigError, VideoError, *of_a_run, FileNotFoundError, ConnectionError
