"""The ``spacevllm`` command: one subcommand for each job, nothing but words here.

Options name what a run reads and writes; everything else is configuration, set by ``section.key=value`` after the
options. Heavy libraries are imported inside the commands, so that ``--help`` answers at once.

Exit status: 0 done · 1 a bug · 2 something to correct in the command, a file or a configuration · 130 interrupted ·
3 done, but some rows failed (ground, check-media) or some benchmarks (evaluate).
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer.main import get_command

from jobs import archive_commands as archive
from jobs.errors import OK, explain
from jobs.options import Config, Data, DryRun, Env, Model, Out, Overrides

app = typer.Typer(
    name="spacevllm",
    help="Spatio-temporal video grounding: when and where, in whole video archives.",
    epilog="Configuration keys come after the options: train.learning_rate=1e-4",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich alone takes half a second to import
)


@app.command("moving-shapes")
def moving_shapes(
    out: Out,
    num_videos: Annotated[int, typer.Option(help="Videos to make, held-out ones included.", min=2)] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same annotations.", min=0)] = 0,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Make a small video world with its annotations.

    MP4 files of moving shapes, questions and answers, and the same as a Uni-STG data set.
    """
    from jobs.moving_shapes import run

    return run(out, num_videos, seed, overrides or [], dry_run)


