"""From instances and answers to one row per query, and from rows to the table of scores.

A query never disappears: a missing or an unreadable answer scores 0 and is counted. Baselines go through the same
``score`` and ``summarise`` as the model. All scores are fractions in [0, 1].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spacevllm.data.instance import TASKS, Instance
from spacevllm.evaluation import baselines
from spacevllm.evaluation.baselines import Answer
from spacevllm.evaluation.metrics import box_iou, clean_boxes, interval_iou, mean, share_above, share_reaching
from spacevllm.evaluation.multiple_choice import parse_choice
from spacevllm.evaluation.protocols import PROTOCOLS, score_tube
from spacevllm.tube import Tube

Answers = Mapping[str, Answer | None]  # by instance id; None or absent: no answer
Row = dict[str, Any]
Summary = dict[str, Any]

HEADLINE = "dense"


def evaluate(
    instances: Sequence[Instance], answers: Answers, seed: int = 0, draws: int = 10
) -> tuple[dict[str, Summary], list[Row]]:
    """Scores answers and the baselines beside them.

    Args:
        instances: the truth; ids are unique.
        answers: by instance id: a Tube (stvg, vtg), a (4,) xyxy pixel box (rec) or the model's words (qa).
        seed, draws: of the random baselines, whose scores are means over the draws.

    Returns:
        ``{"stvg": {"dense": {...}, "baselines": {name: {...}}}, "vtg": {..., "baselines": ...}, "rec": …, "qa": …}``
        for the tasks that occur, and one row per query: id, task, media, sentence_type, status, its scores.

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
            beside = _baseline_scores(task, of_task, tracks, seed, draws)
            summary[task] = {**({HEADLINE: scores} if task == "stvg" else scores), "baselines": beside}
    return summary, rows


def score(instances: Iterable[Instance], answers: Answers, protocol: str = HEADLINE) -> list[Row]:
    """One row per query, in the order of the instances."""
    return [_score_one(instance, answers.get(instance.id), protocol) for instance in instances]


def summarise(rows: Sequence[Row]) -> Summary:
    """Means and counts over the rows of one task; for stvg the same again for each sentence type that occurs."""
    summary = _means_and_counts(rows)
    if rows and rows[0]["task"] == "stvg":
        for kind in sorted({row["sentence_type"] for row in rows}):
            summary[kind] = _means_and_counts([row for row in rows if row["sentence_type"] == kind])
    return summary


def _check_ids(instances: Sequence[Instance], answers: Answers) -> None:
    counts = Counter(instance.id for instance in instances)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} instance ids occur more than once, {twice[0]!r} is the first: make them unique")
    stray = [name for name in answers if name not in counts]
    if stray:
        raise ValueError(f"{len(stray)} answers belong to no instance, {stray[0]!r} is the first: score the same split")


def _score_one(instance: Instance, answer: Answer | None, protocol: str) -> Row:
    expected = _ANSWER_TYPES[instance.task]
    if answer is not None and not isinstance(answer, expected):
        found = type(answer).__name__
        raise TypeError(f"instance {instance.id}: task {instance.task} takes a {expected.__name__}, not a {found}")
    row = {"id": instance.id, "task": instance.task, "media": instance.media, "sentence_type": instance.sentence_type}
    row["status"] = "missing" if answer is None else "ok"
    if instance.task == "stvg":
        row["protocol"] = protocol
    return row | _SCORES[instance.task](instance, answer, protocol)


def _stvg(instance: Instance, tube: Tube | None, protocol: str) -> Row:
    return score_tube(instance, tube, PROTOCOLS[protocol])._asdict() | _unread(tube is not None and tube.span is None)


def _vtg(instance: Instance, tube: Tube | None, protocol: str) -> Row:
    assert instance.begin_s is not None and instance.end_s is not None  # Instance sees to it
    if tube is None or tube.span is None:
        return {"tiou": 0.0} | _unread(tube is not None)
    return {"tiou": interval_iou((instance.begin_s, instance.end_s), (tube.span.begin_s, tube.span.end_s))}


