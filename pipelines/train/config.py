"""Configuration of training: what is learned, in which stages, on how many workers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from pipelines.core.tracking import TrackingConfig
from pipelines.media.decode import DecodeOptions
from pipelines.train.mixture import block_counts, draw
from spacevllm.config import Config
from spacevllm.data.instance import MediaType, Task
from spacevllm.model.criterion import CriterionConfig

Part = Literal["tower", "projector", "llm", "queries", "decoder", "presence"]
PARTS: tuple[Part, ...] = get_args(Part)


class ModelSection(Config):
    """Attributes:
    init: ``tiny`` (random weights, own tokenizer) or a ``from_pretrained`` folder to start from.
    vocab_size: of the tiny tokenizer.
    fields: fields of ``SpaceVLLMConfig`` that differ from the tiny configuration, or from the folder's.
    vision, text: the same for the tiny vision tower and language model.
    """

    init: str = "tiny"
    vocab_size: int = Field(default=640, ge=300)
    fields: dict[str, Any] = Field(default_factory=dict)
    vision: dict[str, Any] = Field(default_factory=dict)
    text: dict[str, Any] = Field(default_factory=dict)


class LoraSection(Config):
    """Low-rank adapters in the language model, whose own weights then stay as they are. The paper's: 128, 256."""

    rank: int = Field(default=128, ge=1)
    alpha: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class StageSection(Config):
    """One stage of training: ``steps`` steps, then the next stage. It reads clips of its own, or mixes others'.

    Attributes:
        media: ``image``, ``video`` or ``text`` (questions about neither); none for a stage with ``mix``.
        tasks: whose questions are asked; none named: all.
        mix: stages whose clips this one takes → their weights, in clips. Of every ``mix_block`` clips (over all
            workers; 0: of each step) each stage gives exactly its share, rounded by the largest remainder.
        steps: 0 for a stage that only lends its clips to others, by ``mix`` or ``rehearse``.
        batch_size: clips in a step, over all workers; not needed where others only ``mix`` it.
        micro_batch_size: clips of this stage that pass through a worker at once, in its own steps and in others';
            0: all of a step. Gradients are the same, memory is not.
        objective: ``ground``: the whole model and ``criterion``. ``align``: tower, projector and word embeddings only,
            visual tokens against captions; for a tower without pre-trained weights.
        questions: asked of a clip at most; they share its prefix.
        learning_rate: peak, relative to ``train.learning_rate`` and ``train.learning_rates``.
        rehearse: another stage; every ``rehearse_every``-th batch is one of its kind, so that it is not forgotten.
    """

    media: MediaType | None = None
    tasks: tuple[Task, ...] = ()
    objective: Literal["ground", "align"] = "ground"
    mix: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    mix_block: int = Field(default=0, ge=0)
    steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=0, ge=0)
    micro_batch_size: int = Field(default=0, ge=0)
    questions: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=1.0, gt=0)
    rehearse: str = ""
    rehearse_every: int = Field(default=6, ge=2)

    @property
    def reads(self) -> str:
        """Name of what it reads; stages of the same name share a data set. ``""``: nothing itself."""
        return f"{self.media or ''}:{'+'.join(sorted(self.tasks))}" if self.tasks else self.media or ""


