"""What does the driver of ``ground`` need for a large archive, before any video is read?

    python -m benchmarks.archive --rows 1000000

A synthetic manifest and, of every (video, question), a row in OUT; no video, no model, no Ray. ``start``: nothing is
done yet, all work is planned and written for the workers. ``idle``: ``ground`` itself, where all is done. Each in a
process of its own, whose largest resident size counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

FILE_ROWS = 100_000  # of a compacted table: boxes included some 100 MB


class Nobody:
    """Stands for a model that nobody asks."""

    num_frames, image_size = 64, 384
    model_id, digest = "nobody", "0123456789abcdef"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="(video, question) pairs")
    parser.add_argument("--questions", type=int, default=10, help="asked of every video")
    parser.add_argument("--file-rows", type=int, default=FILE_ROWS, help="rows in a file of OUT/tubes")
    parser.add_argument("--folder", type=Path, help="where the synthetic archive is made")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(_measured(PARTS[options.part], options)))
        return
    from benchmarks.common import facts, write_result  # torch, which no driver needs

    result = facts() | {"questions": options.questions, "file_rows": options.file_rows, "archives": []}
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            arguments = ["--rows", str(rows), "--questions", str(options.questions), "--folder", folder]
            arguments += ["--file-rows", str(options.file_rows)]
            taken = {part: _child(part, arguments) for part in ("imports", "list", "start", "fill", "idle")}
        result["archives"].append({"rows": rows, **taken})
    print(write_result("archive", result, options.out))


def _child(part: str, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.archive", "--part", part, *arguments]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    taken: dict[str, Any] = json.loads(told.splitlines()[-1])
    return taken


def _measured(part: Callable[[argparse.Namespace], dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """What ``part`` tells, and what this process needed for it (its imports are in the memory, not in the seconds)."""
    import pipelines.archive.ground  # noqa: F401

    started, cpu = time.perf_counter(), time.process_time()
    told = part(options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return {**{name: round(value, 1) for name, value in seconds.items()}, "peak_rss_mb": peak, **told}


def _imports(options: argparse.Namespace) -> dict[str, Any]:
    return {}


def _list(options: argparse.Namespace) -> dict[str, Any]:
    """Makes the manifest, as ``spacevllm list`` writes it."""
    from pipelines.core import storage

    count = options.rows[0] // options.questions
    random = np.random.default_rng(0)
    table = {
        "video": [f"s3://bucket/archive/{n % 997:03d}/video-{n:08d}.mp4" for n in range(count)],
        "listed_version": [random.bytes(16).hex() for _ in range(count)],
        "listed_size": random.integers(1 << 20, 1 << 30, count),
    }
    return {"manifest_mb": storage.write_table(_manifest(options), pa.table(table)) >> 20}


def _start(options: argparse.Namespace) -> dict[str, Any]:
    """All that comes before the first video is read."""
    from pipelines.archive.tubes import results_of
    from pipelines.core.failures import again

    with _planned(options) as plan:
        plan.find_missing(results_of(_out(options), "nobody"), again("transient"))
        with plan.spread(_out(options)) as work:
            size = sum(file.stat().st_size for file in Path(_out(options)).glob(".plan/*.parquet"))
            return {"videos": work.num_rows, "work_mb": size >> 20}


def _fill(options: argparse.Namespace) -> dict[str, Any]:
    """Makes OUT/tubes, where every question is answered."""
    from pipelines.archive.tubes import results_of
    from pipelines.archive.work import generation_of
    from pipelines.core.delta import Log

    results = results_of(_out(options), generation_of(_model(options), "auto"))
    with _planned(options) as plan:
        files = [results.write(table) for table in _answers(plan, options.file_rows)]
    Log(results.folder).commit(files)
    return {"files": len(files)}


def _idle(options: argparse.Namespace) -> dict[str, Any]:
    from pipelines.archive.ground import run
    from pipelines.core.delta import Log

    summary = run(_config(options), lambda path, device: Nobody())
    files = len(Log(f"{_out(options)}/tubes").files())
    return {"files": files, **{name: summary[name] for name in ("in", "ok", "failed", "new", "videos")}}


def _answers(plan: Any, file_rows: int) -> Iterator[pa.Table]:
    query = """SELECT printf('%016x', p.id) AS id, uri AS video, text AS question, 'ok' AS status, '' AS error,
        printf('%016x', fingerprint) AS fingerprint FROM pairs p JOIN media USING (m) JOIN texts USING (q)"""
    reader = plan.database.sql(query).to_arrow_reader(file_rows)
    return (pa.Table.from_batches([batch]) for batch in reader)


@contextmanager
def _planned(options: argparse.Namespace) -> Iterator[Any]:
    from pipelines.archive.plan import open_plan
    from pipelines.archive.questions import read_questions
    from pipelines.media.manifest import list_videos

    config = _config(options)
    with open_plan() as plan:
        plan.ask(list_videos(config.videos), read_questions(config.question, None))
        plan.mark(_model(options), config.windows)
        yield plan


def _model(options: argparse.Namespace) -> Any:
    from pipelines.archive.predict import describe

    return describe("nobody", lambda path, device: Nobody())


def _config(options: argparse.Namespace) -> Any:
    from pipelines.archive.ground import GroundConfig
    from pipelines.core.tracking import TrackingConfig

    asked = tuple(f"the person in red number {n} while it opens the door" for n in range(options.questions))
    shared: dict[str, Any] = {"model": "nobody", "videos": _manifest(options), "question": asked, "out": _out(options)}
    return GroundConfig(**shared, tracking=TrackingConfig(enabled=False))


def _manifest(options: argparse.Namespace) -> str:
    return str(options.folder / "archive.parquet")


def _out(options: argparse.Namespace) -> str:
    return str(options.folder / "out")


PARTS = {"imports": _imports, "list": _list, "start": _start, "fill": _fill, "idle": _idle}


if __name__ == "__main__":
    main()
