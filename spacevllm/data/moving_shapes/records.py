"""From scenes to records: every question with its span and boxes as an ``Instance``."""

from __future__ import annotations

from typing import Any

import numpy as np

from spacevllm.data.instance import Instance, Task, TrueTube, instance_id
from spacevllm.data.moving_shapes.absent import absent_questions
from spacevllm.data.moving_shapes.draws import scene_rng
from spacevllm.data.moving_shapes.expressions import expressions
from spacevllm.data.moving_shapes.questions import Event, Question, stvg_questions, vtg_questions
from spacevllm.data.moving_shapes.quiz import choices
from spacevllm.data.moving_shapes.several import Several, several_questions
from spacevllm.data.moving_shapes.world import Scene
from spacevllm.tube import ABSENT

SOURCE = "moving_shapes"
_HIDDEN = 0.05  # a thing of which less is visible has no box


def scene_instances(scene: Scene, media: str) -> list[Instance]:
    """STVG, VTG and QA of one video, a pure function of the scene; ``media`` is its path in the data set."""
    rng = scene_rng(scene.config, scene.split, scene.index, 1)
    stvg = [_span(scene, q) | _boxes(scene, q.who) for q in stvg_questions(scene, rng)]
    absent = absent_questions(scene, scene_rng(scene.config, scene.split, scene.index, 4))
    stvg += [{"question": text, "answer": ABSENT} for text in absent]
    several = several_questions(scene, scene_rng(scene.config, scene.split, scene.index, 5))
    stvg += [_several(scene, question) for question in several]
    vtg = [_span(scene, q) for q in vtg_questions(scene, rng)]
    quiz = [choice._asdict() | {"sentence_type": "interrogative"} for choice in choices(scene, rng)]
    return [
        *_records(scene, media, "stvg", stvg),
        *_records(scene, media, "vtg", vtg),
        *_records(scene, media, "qa", quiz),
    ]


def still_instances(scene: Scene, media: str) -> list[Instance]:
    """REC of one image; ``media`` is its path in the data set."""
    rng = scene_rng(scene.config, scene.split, scene.index, 3, scene.number)
    found = [{"question": text} | _boxes(scene, who) for text, who in expressions(scene, rng)]
    return _records(scene, media, "rec", found)


def _records(scene: Scene, media: str, task: Task, rows: list[dict[str, Any]]) -> list[Instance]:
    config, moving = scene.config, scene.num_frames > 1
    return [
        Instance(
            id=instance_id(SOURCE, config.seed, media, task, number),
            task=task,
            source=SOURCE,
            split=scene.split,
            media=media,
            media_type="video" if moving else "image",
            fps_num=config.fps if moving else 0,
            num_frames=scene.num_frames,
            width=config.width,
            height=config.height,
            duration_s=scene.num_frames / config.fps if moving else 0.0,
            **row,
        )
        for number, row in enumerate(rows)
    ]


def _span(scene: Scene, question: Question) -> dict[str, Any]:
    return {"question": question.text, "sentence_type": question.sentence_type} | _times(scene, question)


def _times(scene: Scene, event: Event | Question) -> dict[str, Any]:
    return {
        "begin_frame": event.begin_s * scene.config.fps,
        "end_frame": event.end_s * scene.config.fps,
        "begin_s": float(event.begin_s),
        "end_s": float(event.end_s),
    }


def _several(scene: Scene, asked: Several) -> dict[str, Any]:
    """The first event's thing is track 0, the others are counted on."""
    first = asked.events[0]
    tracks = {who: number for number, who in enumerate(dict.fromkeys(event.who for event in asked.events))}
    more = []
    for event in asked.events[1:]:
        boxes = {} if event.who == first.who else _boxes(scene, event.who)
        more.append(TrueTube(tracks[event.who], **_times(scene, event), **boxes))
    return {"question": asked.text, "more": more} | _times(scene, first) | _boxes(scene, first.who)


def _boxes(scene: Scene, who: int) -> dict[str, Any]:
    """The boxes of one thing wherever it is seen, in hundredths of a pixel."""
    frames = np.flatnonzero(scene.visible[who] >= _HIDDEN)  # 0 where it is away
    return {"box_frames": frames.tolist(), "boxes": scene.boxes[who, frames].round(2).tolist()}
