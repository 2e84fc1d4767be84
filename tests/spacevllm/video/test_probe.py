from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import CLIPS, IRREGULAR, NTSC, PYAV_ONLY, corners, decode_all, write_clip, write_sound

from spacevllm.video import errors
from spacevllm.video.probe import probe
from spacevllm.video.reader import read_frames

Clip = Callable[[str], Path]


@pytest.mark.parametrize("name", [*CLIPS, *PYAV_ONLY])
def test_frames_and_times_are_those_of_a_decode_from_the_start(clip: Clip, name: str) -> None:
    info = probe(clip(name))
    frames, times = decode_all(clip(name))
    assert info.num_frames == len(frames) == len(info.times_s) == len(info.pts)
    np.testing.assert_allclose(info.times_s, np.array(times) - times[0], atol=1e-9)
    assert info.first_pts_s == pytest.approx(times[0])
    assert info.times_s[0] == 0 and info.duration_s > info.times_s[-1]


def test_constant_rate(clip: Clip) -> None:
    info = probe(clip("plain.mp4"))
    assert (info.width, info.height, info.num_frames) == (160, 120, 57)
    assert info.fps == 25 and info.duration_s == pytest.approx(57 / 25)
    assert info.keyframes == (0, 12, 24, 36, 48)
    assert info.codec == "h264" and "mp4" in info.container
    assert (info.rotation, info.mirrored, info.independent_gops, info.first_pts_s) == (0, False, True, 0.0)


def test_fractional_rate_and_late_start(clip: Clip) -> None:
    info = probe(clip("ntsc_late.mp4"))
    assert info.fps == NTSC
    assert info.first_pts_s == pytest.approx(1001 / 30000, abs=1e-3)  # edit lists count milliseconds
    assert info.duration_s == pytest.approx(57 * 1001 / 30000)


def test_variable_rate_times_are_the_written_ones(clip: Clip) -> None:
    info = probe(clip("variable_rate.mp4"))
    np.testing.assert_allclose(info.times_s, (np.array(IRREGULAR) - IRREGULAR[0]) / 12800, atol=1e-9)
    assert float(info.fps) == pytest.approx(info.num_frames / info.duration_s, rel=0.02)
    assert info.uneven_times(3, 7).tolist() == info.times_s[3:7].tolist()
    assert probe(clip("ntsc_late.mp4")).uneven_times(3, 7).size == 0


def test_one_frame_lasts_as_long_as_its_rate_says(clip: Clip) -> None:
    info = probe(clip("one_frame.mp4"))
    assert (info.num_frames, info.duration_s, info.keyframes) == (1, pytest.approx(0.04), (0,))


def test_what_misleads_readers_that_count_frames_is_flagged(clip: Clip) -> None:
    assert not probe(clip("open_gops.mp4")).independent_gops
    assert not probe(clip("hidden_start.mp4")).independent_gops
    assert probe(clip("hidden_start.mp4")).num_frames == 52  # 5 of 57 are never shown


@pytest.mark.parametrize(("degrees", "clockwise"), [(0, 0), (-90, 90), (180, 180), (90, 270)])
@pytest.mark.parametrize("hflip", [False, True])
def test_rotation_and_display_size(tmp_path: Path, degrees: int, clockwise: int, hflip: bool) -> None:
    path = write_clip(tmp_path / "turned.mp4", frames=[corners(96, 64)], size=(96, 64), rotation=degrees, hflip=hflip)
    info = probe(path)
    # the file flips after turning, we flip first: then the turn goes the other way
    assert (info.rotation, info.mirrored) == (-clockwise % 360 if hflip else clockwise, hflip)
    assert (info.width, info.height) == ((64, 96) if clockwise in (90, 270) else (96, 64))


def test_info_crosses_processes(clip: Clip) -> None:
    info = pickle.loads(pickle.dumps(probe(clip("plain.mp4"))))
    assert info.fps == Fraction(25) and info.times_s[-1] == pytest.approx(56 / 25)


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    _fails(tmp_path / "nothing.mp4", errors.MissingVideo, "No such file")
    _fails(tmp_path, errors.MissingVideo, "folder")
    (tmp_path / "empty.mp4").touch()
    _fails(tmp_path / "empty.mp4", errors.EmptyFile, "0 bytes")


def test_other_files_under_a_video_name(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    _fails(tmp_path / "text.mp4", errors.NotAVideo, "not a video file")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(10_000))
    _fails(tmp_path / "noise.mp4", errors.NotAVideo, "not a video file")


def test_a_playlist_does_not_open_what_it_names(clip: Clip, tmp_path: Path) -> None:
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.28,\n{clip('stream.ts')}\n#EXT-X-ENDLIST\n")
    _fails(playlist, errors.NotAVideo, "not a video file")
    playlist.write_text(f"ffconcat version 1.0\nfile {os.path.relpath(clip('plain.mp4'), tmp_path)}\n")
    _fails(playlist, errors.NotAVideo, "not a video file")


