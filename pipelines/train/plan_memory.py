"""Parameters of a model, and what a device needs to train them: exact for weights, gradients and optimiser (tested
against the engine), an estimate for activations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedConfig

from pipelines.train.config import TrainJobConfig
from pipelines.train.engine import LIVE_PARAMETERS, REDUCE_BUCKET
from pipelines.train.optimizer import part_of
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.flops import Work
from spacevllm.model.modeling import SpaceVLLM

FP32, BF16 = 4, 2  # bytes of a number

# fp32 numbers for each weight that learns
ADAMW_MEANS = 2  # of its gradients and of their squares: torch.optim.AdamW's state
ZERO_COPIES = 1  # the copy that DeepSpeed updates at ZeRO 1 to 3

# tensors that the backward pass needs, counted in the forward pass: estimates, while what is above is exact
STATES_IN_LAYER = 2  # (tokens, hidden), fp32: the state between attention and MLP, and what the norms keep
HIDDEN_INPUTS = 6  # (tokens, hidden), autocast: of the products with q, k, v, out; and queries, keys, values
MIDDLE_INPUTS = 4  # (tokens, intermediate), autocast: gate, its activation, up, and the product of the two
LOGIT_COPIES = 2  # (answers, vocabulary), fp32: the logits and their gradient
DECODER_COPIES = 6  # (cells of all frames, hidden), fp32, a question: what the space decoder makes of visual states


@dataclass(frozen=True)
class Sizes:
    """Parameters of each part: all, and those that learn."""

    total: dict[str, int]
    trained: dict[str, int]


def count_parameters(model: SpaceVLLM) -> Sizes:
    """By part; adapters count to the language model."""
    total: dict[str, int] = defaultdict(int)
    trained: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        total[part_of(name)] += parameter.numel()
        trained[part_of(name)] += parameter.numel() * parameter.requires_grad
    return Sizes(total, trained)


def memory_per_device(config: TrainJobConfig, sizes: Sizes) -> dict[str, float]:
    """Bytes of what does not depend on the batch. fp32 where something learns; what is frozen is bf16 under autocast.
    ZeRO cuts the optimiser's state from 1 on, gradients from 2 on, weights at 3."""
    zero, devices = config.workers.zero_stage, config.workers.num_workers
    trained = sum(sizes.trained.values())
    frozen = sum(sizes.total.values()) - trained
    shares = {level: devices if zero >= level else 1 for level in (1, 2, 3)}
    memory = {
        "weights": (FP32 * trained + (FP32 if config.train.autocast is False else BF16) * frozen) / shares[3],
        "gradients": FP32 * trained / shares[2],
        "optimiser": FP32 * (ADAMW_MEANS + (ZERO_COPIES if zero else 0)) * trained / shares[1],
    }
    if zero >= 2:
        memory["buckets"] = float(FP32 * REDUCE_BUCKET)
    if zero == 3:
        memory["gathered weights"] = float(FP32 * min(LIVE_PARAMETERS, trained + frozen))
    return memory


def activation_bytes(config: SpaceVLLMConfig, work: Work, job: TrainJobConfig, questions: int) -> float:
    """What the backward pass of one clip with its ``questions`` needs, roughly."""
    text = config.text
    total = _layers_bytes(job, work.tokens, text)
    if "tower" not in job.train.freeze:
        total += _layers_bytes(job, work.patches, config.vision)
    logits = LOGIT_COPIES * work.answers * text.vocab_size
    decoder = DECODER_COPIES * questions * work.cells * text.hidden_size
    return total + float(FP32 * (logits + decoder))


def activations_per_device(config: SpaceVLLMConfig, job: TrainJobConfig, works: Mapping[str, Work]) -> float:
    """Bytes of the largest micro-batch, roughly; ``works`` are of one clip of each source that has any."""
    of_source = []
    for name, work in works.items():
        source = job.sources[name]
        clips = source.micro_batch_size or job.schedule.most_clips(name)
        of_source.append(clips * activation_bytes(config, work, job, source.questions))
    return max(of_source, default=0.0)


def _layers_bytes(job: TrainJobConfig, tokens: int, part: PreTrainedConfig) -> float:
    """The fp32 state between layers, and what is kept inside a layer: of all, or with gradient checkpointing of one."""
    width = FP32 if job.train.autocast is False else BF16
    products = width * (HIDDEN_INPUTS * part.hidden_size + MIDDLE_INPUTS * part.intermediate_size)
    inside = FP32 * STATES_IN_LAYER * part.hidden_size + products
    layers = 1 if job.train.gradient_checkpointing else part.num_hidden_layers
    return float(tokens * (FP32 * part.hidden_size * part.num_hidden_layers + layers * inside))
