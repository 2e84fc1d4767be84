"""Published scores to stand beside ours, in percent, each with where it stands. What is not certain is left out.

Their protocol is mostly not stated, so tenths of a point mean nothing. Tables of EgoSchema's public 500, and of most of
TempCompass, were found as pictures or for other splits only: they are not here.
"""

from __future__ import annotations

STVG = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")

OURS = "SpaceVLLM-7B (arXiv 2503.13983)"  # what this project implements
TA_STVG = "TA-STVG (arXiv 2502.11168)"
STVG_O1 = "STVG-o1, Qwen2.5-VL-7B and GRPO (arXiv 2511.21375)"
SCANFOCUS = "ScanFocus (2026)"
VIDEO_LLAVA = "Video-LLaVA-7B (github.com/llyx97/TempCompass)"
VIDEOMIND = "VideoMind-7B, zero-shot (github.com/yeliudev/VideoMind)"
QWEN_VL = "Qwen-VL-7B (github.com/QwenLM/Qwen-VL)"
ONE_PEACE = "ONE-PEACE (github.com/QwenLM/Qwen-VL)"
UNINEXT = "UNINEXT-H (github.com/QwenLM/Qwen-VL)"


def _row(*values: float) -> dict[str, float]:
    return dict(zip(STVG, values, strict=True))


def _rec(**accuracy: float) -> dict[str, dict[str, dict[str, float]]]:
    names = {"qwen_vl": QWEN_VL, "one_peace": ONE_PEACE, "uninext": UNINEXT}
    return {"": {names[key]: {"acc@0.5": value} for key, value in accuracy.items()}}


# benchmark → group ("": the whole) → name with its source → scores, for the split that ``BENCHMARKS`` reports
PUBLISHED: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "hcstvg_v1": {
        "": {
            OURS: _row(56.9, 39.3, 66.6, 36.9),
            TA_STVG: _row(53.0, 39.1, 63.1, 36.8),
            STVG_O1: _row(60.3, 44.1, 73.3, 43.5),
            SCANFOCUS: _row(55.5, 41.8, 67.5, 42.2),
        }
    },
    "hcstvg_v2": {
        "": {
            OURS: _row(58.0, 34.0, 56.9, 24.7),
            TA_STVG: _row(60.4, 40.2, 65.8, 36.7),
            STVG_O1: _row(63.8, 41.2, 68.5, 39.6),
            SCANFOCUS: _row(62.4, 41.7, 68.4, 39.3),
        }
    },
    "vidstg": {
        "declarative": {
            OURS: _row(47.7, 27.4, 39.1, 26.2),
            TA_STVG: _row(51.7, 34.4, 48.2, 33.5),
            STVG_O1: _row(52.1, 33.5, 48.4, 32.0),
            SCANFOCUS: _row(53.3, 36.5, 50.6, 36.0),
        },
        "interrogative": {
            OURS: _row(48.5, 25.4, 35.9, 22.2),
            TA_STVG: _row(50.2, 29.5, 41.5, 28.0),
            STVG_O1: _row(50.5, 27.9, 39.8, 26.0),
            SCANFOCUS: _row(51.4, 30.7, 42.5, 29.4),
        },
    },
    "charades_sta": {"": {VIDEOMIND: {"R1@0.5": 59.1, "R1@0.7": 31.2, "mIoU": 50.2}}},
    "refcoco": _rec(qwen_vl=92.26, one_peace=94.18, uninext=94.33),  # testA
    "refcoco+": _rec(qwen_vl=88.25, one_peace=92.21, uninext=89.63),  # testA
    "refcocog": _rec(qwen_vl=85.48, one_peace=89.27, uninext=89.37),  # test, umd
    "mvbench": {"": {VIDEOMIND: {"accuracy": 64.6}}},
    "tempcompass": {"multi-choice": {VIDEO_LLAVA: {"accuracy": 44.7}}},
    "video_mme": {"": {VIDEOMIND: {"accuracy": 58.2}}, "long": {VIDEOMIND: {"accuracy": 49.2}}},  # without subtitles
}
