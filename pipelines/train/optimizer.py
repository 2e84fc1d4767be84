"""AdamW, or Muon for the hidden matrices with AdamW for the rest, as one optimiser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipelines.train.config import Part, TrainJobConfig
from pipelines.train.muon import Float32Muon
from spacevllm.model.backbones import FAMILIES

_PREFIXES: tuple[tuple[str, Part], ...] = (
    *((f"backbone.{prefix}", "projector") for family in FAMILIES.values() for prefix in family.projector),
    *((f"backbone.{prefix}", "tower") for family in FAMILIES.values() for prefix in family.tower),
    ("queries.", "queries"),
    ("space_decoder.", "decoder"),
    ("presence_head.", "presence"),
)


def part_of(name: str) -> Part:
    """The part that a parameter of ``SpaceVLLM`` belongs to, adapters included."""
    return next((part for prefix, part in _PREFIXES if name.startswith(prefix)), "llm")


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW behind one face; groups say which by ``muon``.

    Muon (Jordan et al. 2024) orthogonalises the momentum of every weight matrix; from random weights the tiny model
    needs about 0.6 of AdamW's steps (docs/decisions.md). Its learning rate is scaled to AdamW's update size.

    Args:
        bf16: orthogonalise in bfloat16, as torch does; else in float32.
    """

    def __init__(self, groups: list[dict[str, Any]], beta2: float, bf16: bool = False) -> None:
        super().__init__(groups, {})
        plain = [group for group in self.param_groups if not group["muon"]]
        matrices = [group for group in self.param_groups if group["muon"]]
        # both parts hold the very same group dictionaries: a learning rate set here is set there
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(plain, betas=(0.9, beta2))]
        if matrices:
            muon = torch.optim.Muon if bf16 else Float32Muon
            self.parts.append(muon(matrices, adjust_lr_fn="match_rms_adamw"))

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:  # an align phase does not touch the language model, but DeepSpeed's
                if parameter.grad is not None and not parameter.grad.any():  # all-reduce gives it zeros: cost, decay
                    parameter.grad = None
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def make_optimizer(model: nn.Module, config: TrainJobConfig) -> torch.optim.Optimizer:
    """The configured optimiser over ``parameter_groups``."""
    groups, beta2 = parameter_groups(model, config), config.train.adam_beta2
    if config.train.optimizer == "muon":
        return MuonAdamW(groups, beta2, bf16=config.train.autocast is True)  # alike on all ranks, as ``autocast`` is
    return torch.optim.AdamW(groups, betas=(0.9, beta2))


def parameter_groups(model: nn.Module, config: TrainJobConfig) -> list[dict[str, Any]]:
    """What is trained, one group a part of the model, each with its own rate. With Muon the matrices of tower,
    projector and language model, but for the embeddings, are groups of their own."""
    t = config.train
    groups: dict[tuple[Part, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            muon = t.optimizer == "muon" and _is_hidden_matrix(name, parameter)
            groups[part_of(name), muon].append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": t.weight_decay, "muon": muon, "part": part}
        for (part, muon), parameters in groups.items()
        for rate in [t.rate(part) * (t.muon_lr_scale if muon else 1.0)]
    ]


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name and part_of(name) in ("tower", "projector", "llm")
