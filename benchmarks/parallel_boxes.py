"""A tube from queries (all boxes at once) against the same tube written as text, one box a frame.

    python -m benchmarks.parallel_boxes

A model of random weights, the tiny recipe's sizes on CPU, one question about one video. The tube covers ``share`` of
the frames, and each of its boxes costs BOX_TOKENS as text; queries give every frame's box whatever the span. What the
boxes are worth is another table: docs/paper-claims.md. Seconds are CPU seconds of one thread, which other work on the
machine changes little.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.ask_many import ANSWER_TOKENS, NO_END
from benchmarks.common import RESULTS, facts, median_ratio, rounds, write_result
from benchmarks.shapes import questions, random_model, small_config, video_pixels, video_prefix
from spacevllm.model.memory import VideoMemory, ask, prefill
from spacevllm.model.modeling import SpaceVLLM

BOX_TOKENS = 13  # "[12,30,45,67]", a token for every digit and sign


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32, 64], help="frames of the video")
    parser.add_argument("--share", type=float, default=0.5, help="of the frames that the tube covers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # CPU seconds of one thread are what an idle machine takes
    result = facts() | {
        "answer_tokens": ANSWER_TOKENS,
        "box_tokens": BOX_TOKENS,
        "share": options.share,
        "rounds": options.rounds,
        "clock": "CPU seconds of one thread",
        "videos": [measure(frames, options.share, options.rounds) for frames in options.frames],
    }
    print(write_result("parallel_boxes", result, options.out))


def measure(frames: int, share: float, repeats: int) -> dict[str, Any]:
    """One video; both models read it and answer once a round."""
    torch.manual_seed(0)
    config = small_config(frames)
    model, pixels = random_model(config, "cpu", torch.float32), video_pixels(config, "cpu", torch.float32)
    read = partial(prefill, model, video_prefix(config), pixels)
    memory = read()
    tokens = {"queries": ANSWER_TOKENS, "text": ANSWER_TOKENS + BOX_TOKENS * max(1, round(share * frames))}
    without = VideoMemory(memory.layers, memory.visual, memory.query[:0], memory.next_position)
    taken = rounds(
        {
            "prefill": read,
            "queries": partial(answer, model, memory, tokens["queries"]),
            "text": partial(answer, model, without, tokens["text"]),
        },
        repeats,
        clock=time.process_time,
    )
    whole = {name: [sum(pair) for pair in zip(taken["prefill"], taken[name], strict=True)] for name in tokens}
    return {
        "frames": frames,
        "prefill_s": median(taken["prefill"]),
        "tokens": tokens,
        "answer_s": {name: median(taken[name]) for name in tokens},
        "text_over_queries_answer": median_ratio(taken["text"], taken["queries"]),
        "text_over_queries_with_prefill": median_ratio(whole["text"], whole["queries"]),
    }


def answer(model: SpaceVLLM, memory: VideoMemory, tokens: int) -> None:
    """One question; boxes where the memory has queries."""
    ask(model, memory, questions(1), NO_END, tokens)


if __name__ == "__main__":
    main()
