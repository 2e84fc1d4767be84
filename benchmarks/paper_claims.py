"""The paper's claims at small scale: one column of variants of the tiny model, the same data, steps and seeds.

    python -m benchmarks.paper_claims --data runs/demo/data --out runs/claims --seeds 3

Every variant starts from the same aligned tower (one a seed), so that what differs is the variant. Running again trains
only what is missing. Writes OUT/claims.json and prints the table of docs/paper-claims.md: mean over seeds (± half the
range). Milliseconds are CPU time of one thread from decoded frames to a tube, a question asked alone; the variants take
turns, so that other work on the machine meets all of them alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import pyarrow.parquet as pq
import torch

from benchmarks.common import facts, rounds, write_result
from pipelines import train
from pipelines.core.cluster import ray_session
from pipelines.evaluation import evaluate
from pipelines.evaluation.evaluate import EvaluateConfig
from pipelines.train.config import TrainJobConfig
from pipelines.train.data import read_instances
from spacevllm.config import load_config
from spacevllm.predictor import Predictor
from spacevllm.video.reader import sample_frames

RECIPE = Path(__file__).parents[1] / "jobs" / "configs" / "tiny.yaml"
VARIANTS: dict[str, dict[str, str]] = {
    "SpaceVLLM": {},
    "(a) boxes as text coordinates": {"space_head": "text_coordinates"},
    "(b) queries appended": {"query_layout": "appended"},
    "(c) only the second cross-attention": {"decoder_cross_attention": "frame_only"},
    "(d) learned attention": {"decoder_attention": "learned"},
    "(e) times in a list": {"time_encoding": "list"},
    "(f) caption first": {"prompt_order": "caption_first"},
}


def main() -> None:
    options = _options()
    rows: dict[str, list[dict[str, float]]] = {}
    with ray_session():
        for seed in range(options.seeds):
            start = _train(options, seed, "start", {}, _phases(align=options.align, align_motion=options.align_motion))
            for name, fields in VARIANTS.items():
                model = _train(
                    options, seed, name, fields, _phases(stills=options.stills, videos=options.videos), start
                )
                rows.setdefault(name, []).append(_score(options, seed, name, model))
                _write(options, rows)
            for name, spent in _milliseconds(options, seed).items():
                rows[name][seed]["ms a tube"] = spent
            _write(options, rows)
    print(*table(rows), sep="\n")
    print(f"\nscores: {Path(options.out, 'claims.json')}")


def table(rows: Mapping[str, list[dict[str, float]]]) -> Iterator[str]:
    """Markdown: a line a variant, a column a number, mean ± half the range over the seeds."""
    names = list(next(iter(rows.values()))[0])
    yield f"| variant | {' | '.join(names)} | seeds |"
    yield "|---|" + "---|" * (len(names) + 1)
    for variant, runs in rows.items():
        yield f"| {variant} | {' | '.join(_cell([run[name] for run in runs]) for name in names)} | {len(runs)} |"


def _cell(values: list[float]) -> str:
    digits = 3 if max(values) <= 1 else 1
    return f"{mean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"


def _phases(**steps: int) -> dict[str, Any]:
    recipe = load_config(TrainJobConfig, RECIPE, ["data=x", "out=x"])
    return {name: recipe.phases[name].model_copy(update={"steps": count}) for name, count in steps.items()}


def _train(
    options: argparse.Namespace, seed: int, name: str, fields: dict[str, str], phases: dict[str, Any], init: str = ""
) -> str:
    """The model's folder."""
    out = Path(options.out, str(seed), _slug(name))
    recipe = load_config(TrainJobConfig, RECIPE, [f"data={options.data}", f"out={out}", f"train.seed={seed}"])
    model = recipe.model.model_copy(update={"fields": fields, **({"init": init} if init else {})})
    print(f"training {out}", flush=True)
    train.run(recipe.model_copy(update={"phases": phases, "model": model}))
    return str(out / "model")


def _score(options: argparse.Namespace, seed: int, name: str, model: str) -> dict[str, float]:
    out = str(Path(options.out, str(seed), _slug(name), "scores"))
    summary = evaluate.run(EvaluateConfig(model=model, data=options.test_data or options.data, out=out))
    stvg = summary["stvg"]["dense"]
    return {
        **{metric: stvg[metric] for metric in ("m_tIoU", "m_vIoU", "vIoU@0.5", "gt_vIoU")},
        "REC acc": summary["rec"]["acc@0.5"],
        "tokens a tube": _tokens(out, model),
    }


def _tokens(out: str, model: str) -> float:
    """Written to answer an STVG question."""
    tokenizer = Predictor.load(model).processor.tokenizer
    answers = pq.read_table(f"{out}/predictions", columns=["task", "answer"]).to_pylist()
    return mean(len(tokenizer(row["answer"]).input_ids) for row in answers if row["task"] == "stvg")


def _milliseconds(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Of every variant, over one STVG question about each of some test videos."""
    torch.set_num_threads(1)
    data = options.test_data or options.data
    asked = {i.media: i for i in read_instances(data, "test") if i.task == "stvg" and i.present}
    chosen = sorted(asked.values(), key=lambda i: i.media)[: options.timed_videos]
    models = {name: Predictor.load(Path(options.out, str(seed), _slug(name), "model")) for name in VARIANTS}
    frames = models["SpaceVLLM"].num_frames
    clips = [(sample_frames(Path(data, i.media), frames), i.question) for i in chosen]

    def ask(predictor: Predictor) -> None:
        for clip, question in clips:
            predictor.ground(clip, [question])

    taken = rounds({name: partial(ask, model) for name, model in models.items()}, 3, clock=time.process_time)
    return {name: 1000 * median(seconds) / len(clips) for name, seconds in taken.items()}


def _write(options: argparse.Namespace, rows: Mapping[str, list[dict[str, float]]]) -> None:
    steps = {phase: getattr(options, phase) for phase in ("align", "align_motion", "stills", "videos")}
    write_result("claims", facts() | {"steps": steps, "variants": rows}, Path(options.out))


def _slug(name: str) -> str:
    return name.strip("()").replace(") ", "-").replace(" ", "-")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Uni-STG data set to train on")
    parser.add_argument("--test-data", default="", help="data set to score on (default: the same one's test split)")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timed-videos", type=int, default=16, help="of the test split, for milliseconds a tube")
    for phase, steps in (("align", 500), ("align-motion", 700), ("stills", 150), ("videos", 1000)):
        parser.add_argument(f"--{phase}", type=int, default=steps, help="steps of this phase")
    return parser.parse_args()


if __name__ == "__main__":
    main()
