"""Configuration of ``synthesize``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipelines.core.tracking import TrackingConfig
from pipelines.media.reading import ReadOptions
from spacevllm.config import Config
from spacevllm.data.moving_shapes.oracle import Noise
from spacevllm.data.synthesis.analyzer import AnalyzerOptions
from spacevllm.data.synthesis.annotator import AnnotatorOptions
from spacevllm.data.synthesis.filter import FilterOptions
from spacevllm.data.synthesis.refiner import RefinerOptions


class AnalyzerConfig(AnalyzerOptions):
    """The language model.

    Attributes:
        kind: ``endpoint``: OpenAI-compatible, at ``url``. ``local``: transformers, on Ray actors. ``moving_shapes``: no
            model, it understands the captions of Moving Shapes.
        url: up to and including ``/v1``. key_variable: environment variable with the key. timeout_s: for one answer.
        concurrency: requests that are under way at once, for each actor.
        model: name at the endpoint, or folder or hub name.
        device, max_new_tokens: of a local model.
        num_actors: side by side. num_gpus: of each, fractions too.
    """

    kind: Literal["endpoint", "local", "moving_shapes"] = "endpoint"
    url: str = ""
    key_variable: str = ""
    timeout_s: float = Field(default=60.0, gt=0)
    concurrency: int = Field(default=16, ge=1)
    model: str = "Qwen/Qwen2.5-72B-Instruct"
    device: str = ""
    max_new_tokens: int = Field(default=128, ge=1)
    num_actors: int = Field(default=1, ge=1)
    num_gpus: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _has_url(self) -> AnalyzerConfig:
        if self.kind == "endpoint" and not self.url:
            raise ValueError("the endpoint needs its url, such as http://localhost:8000/v1 (or kind: local)")
        return self


class AnnotatorConfig(AnnotatorOptions, ReadOptions):
    """The detector and how videos are read.

    Attributes:
        kind: ``grounding_dino``, or ``moving_shapes``: the truth of Moving Shapes, seen through ``noise``.
        model: folder or hub name. device: torch's name; ``""`` takes a GPU if there is one.
        num_actors: side by side. num_gpus: of each, fractions too.
        timeout_s, memory_mb and the other limits: of one batch of frames, see ``ReadOptions``.
        world: folder of the Moving Shapes data set. noise: what is wrong with its detections.
    """

    kind: Literal["grounding_dino", "moving_shapes"] = "grounding_dino"
    model: str = "IDEA-Research/grounding-dino-tiny"
    device: str = ""
    num_actors: int = Field(default=1, ge=1)
    num_gpus: float = Field(default=0, ge=0)
    world: str = ""
    noise: Noise = Noise()

    @model_validator(mode="after")
    def _has_world(self) -> AnnotatorConfig:
        if self.kind == "moving_shapes" and not self.world:
            raise ValueError("kind moving_shapes needs world: the folder of its data set")
        return self


class SynthesisOptions(Config):
    """The stages' settings.

    Attributes:
        splits: of the captions; none: all.
        continuity: price of a jump when boxes are linked, see ``spacevllm.data.synthesis.linking``.
        block_rows: samples that travel together; what a killed run redoes at most, for each actor (an
            endpoint's analyzer has some more under way: samples for twice its ``concurrency``).
        retry_failed: also do again what was rejected or failed before.
    """

    analyzer: AnalyzerConfig
    annotator: AnnotatorConfig = AnnotatorConfig()
    refiner: RefinerOptions = RefinerOptions()
    filter: FilterOptions = FilterOptions()
    splits: tuple[str, ...] = ()
    continuity: float = Field(default=1.0, ge=0)
    block_rows: int = Field(default=16, ge=1)
    retry_failed: bool = False


class SynthesizeConfig(SynthesisOptions):
    """``synthesize``: OUT/stages/<stage> (Delta tables), OUT/annotations/<split>.jsonl, OUT/funnel.txt and .svg.

    Attributes:
        data: folder with ``annotations/**/<split>.jsonl``; its ``vtg`` records are the captions with rough intervals.
        out: where everything goes. Running again does only what is missing or was made with other settings.
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    data: str
    out: str
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()
