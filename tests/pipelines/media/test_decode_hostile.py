"""Bad files by the hundred through batch's decoder: each ends in a row, one child reads them all, memory comes back."""

from __future__ import annotations

import os
import random
from collections import Counter
from fractions import Fraction

import av
import pyarrow as pa
import pytest
from bad_files import claims_to_be_huge, mutate

from pipelines.media.decode import DecodeOptions, Decoder
from pipelines.media.reading import Plan
from tests.conftest import write_mp4

SEED, FILES = 20, 320
MEMORY_MB = 512
KNOWN = {
    "not_a_video",
    "no_video_stream",
    "truncated",
    "undecodable_frames",
    "too_large",
    "implausible_time",
    "crashed",
}


@pytest.fixture(scope="module")
def decoder():
    yield (decoder := Decoder(Plan(4, 32), DecodeOptions(memory_mb=MEMORY_MB)))
    decoder.sampler.close()


def decode_all(decoder, paths):
    """Rows of all, in order."""
    nothing = [None] * len(paths)
    columns = {"uri": [str(p) for p in paths], "begin_s": nothing, "end_s": nothing, "error": [""] * len(paths)}
    rows = decoder(pa.table(columns)).to_pylist()
    assert [row["uri"] for row in rows] == columns["uri"]
    return rows


def resident_mb(decoder):
    lines = open(f"/proc/{decoder.sampler._child.pid}/status").read().splitlines()  # noqa: SIM115
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS"))


def test_mutated_media(decoder, tmp_path):
    whole = [write_mp4(tmp_path / f"whole.{kind}", num_frames=16) for kind in ("mp4", "mkv", "ts", "flv", "mov")]
    dice, files = random.Random(SEED), []
    for number in range(FILES):
        files.append(tmp_path / f"{number}")
        files[-1].write_bytes(mutate(dice, dice.choice(whole).read_bytes()))
    assert [row["status"] for row in decode_all(decoder, whole)] == ["ok"] * len(whole)
    child, before = decoder.sampler._child, resident_mb(decoder)
    rows = decode_all(decoder, files)
    reasons = Counter(row["error"].partition(":")[0] for row in rows if row["status"] != "ok")
    assert reasons.keys() <= KNOWN and {"not_a_video", "truncated"} <= reasons.keys(), reasons
    assert reasons.total() > FILES / 2
    assert decoder.sampler._child is child and resident_mb(decoder) - before < 100
    assert all(row["uri"] in row["error"] and not row["frames"] for row in rows if row["status"] != "ok")
    assert [row["status"] for row in decode_all(decoder, whole)] == ["ok"] * len(whole)


def test_small_files_that_claim_to_be_huge(decoder, tmp_path):
    bombs = claims_to_be_huge(tmp_path)
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    rows = decode_all(decoder, [tmp_path / name for name in bombs])
    reasons = {os.path.basename(row["uri"]): row["error"].partition(":")[0] for row in rows}
    assert reasons["a.png"] == reasons["later.mov"] == "too_large"
    assert set(reasons.values()) <= KNOWN
    assert resident_mb(decoder) < MEMORY_MB


def forged(path, times_s):
    """A few frames at these seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"bf": "0", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for seconds in times_s:
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_forged_times(decoder, tmp_path):
    paths = [
        forged(tmp_path / "jump.ts", [0, 0.1, 26 * 3600]),
        forged(tmp_path / "jump.mkv", [0, 0.1, 2**40 / 1000]),
        forged(tmp_path / "long.mkv", [3000 * i for i in range(40)]),
        forged(tmp_path / "sparse.mkv", [10 * i for i in range(40)]),
    ]
    rows = decode_all(decoder, paths)
    reasons = [row["error"].partition(":")[0] for row in rows]
    assert reasons == ["implausible_time", "implausible_time", "too_large", ""]
    assert "lasts" in rows[2]["error"] and rows[3]["duration_s"] == pytest.approx(390.125)


def test_options_are_passed_on(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", num_frames=24)
    for limit in ({"max_pixels": 100}, {"max_frames": 10}, {"max_duration_s": 2.5}):
        decoder = Decoder(Plan(4, 32), DecodeOptions(**limit))
        assert decoder.decode(str(path))["error"].startswith("too_large: "), limit
        decoder.sampler.close()
