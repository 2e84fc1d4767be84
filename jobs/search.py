"""One question to a whole archive: its tubes by confidence, as a page of clips."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from jobs.common import finish, need_model, resolve, show_plan
from jobs.errors import OK, SOME_FAILED
from jobs.report import ReportConfig, make, undrawn
from pipelines.archive.ground import GroundConfig
from pipelines.archive.ground import run as ground
from pipelines.archive.plan import open_plan
from pipelines.archive.predict import PredictOptions
from pipelines.core import storage
from pipelines.core.failures import Retry
from pipelines.core.tracking import TrackingConfig
from pipelines.media.decode import DecodeOptions
from pipelines.media.manifest import list_videos
from spacevllm.config import Config, ConfigError
from spacevllm.windows import Windows


class SearchConfig(Config):
    """``search``: OUT/tubes as ``ground`` writes them, OUT/page/report.html with the surest of them.

    Attributes:
        question: asked of every video. model, videos, allow, out, windows, decode, predict, retry_failed, ray: as in
            ``GroundConfig``; what OUT knows already is not asked again.
        max_clips: tubes shown. margin_s: seconds of video shown before and after each.
    """

    question: str = Field(min_length=1)
    model: str
    videos: str
    out: str
    allow: tuple[str, ...] = ()
    max_clips: int = Field(20, ge=1)
    margin_s: float = Field(2.0, ge=0)
    windows: Windows = "auto"
    decode: DecodeOptions = DecodeOptions()
    predict: PredictOptions = PredictOptions()
    retry_failed: Retry = "transient"
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()

    @property
    def grounding(self) -> GroundConfig:
        return GroundConfig(**self.model_dump(exclude={"max_clips", "margin_s"}))

    @property
    def page(self) -> ReportConfig:
        return ReportConfig(
            tubes=self.out,
            out=storage.join(self.out, "page"),
            question=self.question,
            title=self.question,
            order="confidence",
            max_clips=self.max_clips,
            margin_s=self.margin_s,
        )


def run(question: str, model: str, videos: str, allow: list[str], out: str, overrides: list[str], dry_run: bool) -> int:
    """Asks, ranks and draws; returns 3 when some videos failed or some clips could not be drawn."""
    options: dict[str, Any] = {"model": model, "videos": videos, "out": out} | ({"allow": allow} if allow else {})
    config = resolve(SearchConfig, "", overrides, question=question.strip(), **options)
    need_model(model)
    if not storage.is_local(out):
        raise ConfigError(f"--out {out}: the page is written to a local folder")
    manifest = list_videos(videos, config.allow)
    if dry_run:
        return show_plan("search", config, f"{manifest.num_rows} videos")
    summary = ground(config.grounding)
    with open_plan() as plan:
        plan.ask(manifest, [("", config.question)])
        page = make(config.page, plan.ids)
    counts = [f"found in {page['found']} of {summary['videos']} videos", f"not there in {page['not_there']}"]
    counts.append(f"{summary['failed']} failed")
    finish(f"page: {page['report']} ({', '.join(filter(None, [*counts, undrawn(page)]))})")
    return SOME_FAILED if summary["failed"] or page["undrawn"] else OK
