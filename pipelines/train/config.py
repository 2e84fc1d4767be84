"""Configuration of training: what is learned, in which stages, on how many workers."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.decode import DecodeOptions
from pipelines.tracking import TrackingConfig
from spacevllm.config import Config
from spacevllm.model.criterion import CriterionConfig


class ModelSection(Config):
    """Attributes:
    init: ``tiny`` (random weights, own tokenizer) or a ``from_pretrained`` folder to start from.
    vocab_size: of the tiny tokenizer.
    fields: fields of ``SpaceVLLMConfig`` that differ from the tiny configuration.
    vision, text: the same for its vision tower and language model.
    """

    init: str = "tiny"
    vocab_size: int = Field(default=640, ge=300)
    fields: dict[str, Any] = Field(default_factory=dict)
    vision: dict[str, Any] = Field(default_factory=dict)
    text: dict[str, Any] = Field(default_factory=dict)


class StageSection(Config):
    """One stage of training: ``steps`` batches of one kind of media, then the next stage.

    Attributes:
        media: ``image`` or ``video``. batch_size: clips in a step, over all workers.
        objective: ``ground``: the whole model and ``criterion``. ``align``: tower, projector and word embeddings only,
            visual tokens against captions; for a tower without pre-trained weights.
        questions: asked of a clip at most; they share its prefix.
        learning_rate: peak, relative to ``train.learning_rate``.
        rehearse: another stage; every ``rehearse_every``-th batch is one of its kind, so that it is not forgotten.
    """

    media: Literal["image", "video"]
    objective: Literal["ground", "align"] = "ground"
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    questions: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=1.0, gt=0)
    rehearse: str = ""
    rehearse_every: int = Field(default=6, ge=2)


class TrainSection(Config):
    """Attributes:
    learning_rate: peak of the language model's, tower's and projector's. decoder_lr_scale: factor for queries and
        space decoder. optimizer: ``muon`` takes Muon for hidden matrices, at ``muon_lr_scale``; needs
        ``workers.zero_stage`` 0, which keeps matrices whole.
    warmup: share of a stage's steps; then cosine to ``final_lr`` of the peak.
    autocast: bfloat16 for the forward pass; parameters, optimiser and box head stay fp32.
    keep_clips: hold the decoded clips in memory (Ray's object store) instead of reading them in every epoch.
    log_every, checkpoint_every: steps. max_failures: how often a dead worker is replaced.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    decoder_lr_scale: float = Field(default=1.0, gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_lr_scale: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta2: float = Field(default=0.98, gt=0, lt=1)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    gradient_clipping: float = Field(default=1.0, gt=0)
    autocast: bool = True
    keep_clips: bool = False
    seed: int = 0
    log_every: int = Field(default=25, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)
    max_failures: int = Field(default=2, ge=0)


class WorkersSection(Config):
    """Attributes:
    num_workers: Ray Train workers, one device each. threads: CPU threads of each.
    use_gpu: False runs DeepSpeed on CPU with gloo. zero_stage: ZeRO 0, 1 or 2.
    """

    num_workers: int = Field(default=2, ge=1)
    threads: int = Field(default=1, ge=1)
    use_gpu: bool = False
    zero_stage: Literal[0, 1, 2] = 1


class TrainJobConfig(Config):
    """``train``: OUT/model (a ``from_pretrained`` folder), OUT/checkpoints, OUT/summary.json.

    Attributes:
        data: Uni-STG data set folder; its split ``train`` is read.
        decoded: folder of the sampled frames; ``""``: DATA/decoded/<frames>x<size>, shared by all runs on this data.
    """

    data: str
    out: str
    decoded: str = ""
    model: ModelSection = ModelSection()
    stages: dict[str, StageSection]
    criterion: CriterionConfig = CriterionConfig()
    train: TrainSection = TrainSection()
    workers: WorkersSection = WorkersSection()
    decode: DecodeOptions = DecodeOptions(block_rows=32)
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> TrainJobConfig:
        if self.train.optimizer == "muon" and self.workers.zero_stage:
            raise ValueError(f"train.optimizer muon needs workers.zero_stage 0, not {self.workers.zero_stage}")
        for name, stage in self.stages.items():
            if stage.rehearse and stage.rehearse not in self.stages:
                raise ValueError(f"stages.{name}.rehearse {stage.rehearse!r} is none of {', '.join(self.stages)}")
            if stage.batch_size % self.workers.num_workers:
                raise ValueError(
                    f"stages.{name}.batch_size {stage.batch_size} does not divide by "
                    f"workers.num_workers {self.workers.num_workers}"
                )
        return self

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages.values())

    def at(self, step: int) -> tuple[str, int]:
        """Stage and step within it of global step ``step`` in [0, total_steps)."""
        for name, stage in self.stages.items():
            if step < stage.steps:
                return name, step
            step -= stage.steps
        raise IndexError("past the last step")

    def source(self, step: int) -> str:
        """The stage whose kind of batch global step ``step`` takes: its own, or the one it rehearses."""
        name, local = self.at(step)
        stage = self.stages[name]
        return stage.rehearse if stage.rehearse and local % stage.rehearse_every == stage.rehearse_every - 1 else name

    def learning_rate_factor(self, step: int) -> float:
        """Factor of the peak learning rate at global step ``step``: warm-up and cosine anew in every stage."""
        name, local = self.at(step)
        stage, t = self.stages[name], self.train
        rise = min(1.0, (local + 1) / max(1, round(t.warmup * stage.steps)))
        fall = t.final_lr + (1 - t.final_lr) * 0.5 * (1 + math.cos(math.pi * local / stage.steps))
        return stage.learning_rate * rise * fall
