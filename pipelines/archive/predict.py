"""Questions about media → answers: one decode and one prediction a media, however many questions. Ground and evaluate.

Work (one row a media, with its questions) → Decoder actors → Answerer actors → part files. Blocks stream: decoders run
ahead of the model as far as Ray's memory budget lets them.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.core.landing import landed, writing
from pipelines.core.models import local_model, pinned
from pipelines.core.parts import Parts
from pipelines.core.progress import Progress
from pipelines.media.decode import DecodeOptions, Decoder, Plan, decoded, row_to_frames
from spacevllm.answer import Answer
from spacevllm.config import Config, ConfigError
from spacevllm.data.instance import instance_id
from spacevllm.frame_size import FrameSize
from spacevllm.imports import no_garbage
from spacevllm.model.folder import read_facts
from spacevllm.span import Span
from spacevllm.tube import Tube
from spacevllm.video.errors import VideoError
from spacevllm.video.reader import SampledFrames, shown_part
from spacevllm.windows import Windows, ground_film, is_film

UNPARSABLE = "unparsable"

QUESTION = pa.struct(
    [(name, pa.string()) for name in ("id", "task", "question", "fingerprint")] + [("options", pa.list_(pa.string()))]
)
PART = [("begin_s", pa.float64()), ("end_s", pa.float64()), ("error", pa.string())]  # as in the manifest
WORK = pa.schema([("uri", pa.string()), ("media", pa.string()), *PART, ("questions", pa.list_(QUESTION))])
KEPT = ("id", "task", "question", "fingerprint")  # of a question, in its answer's row
BOX = pa.struct([("frame", pa.int64()), *((side, pa.float32()) for side in ("x1", "y1", "x2", "y2"))])
MORE = pa.struct(
    [
        ("track", pa.int64()),  # which thing: 0 is the best tube's
        ("begin_s", pa.float64()),
        ("end_s", pa.float64()),
        ("begin_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("confidence", pa.float64()),
        ("boxes", pa.list_(BOX)),
    ]
)
ANSWERS = pa.schema(
    [
        ("id", pa.string()),  # hash of video (and part) and question
        ("video", pa.string()),  # its uri
        ("part_begin_s", pa.float64()),  # what was looked at, if a manifest says so; null: from the start, to the end
        ("part_end_s", pa.float64()),
        ("question", pa.string()),
        ("task", pa.string()),  # stvg · vtg · rec · qa
        ("status", pa.string()),  # ok · failed
        ("error", pa.string()),  # "" or "<reason>: <message>"
        ("begin_s", pa.float64()),  # seconds from the first frame; null without a span, as are the frames
        ("end_s", pa.float64()),
        ("begin_frame", pa.int64()),  # 0-based, half-open
        ("end_frame", pa.int64()),
        ("boxes", pa.list_(BOX)),  # xyxy pixels, one on every frame of the span (rec: frame 0)
        ("confidence", pa.float64()),  # in [0, 1]
        ("present", pa.bool_()),  # whether the confidence is enough to say that it is there
        ("windows", pa.int64()),  # looks at a film; 1: seen at once
        ("windows_unread", pa.int64()),  # of its windows, those that could not be decoded
        ("answer", pa.string()),  # the model's words
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("duration_s", pa.float64()),
        ("more", pa.list_(MORE)),  # further tubes of the answer, the surest first; all else is about the best one
        ("sampled_boxes", pa.list_(BOX)),  # on the frames that the model saw, in and out of the span
        ("model_id", pa.string()),
        ("model_digest", pa.string()),
        ("fingerprint", pa.string()),  # changes with the video's bytes, the model and the sampling plan
        ("decode_ms", pa.float64()),  # of the whole video
        ("predict_ms", pa.float64()),  # of all questions about it together
    ]
)

LoadPredictor = Callable[[str, str], Any]


class PredictOptions(Config):
    """How the model runs.

    Attributes:
        device: ``auto`` is cuda where the cluster has a GPU.
        num_actors: copies of the model. cpus: CPU cores (and torch threads) for each.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_actors: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, gt=0)


