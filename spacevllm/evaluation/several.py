"""Questions with several right tubes: how much of all of them an answer finds. Protocols score its best one alone.

set_tIoU      the union of the answer's spans against the union of the true spans: |A ∩ B| / |A ∪ B|
best_tIoU     mean over the true tubes of the tIoU with the tube of the answer that fits it best
best_vIoU     the same of vIoU (``dense``)
recall@0.5    share of the true tubes whose best vIoU (vtg: tIoU) is above 0.5

Which thing a tube is makes no difference to the first two, its boxes to the last two. A tube of the answer may be the
best one for several true ones. Frames in stvg, seconds in vtg. No answer scores 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from spacevllm.answer import Answer
from spacevllm.data.instance import Instance, TrueTube
from spacevllm.evaluation.metrics import Interval, interval_iou, mean
from spacevllm.evaluation.prediction import Intervals, Prediction, from_tube
from spacevllm.evaluation.protocols import dense, score_tube
from spacevllm.tube import Tube

Scores = dict[str, float]


class _Found(NamedTuple):
    """One tube of an answer: its span, and what vIoU reads; None in vtg."""

    span: Interval
    prediction: Prediction | None = None


def summarise_several(instances: Iterable[Instance], answers: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the questions that have several right tubes, by task: ``{"stvg": {"set_tIoU": …, "n_queries": …}}``;
    ``{}`` where there are none.

    Args:
        answers: by instance id, as ``scoring.score`` takes them.
    """
    rows: dict[str, list[Scores]] = {}
    for instance in instances:
        if instance.more:
            rows.setdefault(instance.task, []).append(score_several(instance, answers.get(instance.id)))
    return {
        task: {name: mean(row[name] for row in found) for name in found[0]} | {"n_queries": len(found)}
        for task, found in rows.items()
    }


def score_several(instance: Instance, answer: Any) -> Scores:
    """One question's numbers, each in [0, 1].

    Args:
        answer: as ``scoring.score`` takes it.

    Raises:
        ValueError: a stvg without frames.
    """
    found, boxed = list(_found(answer, instance)), instance.task == "stvg"
    tious, vious = [], []
    for tube in instance.tubes:
        tious.append(max((interval_iou(_span(tube, instance), one.span) for one in found), default=0.0))
        truth = dense(_alone(instance, tube)) if boxed else None
        vious.append(
            max((score_tube(truth, one.prediction).viou for one in found), default=0.0) if truth else tious[-1]
        )
    spans = [_span(tube, instance) for tube in instance.tubes]
    scores = {"set_tIoU": set_iou(spans, [one.span for one in found]), "best_tIoU": mean(tious)}
    scores |= {"best_vIoU": mean(vious)} if boxed else {}
    return scores | {"recall@0.5": mean(float(viou > 0.5) for viou in vious)}


def set_iou(a: Sequence[Interval], b: Sequence[Interval]) -> float:
    """|∪a ∩ ∪b| / |∪a ∪ ∪b|; 0 where both are empty."""
    both = _length([*a, *b])
    return (_length(a) + _length(b) - both) / both if both else 0.0


def _length(intervals: Iterable[Interval]) -> float:
    """Of their union."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total


def _found(answer: Any, instance: Instance) -> Iterator[_Found]:
    """The tubes of an answer; none of one that is missing or cannot be read."""
    for one in _parts(answer):
        if isinstance(one, Tube) and instance.task == "vtg" and one.span:
            yield _Found((one.span.begin_s, one.span.end_s))
        elif isinstance(one, Tube) and instance.task == "stvg":
            one = from_tube(one, instance)
        if isinstance(one, Prediction):
            yield _Found((one.begin_frame, one.end_frame), one)
        elif isinstance(one, tuple):
            yield _Found(one)


def _parts(answer: Any) -> Iterable[Any]:
    if isinstance(answer, Answer):
        return answer
    if isinstance(answer, Prediction):
        return [answer, *answer.more]
    return answer.spans if isinstance(answer, Intervals) else [answer]


def _span(tube: TrueTube, instance: Instance) -> Interval:
    if instance.task == "vtg":
        return tube.begin_s, tube.end_s
    if tube.begin_frame is None or tube.end_frame is None:
        raise ValueError(f"instance {instance.id}: scoring a tube needs begin_frame and end_frame")
    return tube.begin_frame, tube.end_frame


def _alone(instance: Instance, tube: TrueTube) -> Instance:
    own = {name: value for name, value in vars(tube).items() if name != "track"}
    return replace(instance, more=[], **own)