def test_audio_only(tmp_path: Path) -> None:
    _fails(write_sound(tmp_path / "song.mp4"), errors.NoVideoStream, "only audio")


def test_mp4_cut_off_before_its_index(clip: Clip, tmp_path: Path) -> None:
    _fails(_cut(clip("plain.mp4"), tmp_path / "cut.mp4", 0.6), errors.TruncatedVideo, "moov")


@pytest.mark.parametrize("sound", [False, True])
def test_mp4_cut_off_after_its_index_counts_its_frames(tmp_path: Path, sound: bool) -> None:
    whole = write_clip(tmp_path / "whole.mp4", audio=sound, container={"movflags": "faststart"})
    assert probe(whole).num_frames == 57
    _fails(_cut(whole, tmp_path / "cut.mp4", 0.6), errors.TruncatedVideo, r"after \d\d of 57 frames")


def test_one_lost_byte_is_one_lost_frame(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", container={"movflags": "faststart"})
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-1])
    _fails(tmp_path / "cut.mp4", errors.TruncatedVideo, "after 56 of 57 frames")


@pytest.mark.parametrize("name", ["matroska.mkv", "fragmented.mp4"])
def test_other_containers_cut_off(clip: Clip, tmp_path: Path, name: str) -> None:
    _fails(_cut(clip(name), tmp_path / name, 0.6), errors.TruncatedVideo, r"ends (at|after) .* of ")


def test_a_recording_that_begins_between_keyframes_begins_at_the_next(clip: Clip, tmp_path: Path) -> None:
    data = clip("stream.ts").read_bytes()
    (tmp_path / "late.ts").write_bytes(data[len(data) // 3 // 188 * 188 :])
    info = probe(tmp_path / "late.ts")
    assert info.keyframes[0] == 0 and info.num_frames == len(decode_all(tmp_path / "late.ts")[0])


def copy_from(whole: Path, path: Path, first: int) -> Path:
    """The packets from ``first`` on, as they are: a stream copy that was cut between keyframes."""
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in [p for p in source.demux(video=0) if p.size][first:]:
            packet.stream = stream
            out.mux(packet)
    return path


@pytest.mark.parametrize("b_frames", [0, 2])
def test_an_mp4_that_begins_between_keyframes_begins_at_the_next(tmp_path: Path, b_frames: int) -> None:
    whole = write_clip(tmp_path / "whole.mp4", 60, gop=15, b_frames=b_frames, options={"sc_threshold": "0"})
    late = copy_from(whole, tmp_path / "late.mp4", 5)
    info, (frames, times) = probe(late), decode_all(late)
    assert info.num_frames == len(frames) == 45 and info.keyframes == (0, 15, 30)
    np.testing.assert_allclose(info.times_s, np.array(times) - times[0], atol=1e-9)
    np.testing.assert_array_equal(read_frames(info, [0, 20, 44]), frames[[0, 20, 44]])
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(late.read_bytes()[:-1])
    _fails(cut, errors.TruncatedVideo, "after 44 of 45 frames")


def test_avi_with_b_frames_is_refused_not_misread(tmp_path: Path) -> None:
    assert probe(write_clip(tmp_path / "fine.avi", b_frames=0)).num_frames == 57
    _fails(write_clip(tmp_path / "bad.avi", b_frames=2), errors.NotAVideo, "re-mux it to MP4")


def test_names_that_look_like_protocols(tmp_path: Path) -> None:
    assert probe(write_clip(tmp_path / "http:clip é.mp4", frames=3)).num_frames == 3


def test_caps(clip: Clip) -> None:
    assert probe(clip("plain.mp4"), max_pixels=160 * 120, max_frames=57).num_frames == 57
    with pytest.raises(errors.TooLarge, match="160x120"):
        probe(clip("plain.mp4"), max_pixels=160 * 120 - 1)
    with pytest.raises(errors.TooLarge, match="more frames than the allowed 56"):
        probe(clip("plain.mp4"), max_frames=56)


def test_every_error_pickles_and_has_its_own_reason() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.VideoError)]
    for kind in kinds:
        copy = pickle.loads(pickle.dumps(kind("clip.mp4: why")))
        assert type(copy) is kind and str(copy) == "clip.mp4: why"
    assert len({kind.reason for kind in kinds}) == len(kinds)


def test_a_display_matrix_of_no_right_angle_turns_nothing(clip: Clip, tmp_path: Path) -> None:
    data = bytearray(clip("plain.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 2 * 4 + 4 * 2  # version, times and ids, reserved, layer..volume
    one = int(0.7071 * 65536)
    struct.pack_into(">9i", data, at, one, one, 0, -one, one, 0, 0, 0, 1 << 30)  # 45 degrees
    (tmp_path / "tilted.mp4").write_bytes(data)
    info = probe(tmp_path / "tilted.mp4")
    assert (info.rotation, info.width, info.height) == (0, 160, 120)


def _cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def _fails(path: Path, kind: type[errors.VideoError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        probe(path)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(str(path))
