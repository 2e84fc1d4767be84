"""How fast is the model at 7B shape on a GPU, and how much of the card's peak is that?

    python -m benchmarks.gpu                  # one CUDA card; random weights in bf16
    python -m benchmarks.gpu --shape tiny     # the same code on CPU, in seconds

Needs torch, transformers and this checkout, nothing else of the project's dependencies. Model FLOPs are those of the
mathematics (matrix products and attention; what checkpointing computes twice counts once), MFU their share of the
card's dense bf16 peak; null for a card that is not in ``PEAKS``.
"""

from __future__ import annotations

import argparse
import gc
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import RESULTS, facts, rounds, seconds, write_result
from benchmarks.shapes import (
    CAPTION,
    QUESTION_TOKENS,
    SHAPES,
    questions,
    random_model,
    training_row,
    video_pixels,
    video_prefix,
)
from spacevllm.model.batch import Batch
from spacevllm.model.flops import FlopsModel, Work
from spacevllm.model.memory import VideoMemory, ask, prefill
from spacevllm.model.modeling import GroundingOutput, SpaceVLLM

# dense bf16 TFLOP/s of the makers' data sheets; the longest name that fits counts
PEAKS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H800": 989,
    "H20": 148,
    "A100": 312,
    "A800": 312,
    "A40": 149.7,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165.2,
}
DTYPE = torch.bfloat16
NO_END = -1
TRAINED_QUESTIONS, ANSWER_TOKENS = 4, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 64], help="questions asked at once")
    parser.add_argument("--new-tokens", type=int, default=64, help="of each answer, where decoding is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and options.shape != "tiny":
        sys.exit("no CUDA device here: nothing is measured (--shape tiny runs on CPU)")
    bench = Bench(options.shape, device, options.rounds)
    stages = [bench.prefill()]
    stages += [stage for count in options.counts for stage in bench.ask(count, options.new_tokens)]
    stages += [bench.space_decoder(), *bench.train()]
    result = facts(device) | {"shape": options.shape, "dtype": "bfloat16", "prefix_tokens": len(bench.prefix.ids)}
    result |= {"memory_bytes": bench.memory.nbytes, "peak_tflops": peak_tflops(device), "stages": stages}
    print(write_result("gpu" if device == "cuda" else "gpu-tiny-cpu", result, options.out))


def peak_tflops(device: str) -> float | None:
    """Of the card in use, by its name; None for one that is not known."""
    return named_peak(torch.cuda.get_device_name()) if device == "cuda" else None


def named_peak(name: str) -> float | None:
    known = sorted(PEAKS, key=len, reverse=True)
    return next((PEAKS[card] for card in known if re.search(rf"\b{card}\b", name)), None)


class Bench:
    """A model with random weights and one video that it has read."""

    def __init__(self, shape: str, device: str, repeats: int) -> None:
        self.device, self.repeats, self.config = device, repeats, SHAPES[shape]()
        torch.manual_seed(0)
        self.model: SpaceVLLM = random_model(self.config, device, DTYPE)
        self.flops = FlopsModel(self.config)
        self.prefix, self.pixels = video_prefix(self.config), video_pixels(self.config, device, DTYPE)
        self.memory: VideoMemory = self._read()

    def prefill(self) -> dict[str, Any]:
        """Tower, projector and language model over one video, once."""
        flops = self._flops(len(self.prefix.ids), frames=self.config.num_frames)
        return self._stage("prefill", self._read, flops, frames=self.config.num_frames)

    def ask(self, count: int, new_tokens: int) -> Iterator[dict[str, Any]]:
        """Questions in one pass, their boxes included; then the decoding of their answers, token by token."""
        asked = questions(count)
        write = partial(ask, self.model, self.memory, asked, NO_END)
        with self._peak() as peak:
            taken = rounds(
                {"first": partial(write, 1), "whole": partial(write, 1 + new_tokens)}, self.repeats, self.device
            )
        first = median(taken["first"])
        flops = count * (self._flops(QUESTION_TOKENS, len(self.prefix.ids), answers=1) + self._box_flops())
        yield self._row("ask", first, flops, questions=count)
        decoding = median(whole - one for whole, one in zip(taken["whole"], taken["first"], strict=True))
        begin = len(self.prefix.ids) + QUESTION_TOKENS
        flops = count * self._flops(new_tokens, begin, answers=new_tokens)
        speed = count * new_tokens / decoding if decoding > 0 else None
        yield self._row("decode", decoding, flops, questions=count, tokens_per_s=speed, peak_bytes=peak())

    def space_decoder(self) -> dict[str, Any]:
        """All frames' boxes of one question; in fp32, so its MFU against the bf16 peak is no aim."""
        visual, query = self.memory.visual[None], self.memory.query[None]
        caption = torch.randn(1, CAPTION[1] - CAPTION[0], visual.shape[-1], device=self.device, dtype=DTYPE)
        masks = [torch.ones(x.shape[:-1], dtype=torch.bool, device=self.device) for x in (visual, caption)]

        def decode() -> None:
            with torch.inference_mode():
                self.model.decode_boxes(visual, query, caption, *masks)

        return self._stage("space_decoder", decode, self._box_flops(), questions=1)

    def train(self) -> list[dict[str, Any]]:
        """A step over one video with its questions, gradient checkpointing and AdamW; what does not fit says so.

        ``full`` trains every weight, its AdamW states in bf16. ``frozen``: gradients pass through a frozen language
        model to projector, queries and box head; LoRA's cost but for its adapters.
        """
        stages = []
        for mode in ("full", "frozen"):
            try:
                stages.append(self._train(mode))
            except torch.cuda.OutOfMemoryError:
                stages.append({"stage": "train_step", "weights": mode, "fits": False})
            self.model.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()
        return stages

    def _train(self, mode: str) -> dict[str, Any]:
        model = self.model.train()
        model.activation_checkpointing_enable()
        model.requires_grad_(mode == "full")
        for part in (model.backbone.model.multi_modal_projector, model.queries, model.space_decoder):
            part.requires_grad_(True)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=self.device == "cuda")
        batch = training_row(self.config, TRAINED_QUESTIONS, ANSWER_TOKENS, self.device, DTYPE)

        def step() -> None:
            loss_of(model(batch), batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        parts = ("tower", "projector", "llm") if mode == "full" else ("projector",)
        work = self.flops.work(batch)
        flops = FlopsModel(self.config, parts).training(work) + 3 * TRAINED_QUESTIONS * self._box_flops()
        return self._stage("train_step", step, flops, weights=mode, fits=True, questions=TRAINED_QUESTIONS)

    def _flops(self, tokens: int, behind: int = 0, frames: int = 0, answers: int = 0) -> float:
        """Of ``tokens`` in a row behind ``behind`` others, causal."""
        pairs = tokens * behind + tokens * (tokens + 1) // 2
        patches = self.pixels.grids.prod(1)[:frames]  # (frames,)
        cells = len(patches) * math.prod(self.prefix.grid)
        work = Work(int(patches.sum()), int((patches**2).sum()), cells, tokens, pairs, answers)
        return sum(self.flops.forward(work).values())

    def _box_flops(self) -> float:
        """The space decoder without learned projections, one question: two attentions and the MLP, every frame."""
        frames, cells, width = self.config.num_frames, math.prod(self.prefix.grid), self.config.text.hidden_size
        mlp = sum(p.weight.numel() for p in self.model.space_decoder.box_head.modules() if isinstance(p, nn.Linear))
        attention = 4 * cells * (CAPTION[1] - CAPTION[0] + 1) * width
        return float(frames * self.config.decoder_layers * (attention + 2 * mlp))

    def _read(self) -> VideoMemory:
        return prefill(self.model, self.prefix, self.pixels)

    def _stage(self, name: str, run: Callable[[], Any], flops: float, **more: Any) -> dict[str, Any]:
        run()
        with self._peak() as peak:
            taken = [seconds(run, self.device) for _ in range(self.repeats)]
        return self._row(name, median(taken), flops, **more, peak_bytes=peak())

    def _row(self, name: str, taken: float, flops: float, **more: Any) -> dict[str, Any]:
        peak = peak_tflops(self.device)
        mfu = flops / taken / peak / 1e12 if peak and taken > 0 else None
        return {"stage": name, **more, "seconds": taken, "model_tflop": flops / 1e12, "mfu": mfu}

    @contextmanager
    def _peak(self) -> Iterator[Callable[[], int | None]]:
        """The most bytes of tensors on the device, weights included; None on CPU."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() if self.device == "cuda" else None


def loss_of(output: GroundingOutput, batch: Batch) -> torch.Tensor:
    """The paper's terms in short: words and boxes."""
    return F.cross_entropy(output.logits, output.labels) + F.l1_loss(output.space.boxes, batch.targets.boxes)


if __name__ == "__main__":
    main()