@app.command()
def convert(
    source: Annotated[str, typer.Option(help="Which form they have: vidstg, refcoco, cvat, ...", metavar="NAME")],
    annotations: Annotated[str, typer.Option(help="Annotations as published, or your own.", metavar="FILE|DIR")],
    out: Out,
    split: Annotated[str, typer.Option(help="train, val or test; default: as the file's name says.")] = "",
    media_root: Annotated[str, typer.Option(help="Put before the media's names.", metavar="PREFIX")] = "media",
    boxes: Annotated[str, typer.Option(help="VidOR's annotation folder, for vidstg.", metavar="DIR")] = "",
    instances: Annotated[str, typer.Option(help="COCO's instances.json, for refcoco.", metavar="FILE")] = "",
    durations: Annotated[str, typer.Option(help="charades.json, for charades_sta.", metavar="FILE")] = "",
    questions: Annotated[str, typer.Option(help="CSV of questions about tracks.", metavar="FILE")] = "",
    fps: Annotated[str, typer.Option(help="Frames a second, where annotations do not say: 30000/1001.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the counts as one line of JSON.")] = False,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Bring annotations of many kinds into one form.

    Every row that cannot be used is in OUT/dropped.jsonl with its reason.
    """
    from jobs.convert import run

    options = {"source": source, "annotations": annotations, "out": out, "split": split, "media_root": media_root}
    options |= {"boxes": boxes, "instances": instances, "durations": durations, "questions": questions, "fps": fps}
    return run(options, json, overrides or [], dry_run)


@app.command("build-unistg")
def build_unistg(
    data: Annotated[str, typer.Option(help="Folder whose annotations/ hold records.", metavar="DIR")] = "",
    config: Annotated[str, typer.Option(help="Or a file that names sources and synthesis.", metavar="FILE")] = "",
    out: Annotated[str, typer.Option(help="Folder or URI of results; --config may say so.", metavar="DIR")] = "",
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Turn annotations into Uni-STG Parquet shards.

    From a folder of records, or, with --config, from published annotation files: converted, synthesised, checked,
    shuffled. OUT/data_card.html tells what is in it.
    """
    from jobs.build_unistg import run

    return run(config, data, out, overrides or [], dry_run)


@app.command()
def synthesize(
    config: Config,
    data: Annotated[str, typer.Option(help="Folder whose annotations/ hold captions (vtg records).", metavar="DIR")],
    out: Out,
    against: Annotated[str, typer.Option(help="Output of another run, to list what differs.", metavar="DIR")] = "",
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Make STVG records from captioned videos.

    Analyzer, annotator, refiner, filter. OUT/annotations is what build-unistg reads, OUT/stages says why samples went.
    """
    from jobs.synthesize import run

    return run(config, data, out, overrides or [], dry_run, against)


@app.command("check-media")
def check_media(data: Data, out: Out, overrides: Overrides = None, dry_run: DryRun = False) -> int:
    """Look at every video and image of a data set.

    Is it there, does it decode, is it as annotated? Exit status 3: not all are; each of them says why.
    """
    from jobs.check_media import run

    return run(data, out, overrides or [], dry_run)


@app.command()
def init(
    backbone: Annotated[str, typer.Option(help="Folder of a Qwen3-VL or LLaVA-OneVision, as it is.", metavar="DIR")],
    out: Annotated[str, typer.Option(help="Folder for the result; must not be there yet.", metavar="DIR")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Make a SpaceVLLM of a backbone's trained weights.

    OUT is what training takes as model.init; its queries and space decoder are untrained.
    """
    from jobs.init import run

    return run(backbone, out, overrides or [], dry_run)


@app.command("import-llava-video")
def import_llava_video(
    source: Annotated[str, typer.Argument(help="Folder of the checkpoint, as downloaded.", metavar="SRC")],
    out: Annotated[str, typer.Argument(help="Folder for the result; must not be there yet.", metavar="OUT")],
    dry_run: DryRun = False,
) -> int:
    """Convert LLaVA-Video-7B-Qwen2's weights to start from, as `init` does with others."""
    from jobs.import_llava_video import run

    return run(source, out, dry_run)


@app.command()
def train(config: Config, data: Data, out: Out, overrides: Overrides = None, dry_run: DryRun = False) -> int:
    """Train a model.

    OUT/model is what the other jobs take as --model. After a kill, the same command continues.
    """
    from jobs.train import run

    return run(config, data, out, overrides or [], dry_run)


@app.command()
def evaluate(
    model: Model,
    out: Out,
    data: Annotated[str, typer.Option(help="Uni-STG data set: the folder that holds unistg/.", metavar="DIR")] = "",
    benchmark: Annotated[str, typer.Option(help="Instead: a published benchmark, or all.", metavar="NAME")] = "",
    data_root: Annotated[str, typer.Option(help="Folder that holds a folder for each benchmark.", metavar="DIR")] = "",
    limit: Annotated[int, typer.Option(help="So many of the benchmark's queries; 0: all.", min=0)] = 0,
    split: Annotated[str, typer.Option(help="Of the benchmark, if not the one that papers report.")] = "",
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Score a model on held-out questions or a benchmark.

    OUT/summary.json holds every score, beside the baselines. `--benchmark NAME --model tiny`: untrained, to try.
    """
    if bool(data) == bool(benchmark) or bool(benchmark) != bool(data_root) or (split and not benchmark):
        raise typer.BadParameter("give --data, or --benchmark with --data-root (and its --split)")
    from jobs.evaluate import run, run_benchmark

    if data:
        return run(model, data, out, overrides or [], dry_run)
    options = {"model": model, "data_root": data_root, "limit": limit, "out": out}
    return run_benchmark(options, benchmark, split, overrides or [], dry_run)


@app.command("benchmark-fixtures")
def benchmark_fixtures(
    out: Out,
    num_videos: Annotated[int, typer.Option(help="Clips (or images) of each benchmark.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Same seed, same files.", min=0)] = 0,
    dry_run: DryRun = False,
) -> int:
    """Write small stand-ins for the published benchmarks.

    Their file names and schemas with moving shapes as videos, to try `evaluate --benchmark all --data-root OUT`.
    """
    from jobs.benchmark_fixtures import FixturesConfig, run

    return run(FixturesConfig(out=out, num_videos=num_videos, seed=seed), dry_run)


@app.command()
def score(
    benchmark: Annotated[str, typer.Option(help="vidstg, hcstvg_v1, charades_sta, generic_stvg, ...", metavar="NAME")],
    annotations: Annotated[str, typer.Option(help="The benchmark's own annotation file.", metavar="FILE")],
    predictions: Annotated[str, typer.Option(help="Answers of any model, JSON lines.", metavar="FILE")],
    protocol: Annotated[str, typer.Option(help="dense, tubedetr, stcat or all.", metavar="NAME")] = "dense",
    per_query: Annotated[str, typer.Option(help="Write every query's numbers, JSON lines.", metavar="FILE")] = "",
    boxes: Annotated[str, typer.Option(help="vidstg: VidOR's annotation folder.", metavar="DIR")] = "",
    instances: Annotated[str, typer.Option(help="refcoco: COCO's instances.json.", metavar="FILE")] = "",
    durations: Annotated[str, typer.Option(help="charades_sta: charades.json.", metavar="FILE")] = "",
    split: Annotated[str, typer.Option(help="Where the file holds several, e.g. testA.", metavar="NAME")] = "",
    judge: Annotated[str, typer.Option(help="tempcompass: a server that judges captions.", metavar="URL")] = "",
    judge_model: Annotated[str, typer.Option(help="The judge's name on that server.", metavar="NAME")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Score a predictions file of any model.

    Bad lines cost their own query; each kind of them is counted and explained.
    """
    from jobs.score import run

    files = {"annotations": annotations, "predictions": predictions, "per_query": per_query}
    more = {"boxes": boxes, "instances": instances, "durations": durations, "split": split}
    more |= {"judge": judge, "judge_model": judge_model}
    return run({"benchmark": benchmark, "protocol": protocol, **files, **more}, json, overrides or [], dry_run)


for command in (archive.list_videos, archive.ground, archive.forget, archive.search):
    app.command(command.__name__.removesuffix("_videos"))(command)


@app.command()
def calibrate(
    model: Model,
    scores: Annotated[str, typer.Option(help="Output folder of evaluate, on held-out questions.", metavar="DIR")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Teach a model's confidences to say: it is not there.

    Writes MODEL/calibration.json; needs scores on a data set that also asks about what does not occur.
    """
    from jobs.calibrate import run

    return run(model, scores, overrides or [], dry_run)


@app.command()
def report(
    tubes: Annotated[str, typer.Option(help="Output folder of ground.", metavar="DIR")],
    out: Out,
    data: Annotated[str, typer.Option(help="Uni-STG data set that holds the truth, if known.", metavar="DIR")] = "",
    scores: Annotated[str, typer.Option(help="Output folder of evaluate, to show its scores.", metavar="DIR")] = "",
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Draw a grounded archive: clips and one HTML page.

    OUT/report.html needs no other file and no network.
    """
    from jobs.report import run

    return run(tubes, out, data, scores, overrides or [], dry_run)


@app.command()
def serve(
    model: Model,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    media_root: Annotated[
        str, typer.Option(help="Folder or URI below which requests may name videos; default: uploads only.")
    ] = "",
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Answer over HTTP, and on a web page.

    Runs until SIGTERM or Ctrl-C. Listens on this machine only; to others with host=… and a key in SPACEVLLM_API_KEY.
    """
    from jobs.serve import run

    return run(model, port, media_root, overrides or [], dry_run)


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    job: Annotated[str, typer.Argument(help="The job: train, evaluate, ground, ...", metavar="JOB")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard.", metavar="http://HOST:8265")],
    arguments: Annotated[list[str] | None, typer.Argument(help="The job's own options.", metavar="-- OPTIONS")] = None,
    env: Env = None,
    dry_run: DryRun = False,
) -> int:
    """Send a job to a running Ray cluster.

    Follows its log and exits with its status. What stands after -- is the job's own.
    """
    from jobs.submit import run

    return run(get_command(app).commands, job, address, arguments or [], dry_run, env or [])  # type: ignore[attr-defined]


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder for everything the demo makes.", metavar="DIR")] = "runs/demo",
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """All stages in order, on a small world.

    Running it again does only what is missing.
    """
    from jobs.demo import run

    return run(out, overrides or [], dry_run)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit status. User errors are one line on stderr."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # before Ray is imported anywhere
    try:
        return app(arguments, prog_name="spacevllm", standalone_mode=False) or OK
    except BaseException as error:
        return explain(error)


if __name__ == "__main__":
    sys.exit(main())
