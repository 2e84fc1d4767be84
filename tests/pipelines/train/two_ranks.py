"""Two processes on gloo that train a tiny model with the real DeepSpeed engine, in every way there is.

``python two_ranks.py OUT``: one process starts both ranks and writes OUT/results.json. One start for all cases, as
importing torch, transformers and DeepSpeed takes most of the time.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
CASES = [(zero, mode) for mode in ("full", "lora") for zero in (0, 1, 2, 3)] + [
    (zero, mode) for mode in ("frozen", "presence", "qwen3lora") for zero in (0, 3)
]
CASES += [(zero, "qwen3") for zero in (0, 1, 2, 3)]
STEPS = 3
CRITERION = {"attention": 1.0, "pointer": 1.0, "presence": 1.0, "box_frames": "visible", "time_weight": 3.0}


def launch(out: Path) -> dict[str, Any]:
    """Runs both ranks; results by case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/spacevllm/model'}", "DS_ACCELERATOR": "cpu"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(out)]
    with ExitStack() as files:
        logs = [files.enter_context(open(out / f"rank{rank}.log", "w")) for rank in range(2)]
        ranks = [
            subprocess.Popen(command, env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log, stderr=log)
            for rank, log in enumerate(logs)
        ]
        try:
            codes = wait(ranks)
        finally:
            for rank in ranks:
                rank.kill()
    assert codes == [0, 0], "\n".join((out / f"rank{rank}.log").read_text()[-3000:] for rank in range(2))
    return json.loads((out / "results.json").read_text())


def wait(ranks: list[subprocess.Popen[bytes]]) -> list[int | None]:
    """Exit statuses, as soon as all have ended or one has failed: the other would wait for it for ever."""
    end = time.monotonic() + 900
    while time.monotonic() < end:
        codes = [rank.poll() for rank in ranks]
        if None not in codes or any(codes):
            return codes
        time.sleep(0.1)
    raise TimeoutError("the ranks hang; their logs say where")


def main(out: Path) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    import tiny  # noqa: F401

    import pipelines.train.trainer  # noqa: F401
    from pipelines.train.engine import load_deepspeed

    load_deepspeed(use_gpu=False)
    gc.collect()
    gc.freeze()  # ``storages`` need not look at a million objects of imported modules, twice a case
    results = {f"zero{zero}-{mode}": case(zero, mode, out) for zero, mode in CASES}
    results["micro-batches"] = accumulated(micro=1)
    results["one batch a rank"] = accumulated(micro=2)
    for zero in (0, 3):
        again = trainer(zero, "full", train={"gradient_checkpointing": True})
        results[f"zero{zero}-checkpointing"] = steps(again, batches())
    for zero, mode in ((0, "full"), (3, "full"), (3, "lora")):
        results[f"zero{zero}-{mode}-folder"] = from_folder(zero, mode, out / "zero0-full" / "model")
    if dist.get_rank() == 0:
        results["plain torch"] = plain_torch()
        for mode in ("frozen", "lora", "presence"):
            results[f"{mode} parts changed"] = changed_parts(out / f"zero3-{mode}" / "model")
        (out / "results.json").write_text(json.dumps(results))
    dist.barrier()


