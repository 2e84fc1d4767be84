"""The page of the queries that a model answered worst, beside the scores of a benchmark.

Of equally bad ones, other media come first. Media that could not be read leave a gap in the page, no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.core import scratch, storage
from pipelines.media.decode import DecodeOptions
from spacevllm.answer import Answer
from spacevllm.data.instance import Instance
from spacevllm.drawing.strip import draw_comparison, to_data_uri
from spacevllm.drawing.worst import Case, render_worst
from spacevllm.evaluation.scoring import HEADLINE, Answers
from spacevllm.evaluation.summary import Row
from spacevllm.span import Span
from spacevllm.video.errors import VideoError
from spacevllm.video.guard import GuardedSampler

FRAMES_IN_STRIP = 6
METRICS = {"stvg": "viou", "vtg": "tiou", "rec": "iou", "qa": "correct"}
WORDS = {"viou": "vIoU", "tiou": "tIoU", "iou": "IoU", "correct": "accuracy"}


def write_worst(
    uri: str,
    instances: Sequence[Instance],
    answers: Answers,
    rows: Sequence[Row],
    predictions: Mapping[str, Mapping[str, Any]],
    count: int,
    decode: DecodeOptions,
) -> None:
    """Writes the page of the ``count`` worst.

    Args:
        rows: of ``scoring.score``; of several protocols, ``dense`` is looked at.
        predictions: rows of ``predict.ANSWERS`` by id.
    """
    metric, by_id = METRICS[instances[0].task], {i.id: i for i in instances}
    chosen = choose(rows, metric, count)
    with decode.open_sampler() as sampler:
        cases = [_case(by_id[r["id"]], answers.get(r["id"]), r, predictions.get(r["id"], {}), sampler) for r in chosen]
    status = Counter(row["status"] for row in rows if row.get("protocol", HEADLINE) == HEADLINE)
    facts = {"queries": status.total(), "shown": len(cases), **{k: v for k, v in status.items() if k != "ok"}}
    title = f"{instances[0].source}: the worst {len(cases)} by {WORDS[metric]}"
    storage.write_text(uri, render_worst(title, cases, facts))


def choose(rows: Sequence[Row], metric: str, count: int) -> list[Row]:
    """The ``count`` lowest of ``metric`` that are not perfect; of equal ones other media first, then by id."""
    scored = [r for r in rows if r.get("protocol", HEADLINE) == HEADLINE and r[metric] is not None and r[metric] < 1]
    seen: Counter[tuple[float, str]] = Counter()
    ranked = []
    for row in sorted(scored, key=lambda row: (row[metric], row["id"])):
        place = (row[metric], row["media"])
        ranked.append((row[metric], seen[place], row["id"], row))
        seen[place] += 1
    return [row for *_, row in sorted(ranked, key=lambda entry: entry[:3])][:count]


def _case(instance: Instance, answer: Any, row: Row, prediction: Mapping[str, Any], sampler: GuardedSampler) -> Case:
    tube = answer.best if isinstance(answer, Answer) else None
    truth = None
    if instance.begin_s is not None and instance.end_s is not None:
        truth = Span(instance.begin_s, instance.end_s)
    answered, shown = tube.span if tube else None, _shown(prediction)
    picture = ""
    if row["status"] != "missing":  # then its media could not be read, most likely
        picture = _picture(instance, answer, _hull([truth, answered]), sampler)
    metric = METRICS[instance.task]
    return Case(
        id=instance.id,
        question=_asked(instance),
        media=storage.name(instance.media),
        score=row[metric],
        metric=WORDS[metric],
        status=row["status"],
        answer=prediction.get("answer") or prediction.get("error") or "",
        wanted=instance.answer,
        truth=truth,
        answered=answered,
        shown=shown,
        picture=picture,
    )


def _asked(instance: Instance) -> str:
    return " · ".join([instance.question, *instance.options])


def _shown(prediction: Mapping[str, Any]) -> Span | None:
    """The part of the video that was looked at, in its seconds."""
    duration = prediction.get("duration_s")
    if not duration:
        return None
    return Span(prediction["part_begin_s"] or 0.0, prediction["part_end_s"] or duration)


def _hull(spans: Sequence[Span | None]) -> Span | None:
    known = [span for span in spans if span is not None]
    return Span(min(s.begin_s for s in known), max(s.end_s for s in known)) if known else None


def _picture(instance: Instance, answer: Any, part: Span | None, sampler: GuardedSampler) -> str:
    count = 1 if instance.media_type == "image" else FRAMES_IN_STRIP
    try:
        with scratch.local_copy(instance.media) as path:
            sampled = sampler.sample(path, count, part=part)
    except (VideoError, OSError):
        return ""
    boxes = answer if instance.boxes else None  # a question for the time alone has no box to be wrong
    return to_data_uri(draw_comparison(instance, sampled, lambda frame: _answer_box(boxes, frame)))


def _answer_box(answer: Any, frame: int) -> np.ndarray | None:
    if isinstance(answer, np.ndarray):  # of an image
        return answer
    if isinstance(answer, Answer) and answer.begin_frame <= frame < answer.end_frame and len(answer.boxes):
        return answer.boxes[frame - answer.begin_frame]
    return None
