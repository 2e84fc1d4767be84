"""What do Ray and DeepSpeed cost a training step, against a bare torch loop on the same clips, model and optimiser?

    python -m benchmarks.train_overhead --data runs/demo/data

One worker of one thread against one process of one thread: the tiny recipe's videos. Both collate, run forward and
backward and step; the bare loop has its clips in memory, the job takes them from Ray Data, reports to Ray's controller
and saves one checkpoint. Sides alternate, and of each only its fastest block of steps counts: other work on the machine
can only slow them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.common import RESULTS, facts, write_result
from jobs.common import CONFIGS
from pipelines import train
from pipelines.core import storage
from pipelines.core.cluster import ray_session
from pipelines.train.config import TrainJobConfig
from pipelines.train.data import COLUMNS, attach_questions, clip_samples, decode_clips, group_questions, read_instances
from pipelines.train.model import choose_trained, prepare_model
from pipelines.train.optimizer import make_optimizer
from pipelines.train.phases import Phase
from spacevllm.config import load_config
from spacevllm.model.collate import ClipSample, Collator
from spacevllm.model.criterion import Criterion

BLOCK = 10  # steps that are timed together, and reported by one log line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Uni-STG data set of Moving Shapes")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {"bare torch": [], "ray + deepspeed": []}
    waiting: list[float] = []
    with ray_session(), tempfile.TemporaryDirectory() as folder:
        batches = clips(recipe(options.data, folder, options.steps), options.steps)
        for number in range(options.rounds):
            job = recipe(options.data, f"{folder}/{number}", options.steps)
            seconds["bare torch"].append(bare(job, batches))
            step_s, wait = with_ray(job)
            seconds["ray + deepspeed"].append(step_s)
            waiting.append(wait)
    result = facts() | {
        "steps": options.steps,
        "block": BLOCK,
        "seconds_per_step": {name: [round(value, 4) for value in values] for name, values in seconds.items()},
        "data_wait_share": round(median(waiting), 4),
        "overhead": round(min(seconds["ray + deepspeed"]) / min(seconds["bare torch"]), 3),
    }
    print(write_result("train_overhead", result, options.out))


def recipe(data: str, out: str, steps: int) -> TrainJobConfig:
    """The tiny recipe's videos alone."""
    tiny = load_config(TrainJobConfig, CONFIGS / "tiny.yaml", [f"data={data}", f"out={out}", "tracking.enabled=false"])
    videos = Phase(sources={"videos": 1.0}, steps=steps, batch_size=4)
    return tiny.model_copy(
        update={
            "phases": {"videos": videos},
            "workers": tiny.workers.model_copy(update={"num_workers": 1}),
            "train": tiny.train.model_copy(update={"log_every": BLOCK, "checkpoint_every": steps}),
        }
    )


def clips(job: TrainJobConfig, steps: int) -> list[list[ClipSample]]:
    """As many batches as there are steps, in memory."""
    instances, source = read_instances(job.data, "train"), job.sources["videos"]
    size = job.phases["videos"].batch_size
    _, processor = prepare_model(job, instances)
    decoded, _ = decode_clips(job, processor.config.num_frames, processor.layout.frame_size)
    files = sorted(uri for uri in storage.find(storage.join(decoded, "frames")) if uri.endswith(".parquet"))
    questions = group_questions(instances, source)
    found: list[list[ClipSample]] = []
    for uri in files:
        table = attach_questions(storage.read_table(uri, COLUMNS), questions)
        for start in range(0, table.num_rows - size + 1, size):
            rows = table.slice(start, size).to_pydict()
            found.append(clip_samples(rows, source, f"0/{len(found)}"))
    return [found[i % len(found)] for i in range(steps)]


def bare(job: TrainJobConfig, batches: list[list[ClipSample]]) -> float:
    """Seconds of a step, in the fastest block."""
    torch.manual_seed(job.train.seed)
    make_model, processor = prepare_model(job, read_instances(job.data, "train"))
    model = choose_trained(make_model(), job).train()
    optimizer, criterion = make_optimizer(model, job), Criterion(job.criterion)
    collate, pointer = Collator(processor, job.criterion.time_weight), job.criterion.pointer > 0
    taken = []
    for step, samples in enumerate(batches):
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * job.schedule.learning_rate_factor(step)
        batch = collate(samples)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(batch, pointer=pointer)
        criterion(output, batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.train.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.perf_counter() - started)
    return min(mean(taken[i : i + BLOCK]) for i in range(BLOCK, len(taken), BLOCK))  # the first one warms up


def with_ray(job: TrainJobConfig) -> tuple[float, float]:
    """Seconds of a step in the fastest block but the first, and the median share of time spent waiting for data."""
    train.run(job)
    lines = Path(job.out, "metrics.jsonl").read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines][1:]
    return min(1 / row["steps_per_s"] for row in rows), median(row["data_wait_share"] for row in rows)


if __name__ == "__main__":
    main()
