"""Configuration of training: what is learned, from what, in which phases, on how many workers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from pipelines.core.tracking import TrackingConfig
from pipelines.media.decode import DecodeOptions
from pipelines.train.old_stages import refusal
from pipelines.train.phases import Phase, Schedule, Source
from pipelines.train.rules import breaches
from spacevllm.config import Config
from spacevllm.model.criterion import CriterionConfig
from spacevllm.model.shapes import Shape

Part = Literal["tower", "projector", "llm", "queries", "decoder", "presence"]
PARTS: tuple[Part, ...] = get_args(Part)


class ModelSection(Config):
    """Attributes:
    init: ``tiny`` (random weights, own tokenizer) or a ``from_pretrained`` folder to start from.
    shape: what a dry run plans with where that folder is not there.
    vocab_size: of the tiny tokenizer.
    fields: fields of ``SpaceVLLMConfig`` that differ from the tiny configuration, or from the folder's.
    vision, text: the same for the tiny vision tower and language model.
    """

    init: str = "tiny"
    shape: Shape = "llava_video_7b"
    vocab_size: int = Field(default=640, ge=300)
    fields: dict[str, Any] = Field(default_factory=dict)
    vision: dict[str, Any] = Field(default_factory=dict)
    text: dict[str, Any] = Field(default_factory=dict)


class LoraSection(Config):
    """Low-rank adapters in the language model, whose own weights then stay as they are. The paper's: 128, 256."""

    rank: int = Field(default=128, ge=1)
    alpha: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainSection(Config):
    """Attributes:
    learning_rate: peak, of every part that ``learning_rates`` does not name. The paper's: 1e-5 for the whole model,
        2e-4 for LoRA (``llm``), 2e-6 for the ``tower``, 1e-4 for the new modules ``queries`` and ``decoder``.
    freeze: parts that stay as they are. optimizer: ``muon`` takes Muon for hidden matrices, at ``muon_lr_scale``; needs
        ``workers.zero_stage`` 0, which keeps matrices whole.
    warmup: share of a phase's steps; then cosine to ``final_lr`` of the peak.
    autocast: bfloat16 for the forward pass and what stays frozen; what is learned, its optimiser and the box head stay
        fp32. ``auto``: where every worker's device computes in bfloat16, see ``computes_bf16``; many CPUs do not.
    gradient_checkpointing: keep one state a layer and compute the rest again: less memory, a third more work.
    keep_clips: hold the decoded clips in memory (Ray's object store) instead of reading them in every epoch.
    log_every, checkpoint_every: steps. max_failures: how often a dead worker is replaced.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    learning_rates: dict[Part, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    freeze: tuple[Part, ...] = ()
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_lr_scale: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta2: float = Field(default=0.98, gt=0, lt=1)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    gradient_clipping: float = Field(default=1.0, gt=0)
    autocast: bool | Literal["auto"] = "auto"
    gradient_checkpointing: bool = False
    keep_clips: bool = False
    seed: int = 0
    log_every: int = Field(default=25, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)
    max_failures: int = Field(default=2, ge=0)

    def rate(self, part: Part) -> float:
        """Peak learning rate of one part."""
        return self.learning_rates.get(part, self.learning_rate)


class WorkersSection(Config):
    """Attributes:
    num_workers: Ray Train workers, one device each. threads: CPU threads of each.
    use_gpu: False runs DeepSpeed on CPU with gloo.
    zero_stage: what is cut among the workers: 0 nothing, 1 the optimiser's state, 2 also gradients, 3 also weights.
    peak_tflops: of one device, for the model-FLOPs utilisation; 0: what a large matrix product reaches at the start.
    deepspeed: further settings of the engine, laid over ours.
    """

    num_workers: int = Field(default=2, ge=1)
    threads: int = Field(default=1, ge=1)
    use_gpu: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 1
    peak_tflops: float = Field(default=0.0, ge=0)
    deepspeed: dict[str, Any] = Field(default_factory=dict)


class TrainJobConfig(Config):
    """``train``: OUT/model (a ``from_pretrained`` folder), OUT/metrics.jsonl, OUT/checkpoints, OUT/summary.json.

    Attributes:
        data: Uni-STG data set folder; its split ``train`` is read.
        lora: null: the language model itself is trained.
        sources: what can be read, by name. phases: what is learned from them, in this order.
        decoded: folder of the sampled frames; ``""``: DATA/decoded/<frames>x<size>, shared by all runs on this data.
    """

    data: str
    out: str
    decoded: str = ""
    model: ModelSection = ModelSection()
    lora: LoraSection | None = None
    sources: dict[str, Source]
    phases: dict[str, Phase]
    criterion: CriterionConfig = CriterionConfig()
    train: TrainSection = TrainSection()
    workers: WorkersSection = WorkersSection()
    decode: DecodeOptions = DecodeOptions(block_rows=32)
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _has_no_stages(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and "stages" in tree:
            raise refusal(tree)
        return tree

    @model_validator(mode="after")
    def _fits_together(self) -> TrainJobConfig:
        breach = next(chain(self._breaches(), breaches(self.schedule)), None)
        if breach:
            raise ValueError(breach)
        return self

    def _breaches(self) -> Iterator[str]:
        """Of the rules about the model's parts and the optimiser."""
        if self.train.optimizer == "muon" and self.workers.zero_stage:
            yield f"train.optimizer muon needs workers.zero_stage 0, not {self.workers.zero_stage}"
        if self.lora and "llm" in self.train.freeze:
            yield "train.freeze holds llm, which is what lora trains; leave one of them out"
        if self.model.init != "tiny" and (self.model.vision or self.model.text):
            yield "model.vision and model.text belong to model.init tiny; a folder brings its own sizes"
        untaught = set() if self.criterion.presence else {"presence"}
        if set(self.train.freeze) | untaught == set(PARTS):
            yield "train.freeze holds every part: nothing is left to train"

    @property
    def schedule(self) -> Schedule:
        """What every step reads and how fast it learns."""
        train = self.train
        return Schedule(self.sources, self.phases, self.workers.num_workers, train.seed, train.warmup, train.final_lr)