class TrainSection(Config):
    """Attributes:
    learning_rate: peak, of every part that ``learning_rates`` does not name. The paper's: 1e-5 for the whole model,
        2e-4 for LoRA (``llm``), 2e-6 for the ``tower``, 1e-4 for the new modules ``queries`` and ``decoder``.
    freeze: parts that stay as they are. optimizer: ``muon`` takes Muon for hidden matrices, at ``muon_lr_scale``; needs
        ``workers.zero_stage`` 0, which keeps matrices whole.
    warmup: share of a stage's steps; then cosine to ``final_lr`` of the peak.
    autocast: bfloat16 for the forward pass and what stays frozen; what is learned, its optimiser and the box head stay
        fp32.
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
    autocast: bool = True
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
        decoded: folder of the sampled frames; ``""``: DATA/decoded/<frames>x<size>, shared by all runs on this data.
    """

    data: str
    out: str
    decoded: str = ""
    model: ModelSection = ModelSection()
    lora: LoraSection | None = None
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
        if self.lora and "llm" in self.train.freeze:
            raise ValueError("train.freeze holds llm, which is what lora trains; leave one of them out")
        if self.model.init != "tiny" and (self.model.vision or self.model.text):
            raise ValueError("model.vision and model.text belong to model.init tiny; a folder brings its own sizes")
        untaught = set() if self.criterion.presence else {"presence"}
        if set(self.train.freeze) | untaught == set(PARTS):
            raise ValueError("train.freeze holds every part: nothing is left to train")
        if not self.total_steps:
            raise ValueError("stages have 0 steps in all")
        for name, stage in self.stages.items():
            self._check_stage(name, stage)
        return self

    def _check_stage(self, name: str, stage: StageSection) -> None:
        others = [*stage.mix, *([stage.rehearse] if stage.rehearse else [])]
        for other in others:
            if other not in self.stages:
                raise ValueError(f"stages.{name} wants {other!r}, which is none of {', '.join(self.stages)}")
        if bool(stage.media) == bool(stage.mix) or (stage.mix and (stage.tasks or stage.rehearse)):
            raise ValueError(f"stages.{name} needs either media (and tasks, and rehearse) or mix")
        if stage.media == "text" and stage.objective == "align":
            raise ValueError(f"stages.{name}: there is nothing in text that objective align could align")
        self._check_reading(name, stage, [self.stages[other] for other in others])
        if stage.steps or any(name == other.rehearse for other in self.stages.values()):
            self._check_batch(name, stage)

    def _check_reading(self, name: str, stage: StageSection, others: list[StageSection]) -> None:
        if not all(other.media for other in others):
            raise ValueError(f"stages.{name} can only mix or rehearse stages with media of their own")
        reads = [part.reads for part in [stage, *others]]
        if len(set(reads)) < len(reads):
            raise ValueError(f"stages.{name} and what it mixes or rehearses must each read other media or tasks")
        if any(self.stages[other].objective != stage.objective for other in stage.mix):
            raise ValueError(f"stages.{name} and what it mixes must have one objective")

    def _check_batch(self, name: str, stage: StageSection) -> None:
        workers, micro = self.workers.num_workers, stage.micro_batch_size or 1
        if not stage.batch_size:
            raise ValueError(f"stages.{name} needs a batch_size")
        if stage.batch_size % (workers * micro):
            of_micro = f" x micro_batch_size {micro}" if micro > 1 else ""
            told = f"stages.{name}.batch_size {stage.batch_size} does not divide by workers.num_workers {workers}"
            raise ValueError(told + of_micro)
        if (block := stage.mix_block) % workers:
            raise ValueError(f"stages.{name}.mix_block {block} does not divide by workers.num_workers {workers}")
        for other, count in block_counts(stage.mix, self.block_size(stage)).items():
            if not count:
                told = f"stages.{name}.mix: a worker's block of {self.block_size(stage)} clips has none of {other}"
                raise ValueError(f"{told}; raise mix_block or its weight")

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages.values())

    @property
    def used_stages(self) -> list[str]:
        """Stages whose data is read: those with steps, and what they mix and rehearse."""
        used = {name for name, stage in self.stages.items() if stage.steps}
        for name in list(used):
            used |= {*self.stages[name].mix, self.stages[name].rehearse} - {""}
        return [name for name in self.stages if name in used]

    def at(self, step: int) -> tuple[str, int]:
        """Stage and step within it of global step ``step`` in [0, total_steps)."""
        for name, stage in self.stages.items():
            if step < stage.steps:
                return name, step
            step -= stage.steps
        raise IndexError("past the last step")

    def clips(self, step: int) -> dict[str, int]:
        """How many clips each worker takes at global step ``step``, from which stages."""
        name, local = self.at(step)
        stage = self.stages[name]
        if stage.rehearse and local % stage.rehearse_every == stage.rehearse_every - 1:
            name = stage.rehearse
        each = self.stages[name].batch_size // self.workers.num_workers
        if not stage.mix:
            return {name: each}
        return draw(stage.mix, self.block_size(stage), f"{self.train.seed}/{name}", local * each, each)

    def block_size(self, stage: StageSection) -> int:
        """Clips of one worker in a block of a mixed stage."""
        return (stage.mix_block or stage.batch_size) // self.workers.num_workers

    def learning_rate_factor(self, step: int) -> float:
        """Factor of the peak learning rate at global step ``step``: warm-up and cosine anew in every stage."""
        name, local = self.at(step)
        stage, t = self.stages[name], self.train
        rise = min(1.0, (local + 1) / max(1, round(t.warmup * stage.steps)))
        fall = t.final_lr + (1 - t.final_lr) * 0.5 * (1 + math.cos(math.pi * local / stage.steps))
        return stage.learning_rate * rise * fall
