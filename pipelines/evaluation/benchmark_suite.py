"""A model on all published benchmarks that are there, one after the other, and one table of them.

What is not there costs one line that says where to get it, never the others.
"""

from __future__ import annotations

from contextlib import nullcontext

from pipelines.archive.predict import LoadPredictor, load_predictor
from pipelines.core import storage
from pipelines.core.cluster import ray_session
from pipelines.core.stage import Summary
from pipelines.core.tracking import store_uri
from pipelines.evaluation import benchmark
from pipelines.evaluation.benchmark import BenchmarkConfig, BenchmarkOptions
from spacevllm.config import ConfigError, dump_config
from spacevllm.evaluation.benchmarks import BENCHMARKS
from spacevllm.evaluation.tables import overview_lines

ALL = tuple(name for name, known in BENCHMARKS.items() if known.published)  # not one's own


class BenchmarksConfig(BenchmarkOptions):
    """``evaluate --benchmark all``: OUT/<benchmark>/ as from one, OUT/overview.md, OUT/table.md, OUT/summary.json.

    Attributes:
        benchmarks: which; by default all that were published.
    """

    benchmarks: tuple[str, ...] = ALL


def run(config: BenchmarksConfig, load: LoadPredictor = load_predictor) -> Summary:
    """Scores every benchmark that is there.

    Returns:
        The summary that is also OUT/summary.json: ``benchmarks``, name → summary of ``benchmark.run``, and ``missing``,
        name → why it was not scored, in one line.
    """
    done: dict[str, Summary] = {}
    missing: dict[str, str] = {}
    there = any(storage.is_folder(storage.join(config.data_root, name)) for name in config.benchmarks)
    with ray_session(config.ray) if there else nullcontext():  # once, not once for each
        for name in config.benchmarks:
            try:
                done[name] = benchmark.run(_one(config, name), load)
            except (ConfigError, ConnectionError) as error:
                missing[name] = f"{name} is not scored: {error}"
    model = next((summary["model_id"] for summary in done.values()), "")
    overview = "\n".join(overview_lines(model, list(done.values()), missing)) + "\n"
    tables = [storage.read_text(storage.join(config.out, name, "table.md")) for name in done]
    storage.write_text(storage.join(config.out, "config.yaml"), dump_config(config))
    storage.write_text(storage.join(config.out, "overview.md"), overview)
    storage.write_text(storage.join(config.out, "table.md"), "\n".join(["# All benchmarks\n", overview, *tables]))
    summary = {"stage": "benchmarks", "model_id": model, "benchmarks": done, "missing": missing}
    storage.write_json(storage.join(config.out, "summary.json"), summary)
    return summary


def _one(config: BenchmarksConfig, name: str) -> BenchmarkConfig:
    """All of them share one tracking store, as if each had been run by itself beside the others."""
    shared = {key: getattr(config, key) for key in BenchmarkOptions.model_fields}
    tracking = config.tracking.model_copy(update={"store": store_uri(config.tracking, config.out)})
    return BenchmarkConfig(**shared | {"benchmark": name, "out": storage.join(config.out, name), "tracking": tracking})