class Model(Config):
    """What the driver has to know of a model; the weights themselves are loaded by the actors."""

    path: str
    id: str
    digest: str
    num_frames: int
    size: FrameSize

    @property
    def plan(self) -> Plan:
        return Plan(self.num_frames, self.size)


def load_predictor(path: str, device: str) -> Any:
    """The Predictor that every stage uses."""
    with no_garbage():
        from spacevllm.predictor import Predictor

    return Predictor.load(local_model(path), device=device)


def describe(path: str, load: LoadPredictor) -> Model:
    """What the driver has to know, read from the folder: a wrong one is an error before anything starts, and torch is
    the actors' affair. A predictor of another kind is asked itself."""
    path = pinned(path)
    model = read_facts(local_model(path)) if load is load_predictor else load(path, "cpu")
    return Model(path=path, id=model.model_id, digest=model.digest, num_frames=model.num_frames, size=model.image_size)


class Question(NamedTuple):
    """One row of the output to be. ``task``: stvg, vtg, rec or qa; ``options`` only for multiple choice."""

    id: str
    task: str
    question: str
    options: Sequence[str] = ()


def make_work(
    asked: Iterable[tuple[Mapping[str, Any], Sequence[Question]]], model: Model, windows: Windows = "off"
) -> pa.Table:
    """Rows of ``WORK`` from manifest rows, each with the questions about it."""
    look = () if windows == "off" else (windows,)
    rows = []
    for media, questions in asked:
        part = (media["begin_s"], media["end_s"])
        made_from = (media["version"], model.digest, *model.plan, *look, *(() if part == (None, None) else part))
        marked = [q._asdict() | {"fingerprint": instance_id(*made_from, *q[1:])} for q in questions]
        rows.append(
            {name: media[name] for name in ("uri", "media", "begin_s", "end_s", "error")} | {"questions": marked}
        )
    return pa.Table.from_pylist(rows, schema=WORK)


def wanted_ids(work: pa.Table) -> dict[str, str]:
    """Every question's id → fingerprint."""
    return {question["id"]: question["fingerprint"] for row in work.to_pylist() for question in row["questions"]}


def without(work: pa.Table, done: set[str]) -> pa.Table:
    """The work that is left; media with nothing left to ask fall out."""
    rows = [
        row | {"questions": left}
        for row in work.to_pylist()
        if (left := [question for question in row["questions"] if question["id"] not in done])
    ]
    return pa.Table.from_pylist(rows, schema=WORK)


