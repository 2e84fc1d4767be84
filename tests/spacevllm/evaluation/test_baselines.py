from __future__ import annotations

import numpy as np
import pytest
from scoring_cases import instance

from spacevllm.evaluation import baselines
from spacevllm.evaluation.baselines import generator, known_tracks

OTHER = {"box_frames": [0, 99], "boxes": [[100.0, 0, 140, 40], [160.0, 0, 200, 40]]}


def test_centre_box_covers_the_middle_quarter():
    assert baselines.centre_box(instance()).tolist() == [50, 25, 150, 75]


def test_whole_clip_is_the_segment_where_there_is_one():
    rng = np.random.default_rng(0)
    whole = baselines.centre_box_whole_clip(instance(), {}, rng)
    part = baselines.centre_box_whole_clip(instance(segment_begin_frame=10, segment_end_frame=50), {}, rng)
    assert (whole.begin_frame, whole.end_frame, whole.begin_s, whole.end_s) == (0, 100, 0, 10)
    assert (part.begin_frame, part.end_frame, part.begin_s, part.end_s) == (10, 50, 1, 5)
    assert (part.boxes == [50, 25, 150, 75]).all()


def test_known_tracks_are_the_different_objects_of_one_media_in_a_fixed_order():
    same, other, elsewhere = instance(id="b"), instance(id="c", **OTHER), instance(id="d", media="else.mp4")
    tracks = known_tracks([instance(id="a"), same, other, elsewhere])
    assert {media: len(found) for media, found in tracks.items()} == {"clip.mp4": 2, "else.mp4": 1}
    turned = known_tracks([elsewhere, other, same])["clip.mp4"]
    assert [t.boxes[0].tolist() for t in turned] == [t.boxes[0].tolist() for t in tracks["clip.mp4"]]


def test_random_object_and_span_depend_on_seed_draw_and_id_alone():
    a, b = instance(id="a"), instance(id="b", **OTHER)
    tracks = known_tracks([a, b])

    def drawn(which, seed, draw):
        tube = baselines.random_object_random_span(which, tracks, generator(which, seed, draw))
        return tube.begin_frame, tube.end_frame, tube.boxes.tolist()

    assert drawn(a, 0, 0) == drawn(a, 0, 0)
    assert len({drawn(a, 0, d)[:2] for d in range(20)}) > 10
    assert drawn(a, 0, 0) != drawn(a, 1, 0)
    assert drawn(a, 0, 0) != drawn(b, 0, 0)


def test_random_spans_lie_in_the_clip_and_are_never_empty():
    tiny = instance(num_frames=2, begin_frame=0, end_frame=1, box_frames=[0], boxes=[[0.0, 0, 9, 9]])
    tracks = known_tracks([tiny])
    spans = set()
    for draw in range(60):
        tube = baselines.random_object_random_span(tiny, tracks, generator(tiny, 0, draw))
        spans.add((tube.begin_frame, tube.end_frame))
    assert spans == {(0, 1), (1, 2), (0, 2)}


def test_random_object_takes_every_known_object():
    a, b = instance("rec", "a"), instance("rec", "b", **OTHER)
    tracks = known_tracks([a, b])
    lefts = {float(baselines.random_object(a, tracks, generator(a, 0, d))[0]) for d in range(30)}
    assert lefts == {10.0, 100.0}


def test_random_second_spans_are_ordered_and_inside():
    truth = instance("vtg")
    for draw in range(20):
        span = baselines.random_span(truth, {}, generator(truth, 0, draw)).span
        assert span is not None and 0 <= span.begin_s <= span.end_s <= truth.duration_s
    assert baselines.whole_clip(truth, {}, np.random.default_rng(0)).end_s == pytest.approx(10)
