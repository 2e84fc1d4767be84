"""Muon for devices that compute bfloat16 slowly."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


class Float32Muon(torch.optim.Muon):
    """torch's Muon (Nesterov, ``match_rms_adamw``, same state), but orthogonalising in float32: torch's own takes
    bfloat16 for that whatever it is given, a quarter of a training step where that is emulated."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group["lr"], group)

    def _update(self, matrix: Tensor, gradient: Tensor, rate: float, group: dict[str, float]) -> None:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = orthogonal(gradient.lerp(momentum, group["momentum"]), *_schulz(group))
        matrix.mul_(1 - rate * group["weight_decay"])
        matrix.add_(direction, alpha=-rate * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearest matrix whose singular values are all about 1, by Newton-Schulz iteration (Jordan et al. 2024)."""
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T  # (m, n), m <= n
    x = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T  # (m, m)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T


def _schulz(group: dict[str, float]) -> tuple[tuple[float, float, float], int, float]:
    return group["ns_coefficients"], group["ns_steps"], group["eps"]  # type: ignore[return-value]  # torch's groups
