"""A folder listed bit by bit holds what it holds listed at once."""

from __future__ import annotations

import os

import pytest
from s3_server import s3_bucket

from pipelines.core import storage
from pipelines.core.listing import list_files

NAMES = ["a.mp4", "b/c.MP4", "b/d/e.mp4", "b/.hidden/f.mp4", ".g.mp4", "b/h.txt", "i.mp4/j.mp4", "k é#?%41.mp4"]


def same(uri, endings=(".mp4",)):
    found = {u: v for u, v in storage.find(uri).items() if u.lower().endswith(endings)}
    table = list_files(uri, endings)
    assert dict(sorted(zip(table["uri"].to_pylist(), table["version"].to_pylist(), strict=True))) == found
    return len(found)


def test_folders_links_and_what_is_hidden(tmp_path):
    root = tmp_path / ".root"  # what is named may be hidden
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    (root / "link.mp4").symlink_to(root / "a.mp4")
    (root / "broken.mp4").symlink_to(root / "gone.mp4")
    (root / "folder").symlink_to(root / "b")
    assert same(str(root)) == 7 and same(str(root / "b") + "/") == 2 and same(str(root / "*.mp4")) == 4
    assert (root / "locked").mkdir() is None
    os.chmod(root / "locked", 0)
    assert same(str(root)) == 7
    sizes = list_files(str(root / "b"), (".mp4",))
    assert sorted(sizes["size"].to_pylist()) == [7, 9]


def test_pages_and_prefixes_of_a_bucket(monkeypatch):
    with s3_bucket():
        for name in [*NAMES, "b//l.mp4", "b/d/"]:
            storage.write_bytes(f"s3://bucket/v/{name}", b"x" * len(name))
        fs, _ = storage.resolve("s3://bucket/v")
        call = type(fs).call_s3
        monkeypatch.setattr(type(fs), "call_s3", lambda self, method, **k: call(self, method, **{"MaxKeys": 2, **k}))
        assert same("s3://bucket/v") == 6 and same("s3://bucket/v/b/") == 3
        assert sorted(list_files("s3://bucket/v/b/d", (".mp4",))["size"].to_pylist()) == [9]


@pytest.mark.parametrize("uri", ["a", "b/.c"])
def test_names_that_begin_with_another(tmp_path, uri):
    (tmp_path / "b").mkdir()
    for name in ("", "-1", "-2/x", "x"):
        storage.write_text(tmp_path / f"{uri}{name}", "")
    found = storage.begin_with(tmp_path / f"{uri}-")
    assert sorted(found) == [str(tmp_path / f"{uri}-1"), str(tmp_path / f"{uri}-2")]
    assert storage.begin_with(tmp_path / "no/such") == []
