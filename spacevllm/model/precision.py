"""Which precision a device is fast in."""

from __future__ import annotations

import torch


def computes_bf16(device: torch.device | str) -> bool:
    """Whether products in bfloat16 are the device's own. Elsewhere they are emulated: torch 2.13 takes eight times as
    long for them as for float32 on an x86 CPU without AVX512-BF16 and AMX (torch before 2.13 does not tell)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(there is True for name, there in capabilities.items() if "bf16" in name)
