"""Shared by all tests: one local Ray session for the whole run, and small real MP4 files."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, not wrong.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Read when torch is imported, here and in every process that tests start. The threads of one operation on a tiny model
# mostly wait for each other: 0.8 s of tests took 21 s on two busy cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", "600")  # what hangs fails


def pytest_collection_modifyitems(items):
    """The file that takes longest first: with two side by side, neither is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_train.py")


@pytest.fixture(scope="session")
def ray_cluster():
    """Starting Ray takes seconds, so it starts once; stages re-use a session that is running."""
    from pipelines.core.cluster import ray_session

    with ray_session():
        yield


@pytest.fixture(scope="session")
def short_folder():
    """Makes folders for a Ray of its own: its sockets lie there, and a socket's path may have at most 107 bytes."""
    with ExitStack() as folders:
        yield lambda: folders.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))


def write_mp4(path, num_frames=24, size=(64, 48), fps=8, shade=0):
    """A real H.264 file whose picture changes from frame to frame. ``size`` is (width, height)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(num_frames):
            picture = np.full((size[1], size[0], 3), (shade + 7 * i) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def make_mp4():
    return write_mp4


@pytest.fixture
def archive(tmp_path):
    """Four good videos and three broken ones."""
    folder = tmp_path / "archive"
    for i in range(4):
        write_mp4(folder / f"clip{i}.mp4", num_frames=16 + i, shade=40 * i)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video")
    (folder / "cut.mp4").write_bytes((folder / "clip0.mp4").read_bytes()[:900])
    (folder / "notes.txt").write_text("no video extension: not looked at")
    return folder