def config(zero: int, mode: str, **sections: dict[str, Any]) -> Any:
    from pipelines.train.config import TrainJobConfig

    tree: dict[str, Any] = {
        "data": "none",
        "out": "none",
        "sources": {"videos": {"media": "video"}},
        "phases": {"videos": {"sources": "videos", "steps": 10, "batch_size": 4}},
        "criterion": CRITERION,
        "train": {"learning_rate": 1e-3, "autocast": False, "learning_rates": {"decoder": 2e-3}, "warmup": 0.0},
        # every weight cut, however small: otherwise ZeRO-3 keeps the small ones whole
        "workers": {"zero_stage": zero, "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}}},
    }
    tree["train"] |= sections.get("train", {})
    if mode.endswith("lora"):
        tree["lora"] = {"rank": 4, "alpha": 8}
    if mode == "frozen":
        tree["train"]["freeze"] = ["tower", "llm"]
    if mode == "presence":
        tree["train"]["freeze"] = ["tower", "projector", "llm", "queries", "decoder"]
    return TrainJobConfig.model_validate(tree)


def trainer(zero: int, mode: str, **sections: dict[str, Any]) -> Any:
    from pipelines.train.trainer import Trainer

    return Trainer(config(zero, mode, **sections), *fresh(mode))


def fresh(mode: str = "full", **fields: object) -> Any:
    """The model that every case starts from, and its processor."""
    from tiny import make

    return make(backbone="qwen3_vl" if mode.startswith("qwen3") else "llava_onevision", presence_head=True, **fields)


def samples(rank: int) -> list[Any]:
    """Rank 0 has videos with sentences, one about what is not there, and an image; rank 1 nothing but multiple choice
    (no queries, no boxes) and a question about nothing (no pixels either)."""
    from tiny import absent, clip, instance, text_clip

    if rank == 0:
        return [clip([instance(0), absent(2), instance(1, "vtg")]), clip([instance(0, "rec")], 1)]
    return [clip([instance(k, "qa") for k in range(3)], 2), text_clip(1)]


def batches(micro: int = 1, mode: str = "full") -> list[Any]:
    import torch.distributed as dist

    from spacevllm.model.collate import Collator

    collate, own = (
        Collator(fresh(mode, queries_in_text_tasks=False)[1], CRITERION["time_weight"]),
        samples(dist.get_rank()),
    )
    return [collate(own[i : i + micro]) for i in range(0, len(own), micro)]


def steps(one: Any, parts: list[Any], count: int = STEPS) -> dict[str, list[float]]:
    values = []
    for _ in range(count):
        one.train_step(parts)
        values.append(one.meter.read())
    return {name: [value[name] for value in values] for name in values[0]}


def case(zero: int, mode: str, out: Path) -> dict[str, Any]:
    """Losses; what the next step loses in this run, and in one that was loaded; outputs of engine and saved model."""
    import torch.distributed as dist

    from pipelines.train.model import choose_trained
    from pipelines.train.plan_memory import count_parameters, memory_per_device
    from spacevllm.predictor import Predictor

    print(f"case ZeRO {zero}, {mode}", flush=True)  # the log of a run that hangs says where
    parts, before = batches(mode=mode), storages()
    job = config(zero, mode)
    sizes = count_parameters(choose_trained(fresh(mode)[0], job))  # ZeRO-3 leaves nothing to count
    one = trainer(zero, mode)
    found: dict[str, Any] = steps(one, parts)
    found["bytes held"] = sum(size for address, size in storages().items() if address not in before)
    found["bytes planned"] = memory_per_device(job, sizes)
    folder = out / f"zero{zero}-{mode}"
    one.save(str(folder), {"cursors": {"videos": (0, 3)}})
    dist.barrier()
    found["next"] = steps(one, parts, 1)["loss"]
    again = trainer(zero, mode)
    found["state"] = again.load(str(folder))["cursors"]
    found["resumed"] = steps(again, parts, 1)["loss"]
    one.save_model(folder / "model")
    one.engine.eval()
    found["engine"] = outputs(one.engine, parts[0])
    if dist.get_rank() == 0:
        found["saved"] = outputs(Predictor.load(folder / "model").model, parts[0])
    for engine in (one.engine, again.engine):
        engine.destroy()
    return found


def changed_parts(folder: Path) -> list[str]:
    """Parts of the saved model that are no longer what training started from."""
    from pipelines.train.optimizer import part_of
    from spacevllm.predictor import Predictor

    trained = dict(Predictor.load(folder).model.named_parameters())
    return sorted({part_of(name) for name, before in fresh()[0].named_parameters() if not before.equal(trained[name])})


def outputs(model: Any, batch: Any) -> list[float]:
    import torch

    with torch.no_grad():
        output = model(batch)
    return [*output.logits.flatten()[:50].tolist(), *output.space.boxes.flatten()[:50].tolist()]


def from_folder(zero: int, mode: str, folder: Path) -> dict[str, list[float]]:
    """From a saved model; at ZeRO-3 no rank ever holds all of it."""
    from pipelines.train.model import prepare_model
    from pipelines.train.trainer import Trainer

    print(f"case ZeRO {zero}, {mode}, from a folder", flush=True)
    job = config(zero, mode)
    job = job.model_copy(update={"model": job.model.model_copy(update={"init": str(folder)})})
    make_model, processor = prepare_model(job, [])
    model = make_model()
    found = steps(Trainer(job, model, processor), batches())
    return {**found, "shards": [float(hasattr(model.backbone.lm_head.weight, "ds_id"))]}


def storages() -> dict[int, int]:
    """Size of everything that a tensor made in ``main`` lies in, by address."""
    import torch

    gc.collect()
    found = [thing.untyped_storage() for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def accumulated(micro: int) -> dict[str, list[float]]:
    return steps(trainer(0, "full"), batches(micro))


def plain_torch() -> dict[str, list[float]]:
    """One process, no engine, one batch of everything."""
    import torch

    from pipelines.train.optimizer import make_optimizer
    from spacevllm.model.collate import Collator
    from spacevllm.model.criterion import Criterion

    job = config(0, "full")
    model, _ = fresh()
    collate = Collator(fresh(queries_in_text_tasks=False)[1], CRITERION["time_weight"])
    batch = collate([*samples(0), *samples(1)])
    criterion, optimizer = Criterion(job.criterion), make_optimizer(model, job)
    found: dict[str, list[float]] = {"loss": [], "gradient_norm": []}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * job.schedule.learning_rate_factor(step)
        optimizer.zero_grad()
        loss = criterion(model(batch, pointer=True), batch)["loss"]
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), job.train.gradient_clipping)
        optimizer.step()
        found["loss"].append(float(loss))
        found["gradient_norm"].append(float(norm))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
