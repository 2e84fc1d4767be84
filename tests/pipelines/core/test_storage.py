"""Paths and URLs, atomic files, locks: on a local folder and on fsspec's memory:// as the remote store."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import fsspec
import pyarrow as pa
import pytest

from pipelines.core import locks, looks, scratch, storage
from pipelines.media.manifest import list_videos
from spacevllm.config import ConfigError
from spacevllm.data.instance import instance_id


@pytest.fixture(params=["local", "remote"])
def root(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "store")
    else:
        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_files_go_in_and_come_out(root):
    uri = storage.join(root, "a", "b.json")
    assert not storage.exists(uri)
    storage.write_json(uri, {"x": "ü"})
    storage.write_json(uri, {"x": "ä"})  # replaces
    assert storage.read_json(uri) == {"x": "ä"}
    assert storage.is_folder(storage.join(root, "a")) and not storage.is_folder(uri)
    with scratch.local_copy(uri) as path, open(path) as file:
        assert json.load(file) == {"x": "ä"}


def test_find_sees_folders_globs_and_files_in_one_spelling(root):
    for name in ("b.mp4", "a.mp4", "deep/c.mp4", "deep/d.txt"):
        storage.write_text(storage.join(root, name), name)
    spelled = [storage.absolute(storage.join(root, name)) for name in ("a.mp4", "b.mp4", "deep/c.mp4", "deep/d.txt")]
    assert list(storage.find(root)) == spelled
    assert list(storage.find(storage.join(root, "*.mp4"))) == spelled[:2]
    assert list(storage.find(storage.join(root, "**/*.mp4"))) == spelled[:3]
    assert list(storage.find(spelled[3])) == spelled[3:]
    assert storage.find(storage.join(root, "nothing")) == {}


def test_a_file_with_brackets_in_its_name_is_no_glob(tmp_path):
    storage.write_text(tmp_path / "clip [1].mp4", "x")
    assert list(storage.find(tmp_path / "clip [1].mp4")) == [str(tmp_path / "clip [1].mp4")]


def test_a_hidden_folder_that_is_named_is_searched_by_a_glob_too(root):
    for name in ("a.mp4", ".b.mp4", ".deep/c.mp4"):
        storage.write_text(storage.join(root, ".cache/v", name), name)
    [wanted] = storage.find(storage.join(root, ".cache/v"))
    assert list(storage.find(storage.join(root, ".cache/v/*.mp4"))) == [wanted]
    assert list(storage.find(storage.join(root, ".cache/v/**/*.mp4"))) == [wanted]
    assert list(storage.find(storage.join(root, ".cache/v/[ab]*"))) == [wanted]
    assert not storage.find(storage.join(root, "*/v/a.mp4"))


def test_a_local_name_is_no_chain_of_file_systems(tmp_path):
    path = tmp_path / "Talk :: one.mp4"
    storage.write_text(path, "x")
    assert list(storage.find(tmp_path)) == list(storage.find(path)) == [storage.absolute(path)] == [str(path)]
    assert storage.read_text(path) == "x" and storage.version(path) and not storage.is_glob(path)
    with scratch.local_copy(path) as copy:
        assert copy == str(path)


def test_find_leaves_out_hidden_and_half_written_files(tmp_path):
    storage.write_text(tmp_path / "whole.parquet", "x")
    (tmp_path / ".whole.parquet.x7").write_text("half")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.parquet").write_text("x")
    assert [os.path.basename(uri) for uri in storage.find(tmp_path)] == ["whole.parquet"]


def test_find_follows_links_to_files(tmp_path):
    """A snapshot of a model hub, or a selection, is a folder of links."""
    (tmp_path / "stored").write_text("x")
    links = tmp_path / "links"
    links.mkdir()
    (links / "a.mp4").symlink_to("../stored")
    (links / "lost.mp4").symlink_to("nowhere")  # is told by whoever reads it
    (links / "loop").symlink_to(".")
    for uri in (links, links / "*.mp4"):
        found = storage.find(uri)
        assert [storage.name(one) for one in found] == ["a.mp4", "lost.mp4"]
    assert storage.version(links / "a.mp4") == found[str(links / "a.mp4")]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    storage.write_text(tmp_path / "a", "old")
    with pytest.raises(TypeError):
        storage.write_bytes(tmp_path / "a", "not bytes")
    assert os.listdir(tmp_path) == ["a"] and storage.read_text(tmp_path / "a") == "old"


def test_a_folder_is_copied_whole_and_nothing_is_no_folder(root, tmp_path):
    for name in ("a.bin", "below/b.bin"):
        storage.write_bytes(storage.join(root, "from", name), name.encode())
    for target in (storage.join(root, "to"), str(tmp_path / "to")):
        storage.copy_folder(storage.join(root, "from/"), target)
        assert storage.read_text(storage.join(target, "below/b.bin")) == "below/b.bin"
        assert len(storage.find(target)) == 2
    for nothing in ("none", "from/a.bin"):
        with pytest.raises(FileNotFoundError, match=r"cannot copy .* no folder that holds files"):
            storage.copy_folder(storage.join(root, nothing), storage.join(root, "other"))
    assert storage.find(storage.join(root, "other")) == {}


def test_version_changes_with_the_content(root):
    uri = storage.join(root, "a")
    assert storage.version(uri) == ""
    storage.write_text(uri, "one")
    before = storage.version(uri)
    assert storage.version(uri) == before
    storage.write_text(uri, "three")
    assert storage.version(uri) != before


def test_the_same_table_gives_the_same_bytes(tmp_path):
    whole = pa.table({"x": list(range(10)), "s": ["a", "b"] * 5})
    storage.write_table(tmp_path / "1.parquet", whole)
    storage.write_table(tmp_path / "2.parquet", pa.concat_tables([whole.slice(0, 3), whole.slice(3)]))
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    assert storage.read_table(tmp_path).num_rows == 20


def test_a_column_that_a_file_lacks_is_left_out(tmp_path):
    storage.write_table(tmp_path / "1.parquet", pa.table({"x": [1], "y": [2]}))
    assert storage.read_table(tmp_path, ["x", "z"]).to_pylist() == [{"x": 1}]


def test_a_second_job_on_the_same_output_is_refused_by_name(root, monkeypatch):
    monkeypatch.setattr(locks, "RENEW_S", 0.2)
    refused = pytest.raises(locks.StorageBusy, match=rf"process {os.getpid()} on .*choose another --out")
    with locks.exclusive(root), refused:
        locks.exclusive(root).__enter__()
    with locks.exclusive(root):
        pass  # free again


def test_a_killed_process_holds_no_lock(tmp_path):
    hold = f"""
