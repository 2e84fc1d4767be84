from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def real():
    """``real("vidstg/val_annotations.json")``: a published file; the test is skipped where it is not to be had."""
    shared = Path(os.environ.get("SPACEVLLM_SHARED_DATA") or Path(__file__).parents[5] / "shared/data")

    def find(name):
        path = shared / "annotations" / name
        if not path.exists():
            pytest.skip(f"needs the published {name}; SPACEVLLM_SHARED_DATA names the folder above annotations/")
        return path

    return find
