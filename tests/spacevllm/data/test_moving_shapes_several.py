"""Questions with several right answers, checked against the scene itself."""

from __future__ import annotations

import pytest
from test_moving_shapes_absent import doers

from spacevllm.data.moving_shapes import MovingShapesConfig, make_scene, scene_instances
from spacevllm.data.moving_shapes.language import VERBS
from spacevllm.words.answers import parse_spans
from spacevllm.words.instructions import answer_text

CONFIG = MovingShapesConfig(several_per_video=3)
SCENES = [make_scene(CONFIG, "train", index) for index in range(20)]


def several(scene):
    return [instance for instance in scene_instances(scene, "v.mp4") if instance.more]


def action_of(question):
    return next(a for a, forms in VERBS.items() if any(form in question for pair in forms for form in pair))


@pytest.mark.parametrize("index", range(len(SCENES)))
def test_all_that_fit_are_there_and_no_other(index):
    asked = several(SCENES[index])
    assert len(asked) <= 3 and len({instance.question for instance in asked}) == len(asked)
    for instance in asked:
        periods = [
            p for thing in doers(SCENES[index], instance.question) for p in thing.periods(action_of(instance.question))
        ]
        assert sorted((tube.begin_s, tube.end_s) for tube in instance.tubes) == sorted(periods), instance.question
        assert [tube.begin_s for tube in instance.tubes] == sorted(tube.begin_s for tube in instance.tubes)
        for tube in instance.tubes:
            assert {*range(tube.begin_frame, tube.end_frame)} <= {*tube.box_frames}
        first = [(tube.begin_s, tube.end_s) for tube in instance.tubes if tube.track == 0]
        assert [(span.begin_s, span.end_s) for span in parse_spans(answer_text(instance))] == first


def test_both_kinds_are_asked_in_words_of_their_own():
    found = [instance for scene in SCENES for instance in several(scene)]
    again = [i for i in found if {tube.track for tube in i.tubes} == {0}]
    every = [i for i in found if i not in again]
    assert len(again) >= 5 and len(every) >= 20
    assert all(i.question.split(" ")[0] in ("every", "each") and i.more[0].boxes for i in every)
    assert all("whenever it" in i.question or "time it" in i.question for i in again)
    assert not any(tube.boxes for i in again for tube in i.more)


def test_they_come_behind_all_others_and_only_when_asked_for():
    plain = scene_instances(make_scene(MovingShapesConfig(), "train", 0), "v.mp4")
    assert not any(instance.more for instance in plain)
    of_task = [bool(i.more) for i in scene_instances(SCENES[0], "v.mp4") if i.task == "stvg"]
    assert of_task == sorted(of_task) and any(of_task)
