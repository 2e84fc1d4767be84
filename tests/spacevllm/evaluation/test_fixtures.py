"""The stand-ins hold what the published files hold, and nothing in them is dropped."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from PIL import Image

from spacevllm.data.sources.base import SourceFiles
from spacevllm.evaluation.benchmarks import BENCHMARKS, read_queries
from spacevllm.evaluation.fixtures import FIXTURES, write_fixture
from spacevllm.video import probe


def test_every_published_benchmark_has_one():
    assert set(FIXTURES) == {name for name, known in BENCHMARKS.items() if known.published}
    assert len(FIXTURES) == 11


@pytest.mark.parametrize("name", FIXTURES)
def test_all_that_it_asks_can_be_read_and_its_media_are_there(tmp_path, name):
    folder = write_fixture(name, tmp_path, num_videos=2)
    known = BENCHMARKS[name]
    paths = {kind: folder / path.format(split=known.split) for kind, path in known.files.items()}
    queries = list(read_queries(name, SourceFiles(**paths, split=known.split, media_root=str(folder / "media"))))
    assert queries and all(query.task == known.task for query in queries), queries[:1]  # a Dropped has no task
    for media, about in {query.media: query for query in queries}.items():
        if known.media == "images":
            assert Image.open(media).size == (about.width, about.height)
            continue
        info = probe(media)
        if about.num_frames:
            assert (info.num_frames, info.width, info.height) == (about.num_frames, about.width, about.height)
            assert info.fps == about.fps
    assert all(q.end_frame <= q.num_frames for q in queries if q.end_frame is not None)


def test_the_same_seed_gives_the_same_files_and_another_does_not(tmp_path):
    def content(root, seed):
        folder = write_fixture("vidstg", tmp_path / root, 2, seed)
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert content("a", 0) == content("b", 0) != content("c", 1)


def test_refs_are_a_pickle_as_python_2_wrote_them(tmp_path):
    path = write_fixture("refcoco+", tmp_path, 1) / "refs(unc).p"
    assert path.read_bytes()[:2] == b"\x80\x02"
    [first, *_] = pickle.loads(path.read_bytes(), encoding="latin-1")
    assert Path(first["file_name"]).stem.endswith(f"_{first['ann_id']}")  # the suffix that no image has
