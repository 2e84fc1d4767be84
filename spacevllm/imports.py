"""Heavy imports, a fifth faster."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage() -> Iterator[None]:
    """For imports of torch and transformers: they make a million objects that stay, and looking through these for
    garbage, again and again, takes a fifth of their seconds."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
