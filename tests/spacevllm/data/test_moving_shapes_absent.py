"""Questions about what does not occur, checked against the scene itself."""

from __future__ import annotations

import pytest

from spacevllm.data.moving_shapes import MovingShapesConfig, make_scene, scene_instances
from spacevllm.data.moving_shapes.language import ATTRIBUTES, VERBS
from spacevllm.tube import ABSENT
from spacevllm.words.instructions import answer_text

CONFIG = MovingShapesConfig(absent_per_video=4)
PLAIN = MovingShapesConfig()


def doers(scene, question):
    """The things that fit the words of the question and, at some time, do what it says."""
    words = question.split()
    actions = [a for a, forms in VERBS.items() if any(form in question for pair in forms for form in pair)]
    assert len(actions) == 1, question
    things = [
        thing
        for thing in scene.things
        if all(getattr(thing, name) in (None, *words) or not _told(name, words) for name in ATTRIBUTES)
    ]
    return [thing for thing in things if thing.periods(actions[0])]


def _told(name, words):
    from spacevllm.data.moving_shapes.world import COLOURS, SHAPES, SIZES, TEXTURES

    values = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "texture": TEXTURES}[name]
    return any(word in values for word in words)


@pytest.mark.parametrize("index", range(12))
def test_nothing_in_the_scene_answers_them(index):
    scene = make_scene(CONFIG, "train", index)
    absent = [i for i in scene_instances(scene, "v.mp4") if not i.present]
    assert 2 <= len(absent) <= 4 and len({i.question for i in absent}) == len(absent)
    for instance in absent:
        assert doers(scene, instance.question) == [], instance.question
        assert answer_text(instance) == ABSENT and instance.boxes == []


def test_both_kinds_are_asked():
    found = {True: 0, False: 0}
    for index in range(12):
        scene = make_scene(CONFIG, "train", index)
        for instance in scene_instances(scene, "v.mp4"):
            if not instance.present:
                words = instance.question.split()
                found[any({t.colour, t.shape} <= set(words) for t in scene.things)] += 1
    assert min(found.values()) >= 5


def test_without_them_everything_is_as_it_was_and_ids_stay():
    for index in range(3):
        plain, more = (make_scene(config, "train", index) for config in (PLAIN, CONFIG))
        asked = [i.to_row() for i in scene_instances(plain, "v.mp4")]
        assert asked == [i.to_row() for i in scene_instances(more, "v.mp4") if i.present]
        ids = [i.id for i in scene_instances(more, "v.mp4")]
        assert len(set(ids)) == len(ids)
