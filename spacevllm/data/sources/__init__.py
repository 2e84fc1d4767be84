"""Published data sets and the user's own files → ``Instance``: one file each, one line in ``SOURCES``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from spacevllm.data.instance import Instance
from spacevllm.data.sources import (
    charades_sta,
    coco_video,
    cvat,
    didemo,
    hcstvg,
    internvid,
    llava,
    mot,
    refcoco,
    tacos,
    vidstg,
)
from spacevllm.data.sources.base import Dropped, Source, SourceFiles

__all__ = ["SOURCES", "Dropped", "Source", "SourceFiles", "read"]

SOURCES: dict[str, Source] = {
    "hcstvg_v1": Source(hcstvg.read_v1, hcstvg.PUBLISHED_V1, hcstvg.WHERE),
    "hcstvg_v2": Source(hcstvg.read_v2, hcstvg.PUBLISHED_V2, hcstvg.WHERE),
    "vidstg": Source(vidstg.read, vidstg.PUBLISHED, vidstg.WHERE, takes=("boxes",)),
    "charades_sta": Source(charades_sta.read, charades_sta.PUBLISHED, charades_sta.WHERE, takes=("durations",)),
    "didemo": Source(didemo.read, didemo.PUBLISHED, didemo.WHERE),
    "tacos": Source(tacos.read, tacos.PUBLISHED, tacos.WHERE),
    "internvid": Source(internvid.read, internvid.PUBLISHED, internvid.WHERE, split="train"),
    **{
        name: Source(partial(refcoco.read, name), counts, refcoco.WHERE, needs=("instances",), split="*")
        for name, counts in refcoco.PUBLISHED.items()
    },
    "llava": Source(llava.read, {}, llava.WHERE, split="train", many_files=True),
    "cvat": Source(cvat.read, {}, cvat.WHERE, takes=("questions", "fps"), split="train", many_files=True),
    "coco_video": Source(
        coco_video.read, {}, coco_video.WHERE, takes=("questions", "fps"), split="train", many_files=True
    ),
    "mot": Source(mot.read, {}, mot.WHERE, needs=("questions",), takes=("fps",), split="train", many_files=True),
}


def read(name: str, files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every question of one source, once: an id that occurs again is dropped. Nothing is held but ids.

    Raises:
        ConfigError: a file as a whole cannot be read. KeyError: no such source.
    """
    seen: set[str] = set()
    for found in SOURCES[name].read(files):
        if isinstance(found, Instance) and found.id in seen:
            yield Dropped(files.annotations.name, found.id.removeprefix(f"{name}/"), "an id that occurs before")
            continue
        if isinstance(found, Instance):
            seen.add(found.id)
        yield found
