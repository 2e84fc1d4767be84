"""What do questions 2 … N about a video cost against the first?

    python -m benchmarks.ask_many

Tiny model on CPU. Three ways to the same answers: all N at once behind one prefill, one by one behind one prefill, and
without a memory (the video is read again for every question). Decoding the file is left out, which favours the last.
Seconds are CPU seconds of one thread, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.common import RESULTS, facts, median_ratio, rounds, write_result
from benchmarks.shapes import QUESTION_TOKENS, questions, random_model, small_config, video_pixels, video_prefix
from spacevllm.model.memory import VideoMemory, ask, prefill
from spacevllm.model.modeling import SpaceVLLM

ANSWER_TOKENS = 14  # "From 12.00s to 18.50s."
NO_END = -1  # every answer has all its tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 5, 10, 20], help="numbers of questions")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 64], help="frames of the video")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # CPU seconds of one thread are what an idle machine takes
    counts = sorted({1, *options.counts})
    result = facts() | {
        "question_tokens": QUESTION_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
        "rounds": options.rounds,
        "clock": "CPU seconds of one thread",
        "videos": [measure(frames, counts, options.rounds) for frames in options.frames],
    }
    print(write_result("ask_many", result, options.out))


def measure(frames: int, counts: list[int], repeats: int) -> dict[str, Any]:
    """One video; every way and every N runs once a round."""
    torch.manual_seed(0)
    config = small_config(frames)
    model, prefix = random_model(config, "cpu", torch.float32), video_prefix(config)
    read = partial(prefill, model, prefix, video_pixels(config, "cpu", torch.float32))
    sides: dict[str, Callable[[], Any]] = {"prefill": read}
    for n in counts:
        sides |= {f"{name} {n}": partial(way, model, read, n) for name, way in WAYS.items()}
    taken = rounds(sides, repeats, clock=time.process_time)
    memory = read()
    return {
        "frames": frames,
        "prefix_tokens": len(prefix.ids),
        "memory_bytes": memory.nbytes,
        "prefill_s": median(taken["prefill"]),
        "questions": [_row(n, taken) for n in counts],
    }


def batched(model: SpaceVLLM, read: Callable[[], VideoMemory], count: int) -> None:
    ask(model, read(), questions(count), NO_END, ANSWER_TOKENS)


def one_by_one(model: SpaceVLLM, read: Callable[[], VideoMemory], count: int) -> None:
    memory = read()
    for question in questions(count):
        ask(model, memory, [question], NO_END, ANSWER_TOKENS)


def uncached(model: SpaceVLLM, read: Callable[[], VideoMemory], count: int) -> None:
    for question in questions(count):
        ask(model, read(), [question], NO_END, ANSWER_TOKENS)


WAYS = {"batched": batched, "one_by_one": one_by_one, "uncached": uncached}


def _row(count: int, taken: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"n": count} | {f"{name}_s": median(taken[f"{name} {count}"]) for name in WAYS}
    for name in ("batched", "one_by_one"):
        own = taken[f"{name} {count}"]
        row[f"uncached_over_{name}"] = median_ratio(taken[f"uncached {count}"], own)
        if count > 1:  # the first question pays for the video
            later = [(whole - one) / (count - 1) for whole, one in zip(own, taken["batched 1"], strict=True)]
            row[f"later_question_over_first_{name}"] = median_ratio(later, taken["batched 1"])
    return row


if __name__ == "__main__":
    main()
