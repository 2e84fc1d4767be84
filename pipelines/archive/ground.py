"""Videos × questions → tubes. Each video is read once and each (video, question) answered once, run after run.

The way of a run: list the videos → pair them with questions → leave out what OUT/tubes has → answer (predict.py, which
evaluation uses too) → count every row.
"""

from __future__ import annotations

import time

from pydantic import Field, model_validator

from pipelines.archive.export import ExportFormat, export
from pipelines.archive.plan import Plan, open_plan
from pipelines.archive.predict import LoadPredictor, Model, PredictOptions, answer, describe, load_predictor
from pipelines.archive.questions import read_questions
from pipelines.archive.shards import Shard, joined
from pipelines.archive.tubes import results_of
from pipelines.archive.work import generation_of
from pipelines.core import locks, storage
from pipelines.core.cluster import ray_session
from pipelines.core.failures import Retry, again
from pipelines.core.progress import Progress
from pipelines.core.rows import is_rows
from pipelines.core.stage import Summary, open_stage, write_summary
from pipelines.core.tracking import TrackingConfig
from pipelines.media.decode import DecodeOptions
from pipelines.media.manifest import list_videos
from spacevllm.config import Config, ConfigError
from spacevllm.windows import Windows


class GroundConfig(Config):
    """``ground``: OUT/tubes, a Delta table: one row a (video, question), columns as in ``answers.ANSWERS``.

    Attributes:
        model: folder of a trained model.
        videos: folder, glob, file, URL or manifest (see ``pipelines.media.manifest``), or a list of them.
        allow: folders and URLs below which a manifest may name videos; none: anywhere.
        questions: file of questions, see ``read_questions``.
        question: one question, or a list, asked of every video.
        out: where the tubes go. Running again adds what is missing; rows of other videos or questions stay.
        decode, predict: how videos are read and how the model runs.
        windows: ``auto``: a film, whose frames would lie too far apart, is looked at window by window, see
            ``spacevllm.windows``; ``off``: every video is seen at once.
        export: forms in which all answers of this call are written beside the tubes, see ``pipelines.archive.export``.
        retry_failed: which failed rows are done again, see ``failures``: ``transient`` (what passes: a store, a
            time-out, memory), ``all`` (also what another limit in ``decode`` could save) or ``none``.
        max_failed: share of the rows that may have failed where the run still counts as done (exit status 0, not 3).
        shard: ``1/4``: answer only about the first quarter of the videos; the others are for jobs beside this one.
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    model: str
    videos: str | tuple[str, ...]
    out: str
    allow: tuple[str, ...] = ()
    questions: str | None = None
    question: str | tuple[str, ...] = ()
    decode: DecodeOptions = DecodeOptions()
    predict: PredictOptions = PredictOptions()
    windows: Windows = "auto"
    export: tuple[ExportFormat, ...] = ()
    retry_failed: Retry = "transient"
    max_failed: float = Field(default=0.0, ge=0, le=1)
    shard: str | None = None
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _has_questions(self) -> GroundConfig:
        listed = [self.videos] if isinstance(self.videos, str) else self.videos
        if not self.questions and not self.question and not any(map(is_rows, listed)):
            raise ValueError("ground needs questions: a file (questions), text (question) or a manifest (videos)")
        return self

    @model_validator(mode="after")
    def _shard_is_one(self) -> GroundConfig:
        if self.part and self.export:
            raise ValueError("export needs the answers of all shards: when they are done, once more without shard")
        return self

    @property
    def part(self) -> Shard | None:
        return Shard.read(self.shard) if self.shard else None


def run(config: GroundConfig, load: LoadPredictor = load_predictor) -> Summary:
    """Answers what is not there yet; a second run decodes nothing.

    Returns:
        The summary that is also OUT/summary.json: ``in`` = ``ok`` + ``failed`` counts the (video, question) pairs of
        this call, ``errors`` the failed ones by reason, ``new`` and ``decoded`` what this call added and read, and its
        ``speed`` (see ``Progress``).

    Raises:
        ConfigError: no videos, or no readable questions. StorageBusy: another job writes to the same output.
    """
    storage.need_bucket(config.out)  # before an archive is listed
    with open_plan() as plan:
        plan.ask(list_videos(config.videos, config.allow), read_questions(config.question, config.questions))
        if not plan.num_media:
            raise ConfigError(
                "nothing is asked: the manifest holds no question; give --questions FILE or --question TEXT"
            )
        part = config.part
        if part:
            plan.keep(part)
        with locks.exclusive(config.out, part.name if part else ""):
            return _carry_out(config, part, plan, load)


def _carry_out(config: GroundConfig, part: Shard | None, plan: Plan, load: LoadPredictor) -> Summary:
    shard = part.name if part else ""
    model = describe(config.model, load)
    generation = generation_of(model, config.windows)
    results = results_of(config.out, generation, shard)
    plan.mark(model, config.windows)
    keys = plan.find_missing(results, again(config.retry_failed))
    new, decoded = plan.num_missing, plan.num_missing_media
    tracking = config.tracking if new else TrackingConfig(enabled=False)  # nothing done: no run
    with open_stage("ground", config, config.out, tracking, shard) as stage:
        started = time.monotonic()
        progress = Progress("ground", new, "answers", stage)
        lost: Summary = {}
        if new:
            how = (config.decode, config.predict, progress, load, config.windows)
            with plan.spread(config.out, shard) as work, ray_session(config.ray), progress:
                lost = answer(work, model, results, plan.replacing, *how)
        results.settle(plan.among)
        counts = keys.count()
        done = {"new": new, "decoded": decoded, "seconds": round(time.monotonic() - started, 3), **progress.speed}
        if not shard:  # others would have to read what they know already, in its new files
            results.compact()
        exports = export(results, plan.ids, config.out, config.export) if config.export else {}
        about = {"videos": plan.num_media, "exports": exports, **_describe(model), "generation": generation}
        summary = write_summary(stage, config.out, {"stage": "ground", **counts, **done, **lost, **about}, shard)
    if part and (whole := joined(config.out, part)):
        storage.write_json(storage.join(config.out, "summary.json"), whole)
    return summary


def _describe(model: Model) -> dict[str, str]:
    return {"model_id": model.id, "model_digest": model.digest}
