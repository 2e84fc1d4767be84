from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from clips import CLIPS, PYAV_ONLY, corners, decode_all, pattern, write_clip
from PIL import Image

from spacevllm.span import Span
from spacevllm.video import errors
from spacevllm.video.probe import VideoInfo, probe
from spacevllm.video.reader import Backend, plan_runs, read_frames, sample_frames
from spacevllm.video.resize import resize_frames
from spacevllm.video.sampling import uniform_indices

Clip = Callable[[str], Path]
BACKENDS: list[Backend] = ["pyav", "decord"]
CASES = [(name, backend) for name in CLIPS for backend in BACKENDS] + [(name, "pyav") for name in PYAV_ONLY]


def upright(frames: np.ndarray, info: VideoInfo) -> np.ndarray:
    frames = frames[:, :, ::-1] if info.mirrored else frames
    return np.rot90(frames, -info.rotation // 90, axes=(1, 2))


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_frames_are_those_of_a_decode_from_the_start(clip: Clip, name: str, backend: Backend) -> None:
    info = probe(clip(name))
    truth = upright(decode_all(clip(name))[0], info)  # (N, H, W, 3)
    plans = {
        "uniform": uniform_indices(info.num_frames, 8),
        "all": np.arange(info.num_frames),
        "last": [info.num_frames - 1],
        "repeats, out of order": np.random.default_rng(1).integers(0, info.num_frames, 12),
    }
    for plan, indices in plans.items():
        frames = read_frames(info, indices, backend)
        assert frames.dtype == np.uint8 and frames.shape == (len(indices), info.height, info.width, 3)
        np.testing.assert_array_equal(frames, truth[indices], err_msg=f"{plan} frames of {name}")


@pytest.mark.parametrize("name", ["open_gops.mp4", "hidden_start.mp4", "short_gops.mp4", "stream.ts", "hevc.mp4"])
def test_every_single_frame_after_a_seek(clip: Clip, name: str) -> None:
    info = probe(clip(name))
    truth = decode_all(clip(name))[0]
    for i in range(info.num_frames):
        np.testing.assert_array_equal(read_frames(info, [i])[0], truth[i], err_msg=f"frame {i}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rotation", [0, 90])
def test_frames_of_a_wanted_size_are_those_resized_afterwards(tmp_path: Path, backend: Backend, rotation: int) -> None:
    """But for the chroma of sharp edges, which one step treats better than two."""
    path = write_clip(tmp_path / "clip.mp4", 12, rotation=rotation)
    whole, sized = sample_frames(path, 16, backend), sample_frames(path, 16, backend, size=40)
    afterwards = resize_frames(whole.frames, 40)  # repeats included
    if backend == "decord":
        np.testing.assert_array_equal(sized.frames, afterwards)
    luma = [frames @ np.array([0.299, 0.587, 0.114]) for frames in (sized.frames, afterwards)]  # (T, H, W)
    assert np.abs(luma[0] - luma[1]).mean() < 2.5 < np.abs(luma[0] - np.roll(luma[1], 1, axis=2)).mean()
    assert (sized.info.width, sized.info.height) == (whole.info.width, whole.info.height)
    Image.fromarray(whole.frames[0]).save(tmp_path / "image.png")
    assert sample_frames(tmp_path / "image.png", 4, size=40).frames.shape == (1, 40, 40, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_upright(tmp_path: Path, backend: Backend, degrees: int) -> None:
    stored = corners(96, 64)
    path = write_clip(tmp_path / "turned.mp4", frames=[stored] * 5, size=(96, 64), rotation=degrees)
    [frame] = sample_frames(path, 1, backend).frames
    wanted = np.rot90(stored, degrees // 90)  # both count anticlockwise
    assert np.abs(_middle_of_corners(frame) - _middle_of_corners(wanted)).max() < 40
    assert np.abs(_middle_of_corners(frame) - _middle_of_corners(np.rot90(wanted, 2))).max() > 200


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_mirrored(tmp_path: Path, degrees: int) -> None:
    stored = corners(96, 64)
    path = write_clip(tmp_path / "selfie.mp4", frames=[stored] * 3, size=(96, 64), rotation=degrees, hflip=True)
    frame = sample_frames(path, 1).frames[0]
    wanted = np.rot90(stored, degrees // 90)[:, ::-1]
    assert np.abs(_middle_of_corners(frame) - _middle_of_corners(wanted)).max() < 40


@pytest.mark.parametrize("name", list(PYAV_ONLY))
def test_decord_refuses_what_it_would_misread(clip: Clip, name: str) -> None:
    with pytest.raises(errors.UndecodableFrames, match="use the backend pyav"):
        sample_frames(clip(name), 8, "decord")


@pytest.mark.parametrize("backend", BACKENDS)
def test_sample_is_uniform_with_times(clip: Clip, backend: Backend) -> None:
    sample = sample_frames(clip("ntsc_late.mp4"), 8, backend)
    assert sample.indices.tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    np.testing.assert_allclose(sample.times_s, sample.indices * 1001 / 30000, atol=1e-9)
    np.testing.assert_array_equal(sample.frames, decode_all(clip("ntsc_late.mp4"))[0][sample.indices])


@pytest.mark.parametrize("backend", BACKENDS)
def test_short_clip_repeats_frames(tmp_path: Path, backend: Backend) -> None:
    sample = sample_frames(write_clip(tmp_path / "short.mp4", frames=3), 6, backend)
    assert sample.indices.tolist() == [0, 0, 0, 1, 1, 2]
    np.testing.assert_array_equal(sample.frames[0], sample.frames[2])
    assert (sample.frames[2] != sample.frames[3]).any()


def test_segment(clip: Clip) -> None:
    sample = sample_frames(clip("plain.mp4"), 4, segment=(20, 30))
    assert sample.indices.tolist() == [20, 23, 26, 29]
    assert sample.times_s[0] == pytest.approx(20 / 25)  # of the video, not of the segment
    assert sample_frames(clip("plain.mp4"), 4, segment=(50, 1000)).indices[-1] == 56
    for segment in ((57, 60), (30, 30), (-1, 5)):
        with pytest.raises(errors.EmptySegment, match="none of its 57 frames"):
            sample_frames(clip("plain.mp4"), 4, segment=segment)


def test_index_outside_the_video(clip: Clip) -> None:
    info = probe(clip("plain.mp4"))
    for index in (57, -1):
        with pytest.raises(IndexError, match=f"no frame {index}, it has frames 0 to 56"):
            read_frames(info, [0, index])


def test_unknown_backend(clip: Clip) -> None:
    with pytest.raises(ValueError, match="none of pyav, decord"):
        sample_frames(clip("plain.mp4"), 4, "opencv")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_truncated_video_says_how_much_is_there(tmp_path: Path, backend: Backend) -> None:
    whole = write_clip(tmp_path / "whole.mp4", container={"movflags": "faststart"})
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(errors.TruncatedVideo, match=r"ends after \d\d of 57 frames"):
        sample_frames(tmp_path / "cut.mp4", 8, backend)


def test_damage_in_the_middle_costs_only_the_frames_it_hits(clip: Clip, tmp_path: Path) -> None:
    data = bytearray(clip("no_b_frames.mp4").read_bytes())
    spoiled = _packet_bytes(clip("no_b_frames.mp4"), 24)  # a keyframe
    data[spoiled] = bytes(len(data[spoiled]))
    (tmp_path / "damaged.mp4").write_bytes(data)
    info = probe(tmp_path / "damaged.mp4")
    truth = decode_all(clip("no_b_frames.mp4"))[0]
    np.testing.assert_array_equal(read_frames(info, [0, 23, 36, 56]), truth[[0, 23, 36, 56]])
    with pytest.raises(errors.UndecodableFrames, match="decoded 2 of 3 wanted frames, the first lost is frame 24"):
        read_frames(info, [10, 24, 40])


def test_caps(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(errors.TooLarge):
        sample_frames(clip("plain.mp4"), 8, max_pixels=100)
    with pytest.raises(errors.TooLarge):
        sample_frames(clip("plain.mp4"), 8, max_frames=50)
    Image.new("RGB", (64, 48)).save(tmp_path / "still.png")
    with pytest.raises(errors.TooLarge, match="64x48"):
        sample_frames(tmp_path / "still.png", 8, max_pixels=100)


def test_damage_with_an_error_of_the_codecs_own(tmp_path: Path) -> None:
    path = tmp_path / "clip.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for number in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pattern(number, 64, 48), format="rgb24")))
    info = probe(path)
    data = bytearray(path.read_bytes())
    data[_packet_bytes(path, 3)] = bytes(len(data[_packet_bytes(path, 3)]))
    path.write_bytes(data)
    assert len(read_frames(info, [0, 2, 4, 7])) == 4
    with pytest.raises(errors.UndecodableFrames, match="7 of 8 wanted frames, the first lost is frame 3"):
        read_frames(info, range(8))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_is_a_clip_of_one_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"still.{suffix}"
    Image.fromarray(pattern(3, 64, 48)).save(path)
    sample = sample_frames(path, 8)
    assert sample.frames.shape == (1, 48, 64, 3) and sample.indices.tolist() == [0] and sample.times_s.tolist() == [0.0]
    assert (sample.info.num_frames, sample.info.fps, sample.info.duration_s) == (1, 0, 0.0)
    assert (sample.info.width, sample.info.height, sample.info.container) == (64, 48, "image")
    np.testing.assert_array_equal(sample.frames[0], np.asarray(Image.open(path)))
    np.testing.assert_array_equal(read_frames(sample.info, [0]), sample.frames)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn 90 degrees clockwise
    Image.fromarray(corners(64, 48)).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    sample = sample_frames(tmp_path / "photo.jpg", 1)
    assert (sample.info.width, sample.info.height) == (48, 64)
    wanted = np.rot90(corners(64, 48), -1)
    assert np.abs(_middle_of_corners(sample.frames[0]) - _middle_of_corners(wanted)).max() < 40


def test_broken_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    with pytest.raises(errors.TruncatedVideo):
        sample_frames(tmp_path / "cut.png", 1)
    (tmp_path / "no.jpg").write_bytes(b"\xff\xd8\xff" + b"nonsense" * 10)
    with pytest.raises(errors.NotAVideo):
        sample_frames(tmp_path / "no.jpg", 1)


def test_a_stream_that_changes_its_size_keeps_the_first(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "first.ts", frames=20, b_frames=0)
    second = write_clip(tmp_path / "second.ts", frames=20, b_frames=0, size=(80, 60), pts=range(20, 40))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    sample = sample_frames(tmp_path / "both.ts", 40)
    assert sample.frames.shape == (40, 120, 160, 3)
    np.testing.assert_array_equal(sample.frames[:20], decode_all(first)[0])


def test_plan_seeks_only_where_it_saves_decoding() -> None:
    keyframes = list(range(0, 100, 10))
    assert plan_runs([0, 50, 99], keyframes) == [(None, [0]), (50, [50]), (90, [99])]
    assert plan_runs([0, 8, 11, 12], keyframes) == [(None, [0, 8, 11, 12])]  # frame 10 is nearer than a seek is worth
    assert plan_runs([55], keyframes) == [(50, [55])]
    assert plan_runs([0, 30, 60], [0]) == [(None, [0, 30, 60])]
    assert plan_runs([2, 9], [7, 19]) == [(None, [2, 9])]  # before the first shown keyframe lies a hidden one


def _middle_of_corners(image: np.ndarray) -> np.ndarray:
    """(4, 3) int: the colours in the middle of the four quarters."""
    h, w = image.shape[:2]
    return image[[h // 4, h // 4, 3 * h // 4, 3 * h // 4], [w // 4, 3 * w // 4, w // 4, 3 * w // 4]].astype(int)


def _packet_bytes(path: Path, index: int) -> slice:
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        return slice(packets[index].pos, packets[index].pos + packets[index].size)


def test_a_part_in_seconds_holds_what_is_shown_in_it(clip: Clip) -> None:
    sample = sample_frames(clip("plain.mp4"), 4, part=Span(0.81, 1.2))  # 25 frames a second
    assert sample.indices.tolist() == [20, 23, 26, 29]
    assert sample.part is not None and (sample.part.begin_s, sample.part.end_s) == pytest.approx((0.8, 1.2))
    again = sample_frames(clip("plain.mp4"), 4, part=Span(0.81, 1.2), info=sample.info)
    assert (again.frames == sample.frames).all()
    assert sample_frames(clip("plain.mp4"), 4, part=Span(0, math.inf)).part is None
    assert sample_frames(clip("plain.mp4"), 4, part=Span(0.81, 0.811)).indices.tolist() == [20] * 4
    for part in (Span(1, 1), Span(60, 61)):
        with pytest.raises(errors.EmptySegment, match="holds none of its"):
            sample_frames(clip("plain.mp4"), 4, part=part)