from pipelines.core import locks, looks, scratch, storage
with locks.exclusive({str(tmp_path)!r}):
    print(1, flush=True)
    input()
"""
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"1\n"
    with pytest.raises(locks.StorageBusy, match=f"process {holder.pid} "):
        locks.exclusive(tmp_path).__enter__()
    holder.kill()
    holder.communicate()
    with locks.exclusive(tmp_path):
        pass


def test_what_cannot_be_looked_at_is_not_missing(tmp_path, monkeypatch):
    share = tmp_path / "share"
    storage.write_text(share / "a", "one")
    assert looks.look(str(share / "a")).version
    assert looks.look(str(share / "b")) == looks.look(str(share / "no" / "folder")) == ("", "")
    (share / "a").unlink()  # a share that is not mounted is an empty folder
    for name in ("a", "deep/in/it/b"):
        seen = looks.look(str(share / name))
        assert seen.version is None and "is it mounted?" in seen.why
    assert looks.look("nowhere://a").version is None
    names = [str(tmp_path / "there" / f"{i}") for i in range(40)]
    for name in names:
        storage.write_text(name, "one")
    assert None not in looks.versions([*names, str(tmp_path / "there" / "missing")]).values()
    assert list(looks.versions([*names, str(share / "1")]).values())[-1] is None
    away = [str(share / f"{i}") for i in range(6)]
    with pytest.raises(looks.Unreachable, match=r"6 of 46 files cannot be looked at now, .*share/0.*mounted"):
        looks.versions([*names, *away])
    gone = [str(tmp_path / "gone" / f"{i}") for i in range(3)]  # or it is no folder at all
    assert set(looks.versions(gone).values()) == {""}
    with pytest.raises(looks.Unreachable, match="none of 3 files is there"):
        looks.versions(gone, some=True)


def test_manifest_of_a_folder_a_glob_a_file_and_a_url(archive):
    rows = list_videos(str(archive)).to_pylist()
    names = ["clip0", "clip1", "clip2", "clip3", "cut", "empty", "text"]
    assert [row["uri"] for row in rows] == [str(archive / f"{name}.mp4") for name in names]
    assert all(row["media"] == row["uri"] and row["id"] == instance_id(row["uri"]) for row in rows)
    assert list_videos(str(archive / "clip*.mp4")).num_rows == 4
    assert list_videos([str(archive / "clip0.mp4"), str(archive)]).num_rows == 7  # each once
    assert list_videos(str(archive / "notes.txt")).num_rows == 1  # named: taken as it is
    url = "http://127.0.0.1:9/clip.mp4"  # nobody listens: a row all the same, which will fail with its reason
    [row] = list_videos(url).to_pylist()
    assert (row["id"], row["uri"], row["media"], row["version"]) == (instance_id(url), url, url, "")


@pytest.mark.parametrize(("name", "why"), [("missing", "no such file"), ("*.x", "ends in"), ("empty_dir", "ends in")])
def test_no_videos_is_an_error_that_says_why(tmp_path, name, why):
    (tmp_path / "empty_dir").mkdir()
    with pytest.raises(ConfigError, match=why):
        list_videos(str(tmp_path / name))
