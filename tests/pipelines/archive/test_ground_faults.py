"""What may happen to a long run, done to a real one. After each: every (video, question) exactly once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray.cloudpickle
import standin

from pipelines.archive.ground import GroundConfig, run
from pipelines.archive.predict import answer, describe
from pipelines.archive.tubes import visible
from pipelines.archive.work import Question, make_work
from pipelines.core import storage
from pipelines.core.delta import Log
from pipelines.core.failures import MachineFault
from pipelines.core.looks import Unreachable
from pipelines.core.progress import Progress
from pipelines.core.tracking import TrackingConfig
from pipelines.media.decode import DecodeOptions
from pipelines.media.manifest import list_videos

ray.cloudpickle.register_pickle_by_value(standin)
ROOT = Path(__file__).parents[3]
QUESTIONS = ("a dog", "a person")

pytestmark = pytest.mark.slow


@pytest.fixture
def clips(tmp_path, make_mp4):
    for i in range(8):
        make_mp4(tmp_path / "archive" / f"clip{i}.mp4", num_frames=8, shade=20 * i)
    return tmp_path / "archive"


def config(videos, tmp_path, **changes):
    values = {"model": "m", "videos": str(videos), "question": QUESTIONS, "out": str(tmp_path / "out")}
    values |= {"decode": DecodeOptions(block_rows=1, num_actors=1), "tracking": TrackingConfig(enabled=False)}
    return GroundConfig(**values | changes)


def check_each_once(out, names):
    rows = visible(str(out)).table(["video", "question"]).to_pylist()
    pairs = sorted((os.path.basename(row["video"]), row["question"]) for row in rows)
    assert pairs == sorted((name, question) for name in names for question in QUESTIONS)


def wait_for(what, seconds=240):
    """The first true value of ``what()``."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)
    return found


def own_process(title):
    """A worker of this test's own Ray session that runs ``title``, such as ``Answerer``."""
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            continue
    return None


@contextmanager
def meanwhile(act):
    """Runs ``act`` in a thread beside the block; what it raises is raised at the end."""
    raised = []

    def target():
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    yield
    thread.join()
    if raised:
        raise raised[0]


def kill(title, when):
    """Waits for ``when()``, then kills the worker."""
    wait_for(when)
    wait_for(lambda: own_process(title)).kill()


def landed(tmp_path):
    """The blocks that are done, each with when it was written."""
    table = tmp_path / "out/tubes"
    return {file.path: (table / file.path).stat().st_mtime_ns for file in Log(str(table)).files()}


def test_a_killed_predictor_actor_is_replaced(clips, tmp_path, ray_cluster):
    kept = {}

    def kill_one():
        kept.update(wait_for(lambda: len(found := landed(tmp_path)) >= 2 and found))
        kill("Answerer", lambda: True)

    with meanwhile(kill_one):
        summary = run(config(clips, tmp_path), standin.load_slow)
    assert (summary["in"], summary["ok"]) == (16, 16)
    check_each_once(tmp_path / "out", [f"clip{i}.mp4" for i in range(8)])
    again = kept.items() - landed(tmp_path).items()  # the block in its hands may be written and not yet reported
    assert 2 <= len(kept) < 8 and len(again) <= 1


def test_a_killed_decode_actor_is_replaced_and_a_hanging_decoder_costs_one_video(clips, tmp_path, ray_cluster):
    os.mkfifo(clips / "a_pipe.mp4")  # nobody ever writes to it
    names = ["a_pipe.mp4", *(f"clip{i}.mp4" for i in range(8))]
    (clips / "m.csv").write_text("video\n" + "\n".join(names))
    options = DecodeOptions(block_rows=3, num_actors=1, timeout_s=5)
    hanging = lambda: own_process("guard")  # noqa: E731  # its reader, which now waits for the pipe
    with meanwhile(lambda: kill("Decoder", hanging)):
        summary = run(config(clips / "m.csv", tmp_path, decode=options), standin.load)
    assert (summary["in"], summary["ok"], summary["errors"]) == (18, 16, {"timeout": 2})
    check_each_once(tmp_path / "out", names)


