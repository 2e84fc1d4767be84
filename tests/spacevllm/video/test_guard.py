from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip

from spacevllm.span import Span
from spacevllm.video import GuardedSampler, errors, sample_frames

Clip = Callable[[str], Path]


@pytest.fixture(scope="module")
def sampler() -> Iterator[GuardedSampler]:
    with GuardedSampler(timeout_s=60) as guarded:
        yield guarded


def test_same_answer_as_without_a_guard(sampler: GuardedSampler, clip: Clip) -> None:
    guarded, direct = sampler.sample(clip("ntsc_late.mp4"), 8), sample_frames(clip("ntsc_late.mp4"), 8)
    np.testing.assert_array_equal(guarded.frames, direct.frames)
    np.testing.assert_array_equal(guarded.times_s, direct.times_s)
    assert guarded.info.fps == direct.info.fps and guarded.info.path == direct.info.path
    guarded.frames[0] = 0  # the frames belong to the caller


def test_errors_and_arguments_cross(sampler: GuardedSampler, clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video" * 100)
    with pytest.raises(errors.NotAVideo, match=r"text\.mp4: not a video file"):
        sampler.sample(tmp_path / "text.mp4", 8)
    with pytest.raises(errors.TooLarge):
        sampler.sample(clip("plain.mp4"), 8, max_frames=10)
    assert sampler.sample(clip("plain.mp4"), 4, "decord", segment=(20, 30)).indices.tolist() == [20, 23, 26, 29]


def test_parts_of_one_file_and_a_file_that_changed(sampler: GuardedSampler, clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip("plain.mp4").read_bytes())
    for part in (Span(0, 0.4), Span(0.8, 1.2)):  # the second one knows the packets already
        sample = sampler.sample(path, 4, part=part)
        np.testing.assert_array_equal(sample.frames, sample_frames(path, 4, part=part).frames)
        assert sample.part == sample_frames(path, 4, part=part).part
    write_clip(path, 12)
    assert sampler.sample(path, 4).info.num_frames == 12
    with pytest.raises(errors.TooLarge):
        sampler.sample(path, 4, max_frames=10)


def test_a_hanging_input_times_out_and_the_next_video_is_read(clip: Clip, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # nobody ever writes to it
    with GuardedSampler(timeout_s=60) as sampler:
        sampler.sample(clip("plain.mp4"), 8)
        hanging = _pid(sampler)
        sampler.timeout_s = 0.5
        with pytest.raises(errors.DecodeTimeout, match=r"within 0\.5 s"):
            sampler.sample(tmp_path / "pipe.mp4", 8)
        assert not _runs(hanging)
        sampler.timeout_s = 60
        assert sampler.sample(clip("plain.mp4"), 8).frames.shape == (8, 120, 160, 3)


def test_a_killed_decoder_costs_one_video(clip: Clip, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with GuardedSampler(timeout_s=60) as sampler:
        sampler.sample(clip("plain.mp4"), 8)
        killer = threading.Thread(target=_crash_when_reading, args=(_pid(sampler), tmp_path / "pipe.mp4"))
        killer.start()
        with pytest.raises(errors.DecoderCrashed, match="signal 11"):
            sampler.sample(tmp_path / "pipe.mp4", 8)
        killer.join()
        assert sampler.sample(clip("plain.mp4"), 8).frames.shape == (8, 120, 160, 3)


def test_memory_limit(tmp_path: Path, clip: Clip) -> None:
    large = write_clip(tmp_path / "large.mp4", frames=20, size=(640, 480))
    with GuardedSampler(timeout_s=60, memory_mb=30) as sampler:
        with pytest.raises(errors.DecoderCrashed, match="out of memory"):
            sampler.sample(large, 64)  # 64 frames of 0.9 MB
        assert sampler.sample(clip("plain.mp4"), 8).frames.shape == (8, 120, 160, 3)


def test_the_child_is_recycled_and_closed(clip: Clip) -> None:
    with GuardedSampler(timeout_s=60, recycle_after=2) as sampler:
        pids = []
        for _ in range(3):
            sampler.sample(clip("plain.mp4"), 2)
            pids.append(_pid(sampler))
        assert pids[0] == pids[1] != pids[2]
        assert not _runs(pids[0])
    assert not _runs(pids[2])


def test_the_child_dies_with_its_parent_even_while_it_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    code = (
        "import sys\n"
        "from spacevllm.video import GuardedSampler\n"
        "sampler = GuardedSampler(timeout_s=600)\n"
        "try: sampler.sample('missing.mp4', 1)\n"
        "except ValueError: print(sampler._child.pid, flush=True)\n"
        "sampler.sample(sys.argv[1], 1)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pipe.mp4")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    ended = select.poll()
    ended.register(child, select.POLLIN)
    with open(tmp_path / "pipe.mp4", "wb"):  # waits for the reader; then the child waits for bytes
        assert not ended.poll(0)
        parent.kill()
        assert ended.poll(30_000)
    parent.communicate()
    os.close(child)


def test_what_a_decoder_prints_does_not_disturb_the_answers(clip: Clip) -> None:
    code = (
        "import os\n"
        "from spacevllm.video import guard_child\n"
        "def noisy(*request, **asked):\n"
        "    os.write(1, b'[h264] noise on standard output')\n"
        "    return sample(*request, **asked)\n"
        "sample, guard_child.sample_frames = guard_child.sample_frames, noisy\n"
        "guard_child.serve()\n"
    )
    with pytest.MonkeyPatch.context() as patch, GuardedSampler(timeout_s=60) as sampler:
        patch.setattr("spacevllm.video.guard._CHILD", code)
        assert sampler.sample(clip("plain.mp4"), 8).frames.shape == (8, 120, 160, 3)


def test_a_copy_has_the_same_limits_and_a_child_of_its_own(sampler: GuardedSampler, clip: Clip) -> None:
    sampler.sample(clip("plain.mp4"), 2)
    with pickle.loads(pickle.dumps(sampler)) as copy:
        assert copy.timeout_s == sampler.timeout_s
        assert len(copy.sample(clip("plain.mp4"), 2).frames) == 2
        assert _pid(copy) != _pid(sampler)


def test_every_wanted_frame_has_time_of_its_own(clip: Clip, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with GuardedSampler(timeout_s=0.1, timeout_per_frame_s=0.05) as sampler:
        with pytest.raises(errors.DecodeTimeout, match=r"within 0\.5 s"):
            sampler.sample(tmp_path / "pipe.mp4", 8)
        sampler.timeout_per_frame_s = 60
        assert len(sampler.sample(clip("plain.mp4"), 2).frames) == 2


def test_the_child_needs_no_torch() -> None:
    code = "import sys, spacevllm.video; print(sorted({'torch', 'PIL', 'decord', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def _pid(sampler: GuardedSampler) -> int:
    assert sampler._child is not None
    return sampler._child.pid


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _crash_when_reading(pid: int, pipe: Path) -> None:
    with open(pipe, "wb"):  # waits for the reader
        os.kill(pid, signal.SIGSEGV)
