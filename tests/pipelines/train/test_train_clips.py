"""What a training clip shows, and how its questions' seconds count: as the model is asked later."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines.core import storage
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset import build_unistg
from pipelines.train.config import TrainJobConfig
from pipelines.train.data import COLUMNS, attach_questions, clip_samples, decode_clips, group_questions, read_instances
from spacevllm.data.instance import Instance
from spacevllm.predictor import shown_part
from spacevllm.span import Span
from spacevllm.video import sample_frames

OFF = TrackingConfig(enabled=False)
SOURCES = {"moments": {"media": "video", "questions": 4}}
PHASES = {"moments": {"sources": "moments", "steps": 1, "batch_size": 2}}


@pytest.fixture
def data(make_mp4, tmp_path):
    """One video of 60 frames, 30 a second: a question about all of it, and three about two segments."""
    make_mp4(tmp_path / "media/a.mp4", num_frames=60, fps=30)
    common = {"task": "vtg", "source": "vidstg", "split": "train", "media": "media/a.mp4", "media_type": "video"}
    common |= {"question": "who?", "fps_num": 30, "num_frames": 60, "begin_s": 0.5, "end_s": 0.7}
    parts = {"all": (None, None), "first": (0, 23), "middle": (7, 41), "again": (7, 41)}
    asked = [Instance(id=k, segment_begin_frame=b, segment_end_frame=e, **common) for k, (b, e) in parts.items()]
    storage.write_text(
        tmp_path / "annotations/train.jsonl", "".join(json.dumps(instance.to_row()) + "\n" for instance in asked)
    )
    build_unistg.run(build_unistg.BuildUnistgConfig(data=str(tmp_path), out=str(tmp_path), tracking=OFF))
    return tmp_path


def test_a_segment_is_a_clip_of_its_own(data, ray_cluster):
    config = TrainJobConfig(data=str(data), out=str(data / "run"), sources=SOURCES, phases=PHASES, tracking=OFF)
    decoded, counts = decode_clips(config, num_frames=8, size=32)
    assert counts["ok"] == 3
    source = config.sources["moments"]
    known = group_questions(read_instances(str(data), "train"), source)
    rows = attach_questions(storage.read_table(storage.join(decoded, "frames"), COLUMNS), known)
    samples = clip_samples({name: rows[name].to_numpy() for name in rows.column_names}, source, "0")
    shown = {"+".join(sorted(i.id for i in sample.instances)): sample for sample in samples}
    assert set(shown) == {"all", "first", "again+middle"}
    middle = shown["again+middle"]
    assert (middle.indices[0], middle.indices[-1]) == (7, 40)
    assert [(i.begin_s, i.end_s) for i in middle.instances] == [pytest.approx((0.5 - 7 / 30, 0.7 - 7 / 30))] * 2
    assert shown["all"].instances[0].begin_s == 0.5 and shown["all"].duration_s == pytest.approx(2)

    clip = sample_frames(data / "media/a.mp4", 8, part=Span(7.5 / 30, 40.5 / 30))  # as evaluation looks at it
    asked = shown_part(clip)
    np.testing.assert_array_equal(clip.indices, middle.indices)
    np.testing.assert_allclose(clip.times_s - asked.begin_s, middle.times_s)
    assert middle.duration_s == pytest.approx(asked.end_s - asked.begin_s)
