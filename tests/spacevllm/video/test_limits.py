"""Small files that claim to be huge, and time stamps that nobody can mean; long and sparse films stay what they are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from clips import write_clip, write_pngs

from spacevllm.drawing.overlay import draw_overlay
from spacevllm.video import GuardedSampler, errors, probe, read_frames, sample_frames
from spacevllm.video.limits import Limits

SMALL, HUGE = (64, 64), (16_000, 16_000)
PIXELS = 4096 * 2304
MS = Fraction(1, 1000)


@pytest.mark.parametrize("sizes", [[HUGE] + [SMALL] * 9, [SMALL] + [HUGE] * 9], ids=["first", "later"])
def test_a_picture_is_refused_wherever_it_is_before_it_takes_memory(tmp_path: Path, sizes: list) -> None:
    path = write_pngs(tmp_path / "bomb.mov", sizes)
    with GuardedSampler(timeout_s=60, memory_mb=200) as sampler:  # one of them takes 256 MB
        with pytest.raises(errors.TooLarge, match=f"more than the allowed {PIXELS} pixels"):
            sampler.sample(path, 4, size=32, max_pixels=PIXELS)
        assert sampler._calls == 1 and sampler._child is not None  # and it costs no decoder
    with pytest.raises(errors.TooLarge):
        sample_frames(path, 4, max_pixels=PIXELS)


def test_frames_a_little_too_large_are_counted_as_they_come_out(tmp_path: Path) -> None:
    path = write_pngs(tmp_path / "grows.mov", [SMALL, SMALL, (100, 100), (100, 100)])
    assert sample_frames(path, 4, max_pixels=100 * 100).frames.shape == (4, 64, 64, 3)
    with pytest.raises(errors.TooLarge, match="100x100 pixels, more than the allowed 9999"):
        sample_frames(path, 4, max_pixels=100 * 100 - 1)
    assert len(sample_frames(path, 2, segment=(0, 2), max_pixels=100 * 100 - 1).frames) == 2  # those are not looked at


def test_h264_that_grows_half_way(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "first.ts", frames=20, b_frames=0)
    second = write_clip(tmp_path / "second.ts", frames=20, b_frames=0, size=(1280, 960), pts=range(20, 40))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(errors.TooLarge, match="a frame has more than the allowed 100000 pixels"):
        sample_frames(tmp_path / "both.ts", 4, max_pixels=100_000)


def test_an_overlay_leaves_out_what_is_too_large(tmp_path: Path) -> None:
    path = write_pngs(tmp_path / "bomb.mov", [SMALL] * 5 + [HUGE])
    drawn = draw_overlay(path, [], tmp_path / "drawn.mp4", max_pixels=PIXELS)
    assert probe(drawn).num_frames == 5


@pytest.mark.parametrize(
    ("name", "times_s"),
    [
        ("jump.ts", [0, 0.1, 26 * 3600]),  # the 33 bits of MPEG's clock
        ("jump.mkv", [0, 0.1, 2**40 / 1000]),
        ("jump.mp4", [0, 0.1, 1e5]),
        ("two.mkv", [0, 1e8]),
    ],
)
def test_forged_time_stamps(tmp_path: Path, name: str, times_s: list[float]) -> None:
    pts = [round(t * 1000) for t in times_s]
    path = write_clip(tmp_path / name, frames=len(pts), size=(64, 64), pts=pts, time_base=MS, gop=1, b_frames=0)
    assert path.stat().st_size < 20_000
    with pytest.raises(
        errors.ImplausibleTime, match=rf"{name}: frame \d of {len(pts)} stands for \d+ s, more than 3600"
    ):
        probe(path)


@pytest.mark.parametrize(
    "times_s",
    [
        [10 * i for i in range(30)],  # one frame every ten seconds
        [0, 0.04, 0.08, 1500, 1500.04, 1500.08, 4000],  # a screen on which nothing happens
        [0, 3000],
    ],
)
def test_sparse_films_are_believed(tmp_path: Path, times_s: list[float]) -> None:
    pts = [round(t * 1000) for t in times_s]
    path = write_clip(tmp_path / "a.mkv", frames=len(pts), size=(64, 64), pts=pts, time_base=MS, b_frames=0)
    info = probe(path)
    assert info.times_s.tolist() == pytest.approx(times_s)
    assert len(read_frames(info, [0, len(pts) - 1])) == 2
    with pytest.raises(errors.TooLarge, match=r"lasts \d+ s, more than the allowed 200 s"):
        sample_frames(path, 2, max_duration_s=200)
    assert len(sample_frames(path, 2, max_duration_s=1e4).frames) == 2


def test_limits_of_a_sampler_hold_where_a_call_says_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=25)
    for limit in ({"max_pixels": 100}, {"max_frames": 24}, {"max_duration_s": 0.9}):
        with GuardedSampler(timeout_s=60, limits=Limits(**limit)) as sampler, pytest.raises(errors.TooLarge):
            sampler.sample(path, 4)
