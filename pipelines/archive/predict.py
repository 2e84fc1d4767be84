"""Questions about media → answers: one decode and one prediction a media, however many questions. Ground and evaluate.

Work (one row a media, with its questions) → Decoder actors → Answerer actors → part files. Blocks stream: decoders run
ahead of the model as far as Ray's memory budget lets them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.archive.answers import to_row, to_table
from pipelines.archive.ledger import FAULTS, TRIES, open_ledger
from pipelines.archive.watch import Watch
from pipelines.core.cluster import pool
from pipelines.core.failures import MachineFault, is_machine_fault
from pipelines.core.landing import landed, writing
from pipelines.core.models import local_model, pinned
from pipelines.core.progress import Progress
from pipelines.core.results import Results
from pipelines.media.decode import DecodeOptions, decoded, row_to_frames
from pipelines.media.films import FilmReaders, Reader, start_readers
from pipelines.media.reading import Plan
from pipelines.media.stream import Chunks
from spacevllm.config import Config, ConfigError
from spacevllm.frame_size import FrameSize
from spacevllm.imports import no_garbage
from spacevllm.model.folder import read_facts
from spacevllm.video.errors import VideoError
from spacevllm.video.reader import SampledFrames, shown_part
from spacevllm.windows import Windows, ground_film, window_s

KEPT = ("id", "task", "question", "fingerprint")  # of a question, in its answer's row
LoadPredictor = Callable[[str, str], Any]


class PredictOptions(Config):
    """How the model runs.

    Attributes:
        device: ``auto`` is cuda where the cluster has a GPU.
        num_actors: copies of the model; ``auto``: one on each GPU of the cluster, or one.
        cpus: CPU cores (and torch threads) for each.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_actors: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
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


