"""How many requests a second does the service take before they wait?

    python -m benchmarks.serve

The highest rate at which the 99th percentile of the latency stays within twice that of an idle server. Open loop:
requests are sent at random times, whether or not earlier ones are answered. Three loads: all ask about one video (it is
remembered), about a few (so are they), or each request brings a video of its own (decoded and read anew). Untrained
tiny model on CPU; rates are given as shares of what one request after the other reaches. Other work on the machine only
adds to a latency, so the idle server is measured three times and a rate that fails is tried once more. Two to three
minutes; the figures are worth something on a machine that does nothing else (the file says how loaded it was).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common import RESULTS, facts, write_result
from pipelines.core.cluster import ray_session
from pipelines.serve.config import ServeConfig
from pipelines.serve.server import service
from spacevllm.data.moving_shapes import MovingShapesConfig, write_one
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer
from spacevllm.predictor import Predictor

QUESTION = "the small red circle while it moves left"
LIMIT = 2  # times the idle p99
STEP = 1.5  # between one rate and the next
Send = Callable[[], Awaitable[httpx.Response]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="that each rate is held")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine, started = facts(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        videos = _prepare(Path(folder))
        settings = {"model": f"{folder}/model", "port": options.port, "max_requests": 1000}
        config = ServeConfig.model_validate(settings)
        with ray_session(), service(config) as url:
            loads = asyncio.run(measure(url, videos, options.seconds))
    rates = {load["load"]: load["highest_rate_per_s"] for load in loads}
    result = machine | {
        "load_at_end": round(os.getloadavg()[0], 1),
        "wall_s": round(time.perf_counter() - started),
        "seconds": options.seconds,
        "limit_over_idle_p99": LIMIT,
        "shared_rate_over_own": rates["shared_videos"] / max(rates["own_videos"], 1e-9),
        "loads": loads,
    }
    print(write_result("serve", result, options.out))


def _prepare(folder: Path) -> list[bytes]:
    """An untrained model, and videos."""
    tokenizer = build_tiny_tokenizer([QUESTION, "From 1.00s to 2.00s."])
    config = tiny_config(len(tokenizer))
    Predictor(SpaceVLLM(config), SpaceVLLMProcessor(tokenizer, config)).save(folder / "model")
    for number in range(4):
        write_one(folder, MovingShapesConfig(), "test", number)
    return [path.read_bytes() for path in sorted(folder.glob("media/test/*.mp4"))]


async def measure(url: str, videos: list[bytes], seconds: float) -> list[dict[str, Any]]:
    """One row a load."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        ids = [(await client.post("/v1/videos", files={"file": data})).json()["id"] for data in videos]
        loads = {
            "one_video": _asking(client, ids[:1]),
            "shared_videos": _asking(client, ids),
            "own_videos": _sending(client, videos),
        }
        return [{"load": name} | await _find_rate(send, seconds) for name, send in loads.items()]


def _asking(client: httpx.AsyncClient, ids: list[str]) -> Send:
    turns = cycle(ids)
    return lambda: client.post("/v1/ground", json={"video": next(turns), "question": QUESTION})


def _sending(client: httpx.AsyncClient, videos: list[bytes]) -> Send:
    """Trailing bytes, which a player skips, make each video one that was never seen."""
    fresh: Iterator[tuple[int, bytes]] = zip(count(), cycle(videos), strict=False)
    free_box = (16).to_bytes(4, "big") + b"free"

    def send() -> Awaitable[httpx.Response]:
        number, data = next(fresh)
        files = {"file": ("clip.mp4", data + free_box + number.to_bytes(8, "big"))}
        return client.post("/v1/ground", files=files, data={"question": QUESTION})

    return send


async def _find_rate(send: Send, seconds: float) -> dict[str, Any]:
    """Climbs by ``STEP`` until p99 breaks the limit twice, then tries the middle of the last step."""
    await _closed(send, 1.0)
    idle = min([await _closed(send, seconds) for _ in range(3)], key=_p99)
    base = 1 / statistics.mean(idle)  # requests a second, one after the other
    tried: list[dict[str, float]] = []

    async def holds(rate: float) -> bool:
        for _ in range(2):
            latencies, kept = await _open(send, rate, seconds)
            ratio = _p99(latencies) / _p99(idle)
            tried.append({"rate_over_serial": rate / base, "p99_over_idle": ratio, "sent_over_asked": kept})
            if ratio <= LIMIT:
                return True
        return False

    rate, best = base / 2, 0.0
    while await holds(rate):
        rate, best = rate * STEP, rate
    if best and await holds(middle := (best * rate) ** 0.5):
        best = middle
    return {
        "highest_rate_over_serial": best / base,
        "highest_rate_per_s": best,
        "idle_p50_ms": 1000 * statistics.median(idle),
        "idle_p99_ms": 1000 * _p99(idle),
        "tried": tried,
    }


async def _closed(send: Send, seconds: float) -> list[float]:
    latencies: list[float] = []
    while sum(latencies) < seconds or len(latencies) < 2:
        latencies.append(await _timed(send, time.perf_counter()))
    return latencies


async def _open(send: Send, rate: float, seconds: float) -> tuple[list[float], float]:
    """Latencies from the moment a request was due; and the rate it was sent at over the one asked for."""
    dice, start, due, running = random.Random(0), time.perf_counter(), 0.0, []
    for _ in range(max(4, round(rate * seconds))):
        due += dice.expovariate(rate)
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        running.append(asyncio.create_task(_timed(send, start + due)))
    kept = due / (time.perf_counter() - start)
    return await asyncio.gather(*running), kept


async def _timed(send: Send, due: float) -> float:
    (await send()).raise_for_status()
    return time.perf_counter() - due


def _p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
