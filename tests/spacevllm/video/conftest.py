"""One set of clips for all video tests: each is written once, at its first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clips import CLIPS, PYAV_ONLY


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``clip(name)``: the path of a clip of ``CLIPS`` or ``PYAV_ONLY``, written at its first use."""
    folder = tmp_path_factory.mktemp("clips")

    def get(name: str) -> Path:
        path = folder / name
        return path if path.exists() else (CLIPS | PYAV_ONLY)[name](path)

    return get