def answer(
    work: pa.Table | Chunks,
    model: Model,
    results: Results,
    replacing: AbstractSet[str],
    decode: DecodeOptions,
    predict: PredictOptions,
    progress: Progress,
    load: LoadPredictor = load_predictor,
    windows: Windows = "off",
) -> dict[str, Any]:
    """Answers all of ``work`` into ``results``; needs a running Ray session. Returns ``device`` and what its ``Ledger``
    knows.

    Args:
        work: rows of ``work.WORK``, or the files that hold them.
        replacing: see ``Results.done``.
        windows: ``auto``: films are walked window by window, which ``FilmReaders`` read for the predictor's actor.
    """
    import ray

    cuda = predict.device == "cuda" or (predict.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    gpus = int(ray.cluster_resources().get("GPU", 0)) if cuda else 0
    copies = max(1, gpus) if predict.num_actors == "auto" else predict.num_actors
    most_s = window_s(model.num_frames) if windows == "auto" else None
    readers = partial(start_readers, model.plan, decode, decode.backend, decode.num_actors)
    with open_ledger(readers) as ledger:
        answers = decoded(work, model.plan, decode, copies * predict.cpus, most_s=most_s).map_batches(
            writing(Answerer, results),
            fn_constructor_args=(model, "cuda" if cuda else "cpu", load, ledger, copies),
            batch_format="pyarrow",
            batch_size=None,
            compute=pool(copies),
            num_cpus=predict.cpus,
            num_gpus=1 if cuda else None,
        )
        for count, failed in landed(answers, results, replacing):
            progress.advance(count, failed)
        return {"device": "cuda" if cuda else "cpu", **ray.get(ledger.summary.remote())}


class Answerer:
    """A Ray Data actor: decoded media with their questions in, rows of ``answers.ANSWERS`` out.

    Args:
        ledger: handle of the run's ``Ledger``. copies: of this actor, that share its readers.

    Raises:
        ConfigError: the model here is not the driver's.
        MachineFault: when called; this machine fails whatever it is given.
    """

    def __init__(self, model: Model, device: str, load: LoadPredictor, ledger: Any = None, copies: int = 1) -> None:
        self.ledger = ledger
        self.model = model
        self.predictor = load(model.path, device)
        if self.predictor.digest != model.digest:
            raise ConfigError(
                f"the model {model.path} on {socket.gethostname()} has digest {self.predictor.digest}, where the job "
                f"started {model.digest}: give all machines the same, or a URL"
            )
        self.films = FilmReaders(self._readers, model.plan, copies)
        self.watch, self.answers = Watch(), False

    def __call__(self, table: pa.Table) -> pa.Table:
        self.watch.starts()
        rows = to_table([row for media in table.to_pylist() for row in self.answer(media)])
        self.watch.stops()
        if self.ledger is not None:
            self.ledger.worked.remote(*self.watch.read())
        return rows

    def answer(self, media: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row of ``ANSWERS`` a question, in the order asked; its boxes are still ``Boxes``."""
        started = time.perf_counter()
        results = self._results(media) if self.ledger is None else self._recorded(media)
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

    def _recorded(self, media: Mapping[str, Any]) -> list[dict[str, Any]]:
        """``_results``, known to the ledger: what kills its worker again and again is not tried for ever."""
        import ray

        key = media["questions"][0]["id"]
        if ray.get(self.ledger.begin.remote(key)) > TRIES:
            error = f"killed_worker: {media['uri']}: the worker died of it {TRIES} times"
            return [{"status": "failed", "error": error}] * len(media["questions"])
        try:
            results = self._results(media)
        except MachineFault as fault:
            self.leave(fault)
            raise
        self.ledger.end.remote(key)
        self.answers = True
        return results

    def wrote(self) -> None:
        """A block of this worker has landed; one of nothing but rows that are given up proves nothing."""
        if self.answers:
            self.ledger.wrote.remote(socket.gethostname())
        self.answers = False

    def leave(self, fault: MachineFault) -> None:
        """Ends this process: what a device or a connection has lost, only a new one gets back. Ray starts it, here or
        elsewhere, and gives it this block.

        Raises:
            MachineFault: this machine has failed too often.
        """
        import ray

        machine = socket.gethostname()
        if self.ledger is None:
            raise fault
        if ray.get(self.ledger.fault.remote(machine)) < FAULTS:
            os._exit(1)
        raise MachineFault(f"{machine} failed {FAULTS} times in a row, take it out: {fault}") from None

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
                results |= {q["id"]: to_row(task, a) for q, a in zip(asked, answers, strict=True)}
            return [results[question["id"]] for question in questions]
        except VideoError as error:  # of a film
            return [{"status": "failed", "error": f"{error.reason}: {error}"}] * len(questions)
        except OSError as error:  # a film cannot be fetched where it is read
            if is_machine_fault(error):
                raise MachineFault(f"{type(error).__name__}: {error}") from None
            return [{"status": "failed", "error": f"storage: {media['uri']}: {error}"}] * len(questions)
        except Exception as error:  # one video must not end an archive; the rows keep the reason
            if is_machine_fault(error):
                raise MachineFault(f"{type(error).__name__}: {error}") from None
            return [{"status": "failed", "error": f"predict: {type(error).__name__}: {error}"}] * len(questions)

    def _ask(self, task: str, uri: str, frames: SampledFrames, asked: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        texts = [question["question"] for question in asked]
        if task == "qa":
            return self.predictor.answer(frames, texts, [question["options"] or [] for question in asked])
        if task == "rec":
            return self.predictor.locate(frames, texts)
        if len(frames.frames):
            return self.predictor.ground(frames, texts, task)
        ground, read = partial(self.predictor.ground, task=task), self.films.of(uri, frames.info)
        try:
            patient = self.watch.waiting(read)
            return ground_film(patient, ground, shown_part(frames), self.model.num_frames, texts)
        finally:
            self.films.leave(uri)

    def _readers(self) -> list[Reader]:
        import ray

        readers: list[Reader] = ray.get(self.ledger.readers.remote())
        return readers