def _rec(instance: Instance, box: np.ndarray | None, protocol: str) -> Row:
    if box is None or box.shape != (4,) or not np.isfinite(box).all():
        return {"iou": 0.0} | _unread(box is not None)
    truth, predicted = (clean_boxes(b, instance.width, instance.height) for b in (np.array(instance.boxes[:1]), box))
    return {"iou": float(box_iou(truth, predicted)[0])}


def _qa(instance: Instance, answer: str | None, protocol: str) -> Row:
    if not instance.options:  # free text: there is no exact score
        return {"correct": None, "status": "not_scored"}
    gold = parse_choice(instance.answer, instance.options)
    if gold is None:
        raise ValueError(f"instance {instance.id}: answer {instance.answer!r} is none of {instance.options}")
    chosen = parse_choice(answer, instance.options) if answer is not None else None
    return {"correct": float(chosen == gold)} | _unread(answer is not None and chosen is None)


def _unread(unread: bool) -> Row:
    return {"status": "unparsable"} if unread else {}


def _means_and_counts(rows: Sequence[Row]) -> Summary:
    status = Counter(row["status"] for row in rows)
    counts = {"n_queries": len(rows), "n_missing": status["missing"], "n_unparsable": status["unparsable"]}
    if status["not_scored"]:
        counts["n_not_scored"] = status["not_scored"]
    return (_MEANS[rows[0]["task"]](rows) if rows else {}) | counts


def _stvg_means(rows: Sequence[Row]) -> Summary:
    viou = [row["viou"] for row in rows]
    return {
        "m_tIoU": mean(row["tiou"] for row in rows),
        "m_vIoU": mean(viou),
        "vIoU@0.3": share_above(viou, 0.3),
        "vIoU@0.5": share_above(viou, 0.5),
        "gt_vIoU": mean(row["gt_viou"] for row in rows),
    }


def _vtg_means(rows: Sequence[Row]) -> Summary:
    tiou = [row["tiou"] for row in rows]
    return {f"R1@{m}": share_reaching(tiou, m) for m in (0.3, 0.5, 0.7)} | {"mIoU": mean(tiou)}


def _rec_means(rows: Sequence[Row]) -> Summary:
    iou = [row["iou"] for row in rows]
    return {"acc@0.5": share_reaching(iou, 0.5), "mIoU": mean(iou)}


def _qa_means(rows: Sequence[Row]) -> Summary:
    return {"accuracy": mean(row["correct"] for row in rows if row["correct"] is not None)}


def _baseline_scores(
    task: str, instances: Sequence[Instance], tracks: baselines.Tracks, seed: int, draws: int
) -> dict[str, Summary]:
    def one(answer: baselines.Baseline, draw: int) -> Summary:
        answers = {i.id: answer(i, tracks, baselines.generator(i, seed, draw)) for i in instances}
        return summarise(score(instances, answers))

    scores = {name: one(answer, 0) for name, answer in baselines.CONSTANT[task].items()}
    for name, answer in baselines.RANDOM[task].items():
        scores[name] = _mean_summary([one(answer, draw) for draw in range(draws)])
    if task == "qa":
        scores["random_option"] = scores["first_option"] | {"accuracy": _chance(instances)}
    return scores


def _chance(instances: Sequence[Instance]) -> float:
    """The expected accuracy of an option drawn blindly."""
    return mean(1 / len(instance.options) for instance in instances if instance.options)


def _mean_summary(summaries: Sequence[Summary]) -> Summary:
    """Summaries of the same queries, score by score; counts are equal in all of them."""
    first = summaries[0]
    return {key: _mean_value([summary[key] for summary in summaries]) for key in first}


def _mean_value(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return _mean_summary(values)
    return mean(values) if isinstance(values[0], float) else values[0]


_ANSWER_TYPES: dict[str, type] = {"stvg": Tube, "vtg": Tube, "rec": np.ndarray, "qa": str}
_SCORES: dict[str, Callable[[Instance, Any, str], Row]] = {"stvg": _stvg, "vtg": _vtg, "rec": _rec, "qa": _qa}
_MEANS: dict[str, Callable[[Sequence[Row]], Summary]] = {
    "stvg": _stvg_means,
    "vtg": _vtg_means,
    "rec": _rec_means,
    "qa": _qa_means,
}
