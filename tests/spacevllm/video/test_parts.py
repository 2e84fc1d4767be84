"""Parts of a film read in bundles: the same frames as one by one, and each with its own trouble."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from clips import write_clip

from spacevllm.frame_size import FrameBudget
from spacevllm.span import Span
from spacevllm.video import probe, sample_frames
from spacevllm.video.errors import DecoderCrashed, EmptySegment, UndecodableFrames
from spacevllm.video.guard import GuardedSampler
from spacevllm.video.parts import bundled, parts_reader
from spacevllm.video.reader import find_frames

PARTS = [Span(begin, begin + 2.0) for begin in np.arange(0, 7, 0.7)]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("parts") / "film.mp4", 200, gop=25)


def damaged(path, info, begin, end):
    """The film without the bytes of its frames [begin, end)."""
    import av

    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size and begin <= round(float(packet.pts * packet.time_base) * 25) < end:
                content[packet.pos + 4 : packet.pos + packet.size] = bytes(packet.size - 4)
    other = path.with_name("damaged.mp4")
    other.write_bytes(content)
    return other


@pytest.mark.parametrize("size", [64, FrameBudget(cells=12, cell=16)])
def test_a_part_in_a_bundle_is_the_part_alone(film, size):
    info = probe(film)
    read = parts_reader(info, 5, size, partial(find_frames, film, info, size=size))
    clips = list(read([*PARTS, Span(0, 2.0)]))  # what is asked again comes again
    for part, clip in zip([*PARTS, Span(0, 2.0)], clips, strict=True):
        alone = sample_frames(film, 5, part=part, size=size)
        np.testing.assert_array_equal(clip.frames, alone.frames)
        assert clip.indices.tolist() == alone.indices.tolist() and clip.part == alone.part
    assert list(read([])) == []


def test_bundles_hold_no_more_than_memory_allows_and_leave_work_for_all(film, monkeypatch):
    info = probe(film)
    assert [len(b.parts) for b in bundled(info, PARTS, 5, 64)] == [10]
    assert [len(b.parts) for b in bundled(info, PARTS, 5, 64, readers=3)] == [4, 4, 2]
    monkeypatch.setattr("spacevllm.video.parts.BUNDLE_BYTES", 2 * 5 * 64 * 64 * 3)
    assert [len(b.parts) for b in bundled(info, PARTS, 5, 64)] == [2] * 5
    assert [len(b.parts) for b in bundled(info, PARTS, 5000, 64)] == [1] * 10


def test_damage_and_parts_without_a_frame_cost_only_themselves(film):
    info = probe(film)
    bad = damaged(film, info, 100, 125)  # seconds 4 to 5, a whole GOP
    read = parts_reader(info, 5, 64, partial(find_frames, bad, info, size=64))
    *clips, none = read([*PARTS, Span(8.5, 9)])
    assert isinstance(none, EmptySegment)
    for part, clip in zip(PARTS, clips, strict=True):
        try:
            alone = sample_frames(bad, 5, part=part, size=64)
        except UndecodableFrames as error:
            assert isinstance(clip, UndecodableFrames) and str(clip).split(": ")[1] == str(error).split(": ")[1]
        else:
            np.testing.assert_array_equal(clip.frames, alone.frames)
    assert 0 < sum(isinstance(clip, UndecodableFrames) for clip in clips) < len(PARTS)


def test_a_decoder_that_dies_of_one_part_reads_the_others(film):
    info = probe(film)
    poison = sample_frames(film, 5, part=PARTS[4]).indices[2]

    def find(indices):
        if poison in indices:
            raise DecoderCrashed("died")
        return find_frames(film, info, indices, 64)

    clips = list(parts_reader(info, 5, 64, find)(PARTS))
    for part, clip in zip(PARTS, clips, strict=True):
        alone = sample_frames(film, 5, part=part, size=64)
        if poison in alone.indices:
            assert isinstance(clip, DecoderCrashed)
        else:
            np.testing.assert_array_equal(clip.frames, alone.frames)
    assert 0 < sum(isinstance(clip, DecoderCrashed) for clip in clips) < len(PARTS)


def test_the_child_finds_frames_and_measures_what_is_too_long_to_decode(film):
    with GuardedSampler(60) as sampler:
        measured = sampler.sample(film, 8, size=64, most_s=4)
        assert measured.frames.shape == (0, 64, 64, 3) and measured.info.num_frames == 200
        assert len(sampler.sample(film, 8, size=64, most_s=4, part=Span(1, 4)).frames) == 8
        indices, frames = sampler.find(film, measured.info, np.array([3, 77, 199]), 64)
    expected = find_frames(film, measured.info, np.array([3, 77, 199]), 64)
    assert indices.tolist() == [3, 77, 199]
    np.testing.assert_array_equal(frames, expected[1])
