"""The DeepSpeed engine around a model: its settings, and the whole weights out of its shards."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.train.config import TrainJobConfig
from pipelines.train.optimizer import make_optimizer
from spacevllm.imports import no_garbage
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.precision import computes_bf16

REDUCE_BUCKET, LIVE_PARAMETERS = 10**8, 10**9  # elements; the second is DeepSpeed's default: gathered at once at ZeRO-3


def settings(config: TrainJobConfig) -> dict[str, Any]:
    """DeepSpeed's configuration. Not its bf16 mode: that would keep the box head in bf16, too. Weights that learn are
    fp32 (one copy, no other master), computed with and sent as bf16 under ``torch_autocast``."""
    workers, train = config.workers, config.train
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # only for its own printing
        "gradient_clipping": train.gradient_clipping if workers.zero_stage else 0.0,  # see Trainer._gradient_norm
        "zero_optimization": {"stage": workers.zero_stage, "reduce_bucket_size": REDUCE_BUCKET},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": train.autocast is True, "dtype": "bfloat16"},
    }
    for name, value in workers.deepspeed.items():
        ours[name] = {**ours.get(name, {}), **value} if isinstance(value, dict) else value
    return ours


def with_precision(config: TrainJobConfig) -> TrainJobConfig:
    """``train.autocast`` decided, alike on all ranks: where one is slow, all would wait. Needs a process group."""
    if config.train.autocast != "auto":
        return config
    device = torch.device("cuda" if config.workers.use_gpu else "cpu")
    fast = torch.tensor(computes_bf16(device), dtype=torch.int32, device=device)
    dist.all_reduce(fast, dist.ReduceOp.MIN)
    decided = config.train.model_copy(update={"autocast": bool(fast)})
    return config.model_copy(update={"train": decided})


def load_deepspeed(use_gpu: bool) -> Any:
    """The module; on CPU it runs on gloo and compiles nothing."""
    if not use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with no_garbage():
        import deepspeed
        import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would compile C++ for 23 s at every start
    deepspeed.logger.setLevel("WARNING")
    return deepspeed


def make_engine(config: TrainJobConfig, model: SpaceVLLM) -> Any:
    """The engine in training mode; ``model`` has gradients where something is learned. Needs a process group."""
    deepspeed = load_deepspeed(config.workers.use_gpu)
    optimizer = make_optimizer(model, config)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=settings(config), dist_init_required=False
    )
    if config.workers.zero_stage == 3 and model.mllm.separator is not None:
        # read by SpaceVLLM.forward, while its owner's forward, where DeepSpeed would gather it, is never called
        deepspeed.zero.register_external_parameter(model, model.mllm.separator)
    engine.train()
    return engine


def whole_state(engine: Any) -> dict[str, Tensor]:
    """Every weight, on the CPU of rank 0; empty on the others. All ranks call it together."""
    import deepspeed

    state: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        shards = [parameter] if hasattr(parameter, "ds_id") else []
        with deepspeed.zero.GatheredParameters(shards, enabled=bool(shards)), torch.no_grad():
            if dist.get_rank() == 0:
                state[name] = parameter.detach().to("cpu", copy=True)
    return state
