"""Films: measured by a decoder, read by readers of their own, asked window by window, whatever is damaged or killed."""

from __future__ import annotations

import os
import shutil
from functools import partial

import av
import numpy as np
import pytest
import ray
import ray.cloudpickle
import standin
from test_ground_faults import config, meanwhile, own_process, wait_for

from pipelines.archive.ground import run
from pipelines.archive.tubes import visible
from pipelines.media import films
from pipelines.media.decode import DecodeOptions, Decoder, row_to_frames
from pipelines.media.films import FilmReaders, start_readers
from pipelines.media.reading import Plan
from spacevllm.span import Span
from spacevllm.video import probe, sample_frames

PLAN = Plan(standin.Standin.num_frames, standin.Standin.image_size)
WINDOWS = 9  # of 40 s, at 4 frames a window of 8 s


@pytest.fixture
def film(tmp_path, make_mp4):
    return make_mp4(tmp_path / "archive/film.mp4", num_frames=40, fps=1)


def readers_of(count):
    return partial(start_readers, PLAN, DecodeOptions(), "pyav", count)


def rows_of(out):
    return visible(str(out)).table(["video", "question", "status", "error", "windows", "windows_unread"]).to_pylist()


def lose(film, *lost):
    """The bytes of these frames become nothing."""
    content = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        packets = sorted((p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size)
    for _, begin, size in (packets[number] for number in lost):
        content[begin + 4 : begin + size] = bytes(size - 4)
    film.write_bytes(content)


def test_readers_give_what_one_decoder_would_and_share_a_remote_copy(film, ray_cluster, monkeypatch, tmp_path):
    monkeypatch.setattr("spacevllm.video.parts.BUNDLE_PARTS", 2)
    [reader, *_] = readers = readers_of(2)()
    parts = [Span(begin, begin + 8.0) for begin in range(0, 32, 4)]
    remote = f"simplecache::file://{film}"
    pool = FilmReaders(lambda: readers, PLAN, sharing=1)
    clips = list(pool.of(remote, probe(film))(parts))
    for part, clip in zip(parts, clips, strict=True):
        alone = sample_frames(film, PLAN.num_frames, part=part, size=PLAN.size)
        np.testing.assert_array_equal(clip.frames, alone.frames)
        assert clip.part == alone.part and clip.info.path == str(film)
    held = ray.get(reader.handle.__ray_call__.remote(lambda actor: list(actor._copies)))
    assert held == [remote]
    pool.leave(remote)
    assert ray.get(reader.handle.__ray_call__.remote(lambda actor: len(actor._copies))) == 0
    with pytest.raises(OSError, match=r"readers could not read it, the last: .*nowhere"):
        list(pool.of("memory://nowhere/film.mp4", probe(film))(parts))
    for one in readers:
        ray.kill(one.handle)


def test_a_film_is_read_on_as_many_nodes_as_fall_to_one_actor():
    nodes = [
        {"NodeID": name, "Alive": True, "Resources": {"CPU": cpus}} for name, cpus in (("a", 2), ("b", 1), ("c", 0))
    ]
    assert films._places(nodes, 9) == ["a", "b", "a"] and films._places(nodes, 2) == ["a", "b"]
    readers = [films.Reader(None, node) for node in "abcd" for _ in range(2)]
    for sharing, count in ((1, 4), (2, 2), (3, 2), (4, 1), (9, 1)):
        near = FilmReaders(lambda: readers, PLAN, sharing)._near("film")
        assert len({reader.node for reader in near}) == count and len(near) == 2 * count
    spread = {FilmReaders(lambda: readers, PLAN, 4)._near(f"film {number}")[0].node for number in range(50)}
    assert spread == set("abcd")


def test_a_film_is_measured_not_decoded_and_one_bad_frame_of_it_is_no_matter(film):
    lose(film, 13)
    decoder = Decoder(PLAN, DecodeOptions(), most_s=8)
    row = decoder.decode(str(film))
    assert row["status"] == "ok" and not row["frames"] and row["frame_times_s"] == []
    clip = row_to_frames(row | {"media": "name"})
    assert len(clip.info.times_s) == 40 and clip.info.keyframes and clip.info.path == "name"
    assert len(row_to_frames(decoder.decode(str(film), Span(20, 28)) | {"media": "name"}).frames) == 4
    assert Decoder(PLAN, DecodeOptions()).decode(str(film))["error"].startswith("undecodable_frames")


@pytest.mark.slow
def test_damage_costs_windows_and_a_killed_reader_nothing(film, tmp_path, ray_cluster):
    damaged = film.with_name("damaged.mp4")
    shutil.copy(film, damaged)
    lose(damaged, 12, 13, 14, 15)

    def kill_a_reader():
        wait_for(lambda: own_process("FilmReader.read") or own_process("FilmReader")).kill()

    with meanwhile(kill_a_reader):
        summary = run(config(film.parent, tmp_path), standin.load_slow)
    rows = rows_of(tmp_path / "out")
    assert summary["ok"] == 4 and {row["status"] for row in rows} == {"ok"}
    unread = {os.path.basename(row["video"]): row["windows_unread"] for row in rows}
    assert unread["film.mp4"] == 0 and 0 < unread["damaged.mp4"] < WINDOWS
    assert {row["windows"] + row["windows_unread"] for row in rows} == {WINDOWS}
    wait_for(lambda: own_process("FilmReader") is None)  # they end with the run