def test_a_decoder_that_eats_memory_costs_one_video(clips, tmp_path, ray_cluster, make_mp4):
    make_mp4(clips / "huge.mp4", num_frames=4, size=(3840, 2160))  # 25 MB a frame
    options = DecodeOptions(block_rows=3, num_actors=1, memory_mb=60)
    summary = run(config(clips, tmp_path, decode=options), standin.load)
    assert (summary["ok"], summary["errors"]) == (16, {"crashed": 2})
    check_each_once(tmp_path / "out", ["huge.mp4", *(f"clip{i}.mp4" for i in range(8))])


def test_a_video_that_kills_its_worker_is_tried_three_times(clips, tmp_path, ray_cluster):
    options = DecodeOptions(block_rows=3, num_actors=1)
    summary = run(config(clips, tmp_path, decode=options), standin.load_killed)
    assert (summary["in"], summary["ok"], summary["errors"]) == (16, 14, {"killed_worker": 2})
    assert summary["workers_lost"] >= 3
    check_each_once(tmp_path / "out", [f"clip{i}.mp4" for i in range(8)])
    assert run(config(clips, tmp_path, retry_failed="none"), standin.load)["new"] == 0
    assert run(config(clips, tmp_path), standin.load)["ok"] == 16  # it passes: the next run tries again


def test_a_device_that_breaks_costs_no_row(clips, tmp_path, ray_cluster):
    """It would answer everything at once with a failure, and so be the one that is always free."""
    summary = run(config(clips, tmp_path, model=str(tmp_path / "broke once")), standin.load_broken)
    assert (summary["in"], summary["ok"]) == (16, 16) and (tmp_path / "broke once").exists()
    assert sum(summary["machine_faults"].values()) == 1
    job = config(clips, tmp_path, model="for ever", out=str(tmp_path / "other"))
    with pytest.raises(MachineFault, match=r"failed 5 times in a row, take it out: RuntimeError: CUDA error"):
        run(job, standin.load_broken)
    errors = [row["error"] for row, _ in visible(str(tmp_path / "other")).rows(["error"])]
    assert len(errors) <= 2 and all(error.startswith("killed_worker") for error in errors)  # of one video at most
    summary = run(job, standin.load)
    assert (summary["in"], summary["ok"]) == (16, 16)
    check_each_once(tmp_path / "other", [f"clip{i}.mp4" for i in range(8)])


def test_a_worker_that_cannot_write_leaves_its_block_to_others(clips, tmp_path, ray_cluster):
    job, model = config(clips, tmp_path), describe("m", standin.load)
    videos = list_videos(str(clips)).to_pylist()
    work = make_work([(row, [Question(row["id"], "stvg", "a dog")]) for row in videos], model)
    (tmp_path / "out").mkdir()
    results = standin.Unconnected(str(tmp_path / "out/tubes"))
    how = (job.decode, job.predict, Progress("ground", 8, "answers", None), standin.load)
    told = answer(work, model, results, set(), *how)
    assert list(told["machine_faults"].values()) == [1]
    assert sorted(results.table(["status"])["status"].to_pylist()) == ["ok"] * 8
    (tmp_path / "out/first process").write_text("every one")
    with pytest.raises(MachineFault, match="failed 5 times in a row, take it out: cannot write: no route to host"):
        answer(work, model, results, set(), *how)


