"""From instances and answers to one row per query, and from rows to the table of scores.

A query never disappears: a missing or an unreadable answer scores 0 and is counted. Baselines go through the same
``score`` and ``summarise`` as the model. All scores are fractions in [0, 1].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spacevllm.answer import Answer as Tubes
from spacevllm.data.instance import TASKS, Instance
from spacevllm.evaluation import baselines
from spacevllm.evaluation.metrics import Interval, box_iou, clean_boxes, interval_iou, mean
from spacevllm.evaluation.multiple_choice import parse_choice
from spacevllm.evaluation.prediction import Intervals, Prediction, Unreadable, from_tube
from spacevllm.evaluation.protocols import PROTOCOLS, score_tube
from spacevllm.evaluation.several import summarise_several
from spacevllm.evaluation.summary import Row, Summary, summarise
from spacevllm.tube import Tube

Answer = Tubes | Tube | Prediction | Interval | Intervals | np.ndarray | str | Unreadable
Answers = Mapping[str, Answer | None]  # by instance id; None or absent: no answer

HEADLINE = "dense"


def evaluate(
    instances: Sequence[Instance], answers: Answers, seed: int = 0, draws: int = 10
) -> tuple[dict[str, Summary], list[Row]]:
    """Scores answers and the baselines beside them.

    Args:
        instances: the truth; ids are unique.
        answers: by instance id, as ``score`` takes them.
        seed, draws: of the random baselines, whose scores are means over the draws.

    Returns:
        ``{"stvg": {"dense": {...}, "baselines": {name: {...}}}, "vtg": {..., "baselines": ...}, "rec": …, "qa": …}``
        for the tasks that occur, ``several`` (``summarise_several``) where questions have more than one right tube,
        and one row per query: id, task, media, sentence_type, status, its scores.

    Raises:
        ValueError: an id twice, an answer to no instance, a truth that cannot be scored.
        TypeError: an answer of the wrong kind for its task.
    """
    _check_ids(instances, answers)
    rows = score(instances, answers)
    tracks = baselines.known_tracks(instances)
    summary: dict[str, Summary] = {}
    for task in TASKS:
        of_task = [instance for instance in instances if instance.task == task]
        if of_task:
            scores = summarise([row for row in rows if row["task"] == task])
            beside = baseline_scores(task, of_task, tracks, seed, draws)
            summary[task] = {**({HEADLINE: scores} if task == "stvg" else scores), "baselines": beside}
    if several := summarise_several(instances, answers):
        summary["several"] = several
    return summary, rows


def score(instances: Iterable[Instance], answers: Answers, protocol: str = HEADLINE) -> list[Row]:
    """One row per query, in the order of the instances.

    Args:
        answers: by instance id: a Tube or Prediction (stvg), a Tube or (begin, end) seconds (vtg), a (4,) xyxy pixel
            box (rec), the model's words (qa), or Unreadable. None or absent: missing. Of an answer with several tubes
            or spans, the best.
        protocol: of stvg, see ``PROTOCOLS``.
    """
    return [_score_one(instance, answers.get(instance.id), protocol) for instance in instances]


def _check_ids(instances: Sequence[Instance], answers: Answers) -> None:
    counts = Counter(instance.id for instance in instances)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} instance ids occur more than once, {twice[0]!r} is the first: make them unique")
    stray = [name for name in answers if name not in counts]
    if stray:
        raise ValueError(f"{len(stray)} answers belong to no instance, {stray[0]!r} is the first: score the same split")


def _score_one(instance: Instance, answer: Answer | None, protocol: str) -> Row:
    if isinstance(answer, Tubes):
        answer = answer.best
    if isinstance(answer, Intervals):
        answer = answer.spans[0]
    expected = _ANSWER_TYPES[instance.task]
    if answer is not None and not isinstance(answer, (*expected, Unreadable)):
        names, found = " or ".join(kind.__name__ for kind in expected), type(answer).__name__
        raise TypeError(f"instance {instance.id}: task {instance.task} takes a {names}, not a {found}")
    row = {"id": instance.id, "task": instance.task, "media": instance.media, "sentence_type": instance.sentence_type}
    row["status"] = "missing" if answer is None else "ok"
    if instance.task == "stvg":
        row["protocol"] = protocol
    return row | _SCORES[instance.task](instance, answer, protocol)


def _stvg(instance: Instance, answer: Any, protocol: str) -> Row:
    if isinstance(answer, Tube):
        answer = from_tube(answer, instance)
    unread = isinstance(answer, Unreadable)
    return score_tube(PROTOCOLS[protocol](instance), None if unread else answer)._asdict() | _unread(unread)


def _vtg(instance: Instance, answer: Any, protocol: str) -> Row:
    assert instance.begin_s is not None and instance.end_s is not None  # Instance sees to it
    spoken = answer
    if isinstance(answer, Tube):
        spoken = (answer.span.begin_s, answer.span.end_s) if answer.span else Unreadable("no span")
    if spoken is None or isinstance(spoken, Unreadable):
        return {"tiou": 0.0} | _unread(spoken is not None)
    return {"tiou": interval_iou((instance.begin_s, instance.end_s), spoken)}


def _rec(instance: Instance, box: Any, protocol: str) -> Row:
    if not isinstance(box, np.ndarray) or box.shape != (4,) or not np.isfinite(box).all():
        return {"iou": 0.0} | _unread(box is not None)
    truth, predicted = (clean_boxes(b, instance.width, instance.height) for b in (np.array(instance.boxes[:1]), box))
    return {"iou": float(box_iou(truth, predicted)[0])}


def _qa(instance: Instance, answer: Any, protocol: str) -> Row:
    if not instance.options:  # free text: there is no exact score
        return {"correct": None, "status": "not_scored"}
    gold = parse_choice(instance.answer, instance.options)
    if gold is None:
        raise ValueError(f"instance {instance.id}: answer {instance.answer!r} is none of {instance.options}")
    chosen = parse_choice(answer, instance.options) if isinstance(answer, str) else None
    return {"correct": float(chosen == gold)} | _unread(answer is not None and chosen is None)


def _unread(unread: bool) -> Row:
    return {"status": "unparsable"} if unread else {}


def baseline_scores(
    task: str,
    instances: Sequence[Instance],
    tracks: baselines.Tracks,
    seed: int = 0,
    draws: int = 10,
    protocol: str = HEADLINE,
    table: Callable[[Sequence[Row]], Summary] = summarise,
) -> dict[str, Summary]:
    """The table of scores of each of the task's baselines, by name.

    Args:
        table: makes it from rows, as the model's is made.
    """

    def rows(answer: baselines.Baseline, draw: int) -> list[Row]:
        answers = {i.id: answer(i, tracks, baselines.generator(i, seed, draw)) for i in instances}
        return score(instances, answers, protocol)

    scores = {name: table(rows(answer, 0)) for name, answer in baselines.CONSTANT[task].items()}
    for name, answer in baselines.RANDOM[task].items():
        scores[name] = _mean_summary([table(rows(answer, draw)) for draw in range(draws)])
    if task == "qa":
        scores["random_option"] = table(_by_chance(instances, rows(baselines.first_option, 0)))
    return scores


def _by_chance(instances: Sequence[Instance], rows: Sequence[Row]) -> list[Row]:
    """The rows with what an option drawn blindly is expected to get."""
    pairs = zip(instances, rows, strict=True)
    return [row | {"correct": 1 / len(i.options) if i.options else None} for i, row in pairs]


def _mean_summary(summaries: Sequence[Summary]) -> Summary:
    """Summaries of the same queries, score by score; counts are equal in all of them."""
    first = summaries[0]
    return {key: _mean_value([summary[key] for summary in summaries]) for key in first}


def _mean_value(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return _mean_summary(values)
    return mean(values) if isinstance(values[0], float) else values[0]


_ANSWER_TYPES: dict[str, tuple[type, ...]] = {
    "stvg": (Tube, Prediction),
    "vtg": (Tube, tuple),
    "rec": (np.ndarray,),
    "qa": (str,),
}
_SCORES: dict[str, Callable[[Instance, Any, str], Row]] = {"stvg": _stvg, "vtg": _vtg, "rec": _rec, "qa": _qa}