def answer(
    work: pa.Table,
    model: Model,
    parts: Parts,
    decode: DecodeOptions,
    predict: PredictOptions,
    progress: Progress,
    load: LoadPredictor = load_predictor,
    windows: Windows = "off",
) -> None:
    """Answers all of ``work`` into ``parts``; needs a running Ray session.

    Args:
        windows: ``auto``: films are walked window by window by the predictor's actor, which reads them a second time.
    """
    import ray
    from ray.data import ActorPoolStrategy

    cuda = predict.device == "cuda" or (predict.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    answers = decoded(work, model.plan, decode, reserved_cpus=predict.num_actors * predict.cpus).map_batches(
        writing(Answerer, parts),
        fn_constructor_args=(model, "cuda" if cuda else "cpu", load, decode if windows == "auto" else None),
        batch_format="pyarrow",
        batch_size=None,
        compute=ActorPoolStrategy(min_size=predict.num_actors, max_size=predict.num_actors),
        num_cpus=predict.cpus,
        num_gpus=1 if cuda else None,
    )
    for count, failed in landed(answers):
        progress.advance(count, failed)


class Answerer:
    """A Ray Data actor: decoded media with their questions in, rows of ``ANSWERS`` out.

    Args:
        films: how to read the windows of films; None: films are seen at once, like all others.

    Raises:
        ConfigError: the model here is not the driver's.
    """

    def __init__(self, model: Model, device: str, load: LoadPredictor, films: DecodeOptions | None = None) -> None:
        self.model = model
        self.predictor = load(model.path, device)
        if self.predictor.digest != model.digest:
            raise ConfigError(
                f"the model {model.path} on {socket.gethostname()} has digest {self.predictor.digest}, where the job "
                f"started {model.digest}: give all machines the same, or a URL"
            )
        self.films = Decoder(model.plan, films) if films else None

    def __call__(self, table: pa.Table) -> pa.Table:
        return _to_table([row for media in table.to_pylist() for row in self.answer(media)])

    def answer(self, media: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row of ``ANSWERS`` a question, in the order asked; its boxes are still ``Boxes``."""
        started = time.perf_counter()
        results = self._results(media)
        shared = {
            "video": media["media"],
            "part_begin_s": media["begin_s"],
            "part_end_s": media["end_s"],
            "fps": media["fps_num"] / media["fps_den"] if media["fps_den"] else None,
            **{name: media[name] for name in ("num_frames", "width", "height", "duration_s")},
            "model_id": self.model.id,
            "model_digest": self.model.digest,
            "decode_ms": media["decode_ms"],
            "predict_ms": (time.perf_counter() - started) * 1000,
        }
        asked = [{name: question[name] for name in KEPT} for question in media["questions"]]
        return [shared | question | result for question, result in zip(asked, results, strict=True)]

    def _results(self, media: Mapping[str, Any]) -> list[dict[str, Any]]:
        questions = media["questions"]
        if media["status"] != "ok":
            return [{"status": "failed", "error": media["error"]}] * len(questions)
        try:
            frames = row_to_frames(media)
            results: dict[str, dict[str, Any]] = {}
            for task in dict.fromkeys(question["task"] for question in questions):
                asked = [question for question in questions if question["task"] == task]
                answers = self._ask(task, media["uri"], frames, asked)
                results |= {q["id"]: _to_row(task, a) for q, a in zip(asked, answers, strict=True)}
            return [results[question["id"]] for question in questions]
        except VideoError as error:  # of a film
            return [{"status": "failed", "error": f"{error.reason}: {error}"}] * len(questions)
        except OSError as error:  # of a film's second fetch
            return [{"status": "failed", "error": f"storage: {media['uri']}: {error}"}] * len(questions)
        except Exception as error:  # one video must not end an archive; the rows keep the reason
            return [{"status": "failed", "error": f"predict: {type(error).__name__}: {error}"}] * len(questions)

    def _ask(self, task: str, uri: str, frames: SampledFrames, asked: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        texts = [question["question"] for question in asked]
        if task == "qa":
            return self.predictor.answer(frames, texts, [question["options"] or [] for question in asked])
        if task == "rec":
            return self.predictor.locate(frames, texts)
        part = shown_part(frames)
        if self.films is None or not is_film(part.end_s - part.begin_s, self.model.num_frames):
            return self.predictor.ground(frames, texts, task)
        ground = partial(self.predictor.ground, task=task)
        with self.films.reading(uri) as read:
            return ground_film(read, ground, part, self.model.num_frames, texts)


class Boxes(NamedTuple):
    """A list of ``BOX`` to be. frames: (K,) int. corners: (K, 4) float32 xyxy."""

    frames: np.ndarray
    corners: np.ndarray


def _to_row(task: str, answer: Any) -> dict[str, Any]:
    if task == "qa":
        return {"status": "ok", "error": "", "answer": answer}
    if task == "rec":
        return {"status": "ok", "error": "", "boxes": Boxes(np.zeros(1), answer[None])}
    assert isinstance(answer, Answer)
    tube = answer.best
    row = {
        "status": "ok",
        "error": "",
        "answer": tube.answer,
        "confidence": tube.confidence,
        "present": tube.present,
        "windows": tube.windows,
        "windows_unread": tube.windows_unread,
        "boxes": _boxes(tube),
        "more": answer[1:],
        "sampled_boxes": Boxes(tube.sampled_frames, tube.sampled_boxes),
    }
    if tube.span is None and tube.says_absent:
        return row
    if tube.span is None:
        return row | {"status": "failed", "error": f"{UNPARSABLE}: no span in the answer {tube.answer!r}"}
    return row | {name: getattr(tube, name) for name in ("begin_s", "end_s", "begin_frame", "end_frame")}


def row_to_answer(row: Mapping[str, Any]) -> Answer | np.ndarray | str | None:
    """The inverse, as evaluation scores it: an Answer, a (4,) box or words by task; None when there was no answer. Of
    further tubes, sampled boxes are not kept."""
    if row["status"] != "ok" and not row["error"].startswith(UNPARSABLE):
        return None
    _, boxes = _box_arrays(row["boxes"])
    if row["task"] == "qa":
        return str(row["answer"])
    if row["task"] == "rec":
        return boxes[0]  # (4,)
    sampled_frames, sampled_boxes = _box_arrays(row["sampled_boxes"])
    known = row["begin_s"] is not None
    plain = ("video", "question", "answer", "num_frames", "width", "height", "duration_s", "confidence")
    best = Tube(
        span=Span(row["begin_s"], row["end_s"]) if known else None,
        begin_frame=row["begin_frame"] if known else 0,
        end_frame=row["end_frame"] if known else 0,
        boxes=boxes,
        fps=row["fps"] or 0.0,
        present=known if row.get("present") is None else row["present"],
        sampled_frames=sampled_frames,
        sampled_boxes=sampled_boxes,
        **{name: row[name] for name in plain},
    )
    return Answer([best, *(_further(best, further) for further in row.get("more") or ())])


def _further(best: Tube, row: Mapping[str, Any]) -> Tube:
    """A tube of the column ``more``; it shares the rest with the best one."""
    _, boxes = _box_arrays(row["boxes"])
    return replace(
        best,
        track=row["track"],
        span=Span(row["begin_s"], row["end_s"]),
        begin_frame=row["begin_frame"],
        end_frame=row["end_frame"],
        confidence=row["confidence"],
        boxes=boxes,
        sampled_frames=best.sampled_frames[:0],
        sampled_boxes=best.sampled_boxes[:0],
    )


def _to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with the columns of ``ANSWERS``. Boxes stay arrays: as a dict each they would cost more than the model."""
    plain = pa.schema([field for field in ANSWERS if field.type not in (pa.list_(BOX), pa.list_(MORE))])
    columns = dict(zip(plain.names, pa.Table.from_pylist(rows, schema=plain).columns, strict=True))
    columns["more"] = _more_column([row.get("more") or () for row in rows])
    columns |= {name: _box_column([row.get(name) for row in rows]) for name in ANSWERS.names if name not in columns}
    return pa.table([columns[name] for name in ANSWERS.names], schema=ANSWERS)


def _more_column(cells: Sequence[Sequence[Tube]]) -> pa.Array:
    """A list of ``MORE`` a cell."""
    tubes = [tube for cell in cells for tube in cell]
    fields = [pa.array([getattr(tube, field.name) for tube in tubes], field.type) for field in list(MORE)[:-1]]
    items = pa.StructArray.from_arrays([*fields, _box_column([_boxes(tube) for tube in tubes])], fields=list(MORE))
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *map(len, cells)]), pa.int32()), items)