def test_a_share_that_goes_away_loses_nothing(clips, tmp_path, ray_cluster):
    (tmp_path / "m.csv").write_text("video\n" + "".join(f"{clips}/clip{i}.mp4\n" for i in range(8)))
    job = config(tmp_path / "m.csv", tmp_path)
    assert run(job, standin.load)["ok"] == 16
    clips.rename(tmp_path / "elsewhere")
    clips.mkdir()  # where it is mounted
    with pytest.raises(Unreachable, match=r"8 of 8 files cannot be looked at now.*is it mounted"):
        run(job, standin.load)
    (tmp_path / "elsewhere" / "clip1.mp4").rename(clips / "clip1.mp4")  # half of it: they are known to be missing
    gone = run(job, standin.load)
    assert (gone["ok"], gone["new"], gone["errors"]) == (2, 14, {"missing": 14})
    check_each_once(tmp_path / "out", [f"clip{i}.mp4" for i in range(8)])
    assert set(visible(str(tmp_path / "out")).table(["status"])["status"].to_pylist()) == {"ok"}
    assert run(job, standin.load)["new"] == 0
    for file in (tmp_path / "elsewhere").iterdir():
        file.rename(clips / file.name)
    assert (back := run(job, standin.load))["ok"] == 16 and back["new"] == 0


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if (mounted := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"no small disk can be mounted, often only root may: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(clips, tmp_path, ray_cluster, small_disk):
    job = config(clips, tmp_path, out=str(small_disk / "out"))
    with (small_disk / "filler").open("wb") as filler:  # leaves room for the log and some parts
        filler.write(b"x" * (188 << 10))
    with pytest.raises(storage.OutputError, match=r"^cannot write .*/tubes.*No space left on device"):
        run(job, standin.load)
    kept = Log(str(small_disk / "out" / "tubes")).files()
    assert len(kept) < 8 and not list((small_disk / "out" / "tubes").glob(".*"))  # nothing half-written
    (small_disk / "filler").unlink()
    summary = run(job, standin.load)
    assert (summary["in"], summary["ok"]) == (16, 16) and summary["new"] == 16 - 2 * len(kept)
    check_each_once(small_disk / "out", [f"clip{i}.mp4" for i in range(8)])


LOST_NODE = """
import json, sys, threading, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import ray, standin
from ray.cluster_utils import Cluster
from pipelines.archive.ground import GroundConfig, run

ray.cloudpickle.register_pickle_by_value(standin)
job = GroundConfig.model_validate_json({config!r})
small = {{"object_store_memory": 80_000_000, "include_dashboard": False}}
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 3}} | small)
worker = cluster.add_node(num_cpus=3, object_store_memory=80_000_000)
ray.init(address=cluster.address, log_to_driver=False)

lost_at = []

def lose():
    while len(list(Path(job.out, "tubes").glob("*.parquet"))) < 2:
        time.sleep(0.02)
    cluster.remove_node(worker, allow_graceful=False)
    lost_at.append(len(list(Path(job.out, "tubes").glob("*.parquet"))))

thread = threading.Thread(target=lose)
thread.start()
summary = run(job, standin.load_slow)
thread.join()
deadline = time.monotonic() + 120
while (alive := sum(node["Alive"] for node in ray.nodes())) > 1 and time.monotonic() < deadline:
    time.sleep(0.2)  # the head learns of it by missed heartbeats
result = {{"in": summary["in"], "ok": summary["ok"], "alive": alive, "early": lost_at[0] < 8}}
print("result", json.dumps(result), flush=True)
ray.shutdown()
cluster.shutdown()
"""


def test_a_lost_worker_node_costs_nothing(clips, tmp_path, short_folder):
    options = DecodeOptions(block_rows=1, num_actors=2)
    job = config(clips, tmp_path, decode=options, predict={"num_actors": 2})
    code = LOST_NODE.format(tests=str(Path(__file__).parents[1]), config=job.model_dump_json())
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment["RAY_TMPDIR"] = short_folder()
    environment["RAY_health_check_period_ms"] = "500"  # five beats are missed sooner than at the default of 3 s
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    # its status is that of Ray's own end, which misses a node
    lines = [line for line in done.stdout.splitlines() if line.startswith("result")]
    assert lines, done.stderr[-3000:]
    [line] = lines
    assert json.loads(line.removeprefix("result")) == {"in": 16, "ok": 16, "alive": 1, "early": True}
    check_each_once(tmp_path / "out", [f"clip{i}.mp4" for i in range(8)])
