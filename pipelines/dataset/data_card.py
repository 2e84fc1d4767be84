"""OUT/data_card.html and .md of a built data set: its shards are read one at a time, a few records are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core import scratch, storage
from pipelines.media.reading import ReadOptions
from spacevllm.data.instance import TASKS, Instance
from spacevllm.data.sources import SOURCES
from spacevllm.data.statistics import Statistics
from spacevllm.data.synthesis.funnel import FunnelStage
from spacevllm.drawing.data_card import DataCard, Example, Origin, render_html, render_markdown
from spacevllm.drawing.strip import draw_strip, to_data_uri
from spacevllm.video.errors import VideoError
from spacevllm.video.guard import GuardedSampler

FRAMES_IN_STRIP = 6
ROWS_AT_ONCE = 1024
FILES = {
    "unistg/<split>/*.parquet": "the records, shuffled; columns as in spacevllm/data/instance.py",
    "manifest.parquet": "every video and image they refer to, once",
    "dropped.jsonl": "every annotation that became no record: file, line, key, reason",
    "dataset.json": "the digest of the annotations and the rows of each shard",
}


def write_data_card(
    out: str,
    title: str,
    left_out: Mapping[str, int],
    origins: Sequence[Origin] = (),
    funnel: Sequence[FunnelStage] = (),
    command: str = "",
    examples_per_task: int = 2,
) -> list[str]:
    """Writes both files from what lies in ``out``; returns their uris. Media that cannot be read leave a gap, no more.

    Args:
        left_out: lines that the builder dropped, per reason.
    """
    built = storage.read_json(storage.join(out, "dataset.json"))
    statistics, chosen = Statistics(), _Chosen(examples_per_task)
    for name in built["shards"]:
        for table in _tables(storage.join(out, name)):
            statistics.add(table)
            chosen.look(table)
    card = DataCard(
        title=title,
        facts={"digest": built["digest"][:16], "seed": str(built["seed"]), "shards": str(len(built["shards"]))},
        statistics=statistics,
        num_media=built["media"],
        origins=origins,
        funnel=funnel,
        left_out=dict(left_out),
        files=FILES,
        examples=draw_examples(out, chosen.instances()),
        command=command,
    )
    pages = {"data_card.html": render_html(card), "data_card.md": render_markdown(card)}
    for name, page in pages.items():
        storage.write_text(storage.join(out, name), page)
    return [storage.join(out, name) for name in pages]


def draw_examples(folder: str, instances: Iterable[Instance]) -> list[Example]:
    """A strip of frames for each record; frames are uniform in its span."""
    examples = []
    with ReadOptions().open_sampler() as sampler:
        for instance in instances:
            uri = storage.join(storage.absolute(folder), instance.media)
            try:
                with scratch.local_copy(uri) as path:
                    picture = _strip(sampler, path, instance)
            except (VideoError, OSError):
                picture = ""
            examples.append(Example(instance, picture))
    return examples


def read_origins(folders: Iterable[str]) -> list[Origin]:
    """What ``convert`` wrote beside its records, in order of names; a file that stands in two folders once."""
    origins: dict[tuple[str, str], Origin] = {}
    for folder in folders:
        uri = storage.join(folder, "sources.json")
        record: Mapping[str, Any] = storage.read_json(uri) if storage.exists(uri) else {}
        for entry in record.values():
            name = entry["source"]
            published = [count for count in entry["published"].values() if count]
            told = (entry["read"], entry["kept"], sum(published) or None, entry["dropped"])
            annotations = entry["config"]["annotations"]
            origins[name, annotations] = Origin(name, storage.name(annotations), *told, SOURCES[name].where)
    return [origins[key] for key in sorted(origins)]


class _Chosen:
    """The first records of each task, each of another source and another medium; shards are shuffled already."""

    def __init__(self, per_task: int) -> None:
        self.per_task = per_task
        self.found: dict[str, dict[str, Instance]] = {task: {} for task in TASKS}
        self.media: set[str] = set()

    def look(self, table: pa.Table) -> None:
        columns = (table[name].to_pylist() for name in ("task", "source", "media"))
        for row, (task, source, medium) in enumerate(zip(*columns, strict=True)):
            chosen = self.found[task]
            new = medium and source not in chosen and medium not in self.media  # text has nothing to draw
            if len(chosen) < self.per_task and new:
                chosen[source] = Instance.from_row(table.slice(row, 1).to_pylist()[0])
                self.media.add(medium)

    def instances(self) -> list[Instance]:
        return [instance for task in TASKS for instance in self.found[task].values()]


def _tables(uri: str) -> Iterable[pa.Table]:
    with storage.open_read(uri) as file:
        for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
            yield pa.Table.from_batches([batch])


def _strip(sampler: GuardedSampler, path: str, instance: Instance) -> str:
    info = sampler.sample(path, 1).info
    if instance.media_type == "image":
        return to_data_uri(draw_strip(instance, sampler.sample(path, 1)))
    begin, end = 0, info.num_frames
    if instance.begin_s is not None and instance.end_s is not None:
        begin = min(round(instance.begin_s * info.fps), info.num_frames - 1)
        end = max(min(round(instance.end_s * info.fps), info.num_frames), begin + 1)
    return to_data_uri(draw_strip(instance, sampler.sample(path, FRAMES_IN_STRIP, segment=(begin, end))))
