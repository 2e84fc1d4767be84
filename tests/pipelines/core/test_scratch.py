"""Copies of remote files: there while they are needed, gone when whoever needed them is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipelines.core import scratch, storage

ROOT = Path(__file__).parents[3]

HOLD = """
from pipelines.core import scratch, storage
storage.write_text("memory://there/a.mp4", "one")
with scratch.local_copy("memory://there/a.mp4") as path:
    print(path, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_what_a_killed_process_left_is_swept_and_what_is_held_is_not(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    left = Path(holder.stdout.readline().strip())
    os.utime(left.parent / scratch.HELD, (1, 1))
    assert left.read_text() == "one" and scratch.sweep() == []
    holder.kill()
    holder.communicate()
    assert scratch.sweep() == [str(left.parent)] and list(tmp_path.iterdir()) == []


def test_a_copy_goes_with_its_block_and_a_file_here_is_none(tmp_path):
    storage.write_text("memory://there/a.mp4", "one")
    with scratch.local_copy("memory://there/a.mp4") as path:
        assert Path(path).read_text() == "one" and Path(path).name == "a.mp4"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b.mp4").write_text("two")
    with scratch.local_copy(str(tmp_path / "b.mp4")) as path:
        assert path == str(tmp_path / "b.mp4")


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    storage.write_text("memory://there/a.mp4", "one")
    monkeypatch.setattr(scratch, "SPARE_BYTES", 1 << 60)
    with pytest.raises(OSError, match="MB are to be fetched") as raised, scratch.local_copy("memory://there/a.mp4"):
        pass
    assert raised.value.strerror and list(tmp_path.iterdir()) == []


def test_a_shared_copy_is_fetched_once_and_goes_with_its_last_user(tmp_path, monkeypatch):
    storage.write_text("memory://there/a.mp4", "one")
    with scratch.shared_copy("memory://there/a.mp4") as first:
        monkeypatch.setattr(scratch, "_fetch", None)  # would be a TypeError
        with scratch.shared_copy("memory://there/a.mp4") as second:
            assert first == second and Path(first).read_text() == "one"
        assert Path(first).exists() and scratch.sweep() == []
    assert list(tmp_path.iterdir()) == []
    with scratch.shared_copy(str(Path(__file__))) as here:
        assert here == __file__


SHARE = """
import sys
from pipelines.core import scratch, storage
for turn in range(int(sys.argv[2])):
    with scratch.shared_copy(sys.argv[1]) as path:
        assert open(path).read() == "one"
"""


def test_users_who_come_and_go_at_once_always_find_the_file(tmp_path):
    """Each is now the first, now the last."""
    source = tmp_path / "source.txt"
    source.write_text("one")
    uri = f"simplecache::file://{source}"  # not local, so it is copied
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    users = [subprocess.Popen([sys.executable, "-c", SHARE, uri, "300"], cwd=ROOT, env=env) for _ in range(4)]
    assert [user.wait(timeout=120) for user in users] == [0] * 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(scratch.PREFIX)] == []
