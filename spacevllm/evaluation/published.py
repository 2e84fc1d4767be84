"""Published scores to stand beside ours, in percent. Their protocol is not stated: tenths of a point mean nothing."""

from __future__ import annotations

STVG = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")


def _row(*values: float) -> dict[str, float]:
    return dict(zip(STVG, values, strict=True))


# benchmark → group ("": the whole) → name with its source → scores
PUBLISHED: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "hcstvg_v1": {"": {"SpaceVLLM-7B (arXiv 2503.13983)": _row(56.9, 39.3, 66.6, 36.9)}},
    "hcstvg_v2": {"": {"SpaceVLLM-7B (arXiv 2503.13983)": _row(58.0, 34.0, 56.9, 24.7)}},
    "vidstg": {
        "declarative": {"SpaceVLLM-7B (arXiv 2503.13983)": _row(47.7, 27.4, 39.1, 26.2)},
        "interrogative": {"SpaceVLLM-7B (arXiv 2503.13983)": _row(48.5, 25.4, 35.9, 22.2)},
    },
}