def _boxes(tube: Tube) -> Boxes:
    return Boxes(np.arange(tube.begin_frame, tube.end_frame), tube.boxes)


def _box_column(cells: Sequence[Boxes | None]) -> pa.Array:
    """A list of ``BOX`` a cell, null for None."""
    known = [Boxes(np.zeros(0), np.zeros((0, 4))), *filter(None, cells)]
    frames = np.concatenate([boxes.frames for boxes in known]).astype(np.int64)
    corners = np.concatenate([boxes.corners for boxes in known]).astype(np.float32)  # (sum of K, 4)
    items = pa.StructArray.from_arrays([pa.array(x) for x in (frames, *corners.T)], fields=list(BOX))
    ends = np.cumsum([0, *(len(cell.frames) if cell else 0 for cell in cells)])
    absent = pa.array([cell is None for cell in cells], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), items, mask=absent)


def _box_arrays(rows: Sequence[Mapping[str, float]] | None) -> tuple[np.ndarray, np.ndarray]:
    """(K,) int64 frames and (K, 4) float32 boxes."""
    listed = [[row[name] for name in ("frame", "x1", "y1", "x2", "y2")] for row in rows or []]
    table = np.array(listed, dtype=np.float64).reshape(-1, 5)
    return table[:, 0].astype(np.int64), table[:, 1:].astype(np.float32)
