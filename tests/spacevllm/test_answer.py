"""An answer of several tubes, and of one, which reads like it."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from test_tube import make_tube, unread

from spacevllm.answer import Answer
from spacevllm.span import Span
from spacevllm.tube import Tube


def later(**changes) -> Tube:
    """The same circle again, half a second before the end."""
    later = {"span": Span(1.6, 2.0), "begin_frame": 16, "end_frame": 20}
    return replace(make_tube(), boxes=np.full((4, 4), [40, 0, 50, 10], np.float32), **later | changes)


def other(**changes) -> Tube:
    """Another thing, a little less sure."""
    return later(track=7, confidence=0.4, **changes)


def test_what_is_asked_of_a_tube_is_answered_by_the_best():
    tube, answer = make_tube(), Answer([other(), make_tube(), later()])
    for name in (*(field.name for field in fields(Tube)), "begin_s", "end_s", "says_absent"):
        if name != "track":
            assert np.array_equal(getattr(answer, name), getattr(tube, name)), name
    np.testing.assert_array_equal(answer.box_at(1.25), tube.box_at(1.25))
    assert answer.best is answer[0] and len(answer) == 3 and list(answer[1:]) == list(answer)[1:]


def test_the_surest_is_first_and_tracks_count_from_its_own():
    answer = Answer([other(), make_tube(track=3), later(track=3)])
    assert [(tube.begin_s, tube.track) for tube in answer] == [(1.0, 0), (1.6, 0), (1.6, 1)]
    assert [[tube.begin_s for tube in track] for track in Answer([later(), make_tube()]).tracks()] == [[1.0, 1.6]]


def test_an_answer_is_never_empty_and_may_have_no_span():
    with pytest.raises(ValueError, match="at least one tube"):
        Answer([])
    answer = Answer([unread()])
    assert answer.span is None and answer.begin_s is None and answer.box_at(0.0) is None


@pytest.mark.parametrize("tubes", [[make_tube()], [unread()], [make_tube(), later(), other()]])
def test_json_and_pickle_round_trip(tubes):
    answer = Answer(tubes)
    for back in (Answer.from_dict(json.loads(json.dumps(answer.to_dict()))), pickle.loads(pickle.dumps(answer))):
        assert back.to_dict() == answer.to_dict()
        assert [tube.to_dict() for tube in back] == [tube.to_dict() for tube in answer]


def test_the_json_of_one_tube_is_that_of_the_tube_and_others_come_beside_it():
    assert Answer([make_tube()]).to_dict() == make_tube().to_dict()
    row = Answer([make_tube(), later()]).to_dict()
    assert Tube.from_dict(row).to_dict() == make_tube().to_dict()  # whoever knows nothing of ``more``
    [further] = row["more"]
    assert {*further} == {"track", "begin_s", "end_s", "begin_frame", "end_frame", "confidence", "boxes"}
    assert (further["begin_s"], len(further["boxes"])) == (1.6, 4)


def test_uneven_times_stay_with_their_tube():
    uneven = later(times_s=np.array([1.6, 1.7, 1.75, 1.9]))
    answer = Answer.from_dict(Answer([make_tube(), uneven]).to_dict())
    assert len(answer.times_s) == 0 and answer[1].times_s.tolist() == [1.6, 1.7, 1.75, 1.9]
