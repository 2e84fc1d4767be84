"""Annotations as published, or the user's own → OUT/annotations/<split>.jsonl, which ``build-unistg`` reads.

Several sources may go into one OUT; converting one again replaces its records and leaves the others'. Records stream
from file to file. What could not be used is in OUT/dropped.jsonl, and OUT/sources.json says what came from where.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from pipelines.core import locks, scratch, storage
from pipelines.core.progress import Progress
from pipelines.core.stage import Summary
from spacevllm.config import Config, ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources import SOURCES, Dropped, Source, SourceFiles, read

FILES = ("boxes", "instances", "durations", "questions")
SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}  # beginnings of words in a file's name
EVERY = 1000


class ConvertConfig(Config):
    """Attributes:
    source: a key of ``spacevllm.data.sources.SOURCES``. annotations: its file, or folder.
    split: of the records; ``""``: as the annotations or their file's name say.
    media_root: put before the media's names: relative to OUT, or an absolute path or URI.
    boxes, instances, durations, questions, fps: see ``SourceFiles``; ``""``: not given.
    """

    source: str
    annotations: str
    out: str
    split: str = ""
    media_root: str = "media"
    boxes: str = ""
    instances: str = ""
    durations: str = ""
    questions: str = ""
    fps: str = ""


def check(config: ConvertConfig) -> Source:
    """The source of ``config``.

    Raises:
        ConfigError: no such source or file, an option that it needs and has not, or that it does not read.
    """
    source = SOURCES.get(config.source)
    if source is None:
        raise ConfigError(f"--source {config.source}: is none of {', '.join(SOURCES)}")
    for option in (*FILES, "fps"):
        given = getattr(config, option)
        if given and option not in (*source.needs, *source.takes):
            readers = [name for name, other in SOURCES.items() if option in (*other.needs, *other.takes)]
            raise ConfigError(f"--{option} {given}: {config.source} does not read it, only {', '.join(readers)}")
        if option in source.needs and not given:
            raise ConfigError(f"--{option} is needed with --source {config.source}: {source.where}")
    for option in ("annotations", *FILES):
        uri = getattr(config, option)
        if uri and not storage.exists(uri):
            raise ConfigError(f"--{option} {uri}: no such file or folder")
    _fps(config.fps)
    split_of(config, source)
    return source


def run(config: ConvertConfig) -> Summary:
    """Converts one source.

    Returns:
        ``read`` questions, ``kept`` of them, ``dropped`` by reason, ``marked`` (kept, but something is odd), ``splits``
        (``kept`` by split), ``published`` (what each should be; null: not known), ``replaced`` earlier records.

    Raises:
        ConfigError: see ``check``; a file as a whole cannot be read, or holds no question.
        StorageBusy: another job writes to the same output.
    """
    source = check(config)
    with ExitStack() as stack:
        files = _local_files(config, source, stack)
        stack.enter_context(locks.exclusive(config.out))
        return _Conversion(config, source, files).run()


class _Conversion:
    def __init__(self, config: ConvertConfig, source: Source, files: SourceFiles) -> None:
        self.config, self.source, self.files = config, source, files
        self.kept: Counter[str] = Counter({files.split: 0} if files.split else {})
        self.dropped: list[Dropped] = []
        self.past_the_end = self.replaced = 0
        self.groups: set[str] = set()  # beginnings of the ids whose earlier records are replaced
        self._outputs: dict[str, IO[bytes]] = {}

    def run(self) -> Summary:
        with ExitStack() as outputs:
            for row in self._found():
                if isinstance(row, Dropped):
                    self.dropped.append(row)
                else:
                    self._write(row, outputs)
            for split in self.kept:
                self._keep_others(split, outputs)
        self._write_dropped()
        return self._record(self._summary())

    def _found(self) -> Iterator[Instance | Dropped]:
        with Progress("convert", 0, "questions") as progress:
            for number, row in enumerate(read(self.config.source, self.files), start=1):
                yield row
                progress.total = number  # nobody knows it before
                if number % EVERY == 0:
                    progress.advance(EVERY)
            progress.advance(progress.total % EVERY)
        if not progress.total:
            raise ConfigError(f"--annotations {self.config.annotations}: holds no question")

    def _write(self, instance: Instance, outputs: ExitStack) -> None:
        line = json.dumps(instance.to_row(), ensure_ascii=False, allow_nan=False)
        self._output(instance.split, outputs).write(line.encode() + b"\n")
        self.groups.add(_group(instance.id, self.source))
        self.kept[instance.split] += 1
        self.past_the_end += instance.ends_after_media

    def _output(self, split: str, outputs: ExitStack) -> IO[bytes]:
        if split not in self._outputs:
            self._outputs[split] = outputs.enter_context(storage.open_write(self._uri(split)))
        return self._outputs[split]

    def _keep_others(self, split: str, outputs: ExitStack) -> None:
        """Copies what other sources, and other files of this one, have in the split already."""
        if not storage.exists(self._uri(split)):
            return
        file, own = self._output(split, outputs), f'{{"id": "{self.config.source}/'.encode()
        with storage.open_read(self._uri(split)) as old:
            for line in old:
                if line.startswith(own) and self._replaces(json.loads(line)["id"]):
                    self.replaced += 1
                else:
                    file.write(line)

    def _replaces(self, id: str) -> bool:
        return not self.source.many_files or _group(id, self.source) in self.groups

    def _uri(self, split: str) -> str:
        return storage.join(self.config.out, "annotations", f"{split}.jsonl")

    def _write_dropped(self) -> None:
        uri = storage.join(self.config.out, "dropped.jsonl")
        old = storage.read_text(uri).split("\n") if storage.exists(uri) else []
        others = [line for line in old if line.strip() and not self._is_own(json.loads(line))]
        place = {"source": self.config.source, "annotations": self.config.annotations}
        rows = [json.dumps(place | row._asdict(), ensure_ascii=False) for row in self.dropped]
        storage.write_text(uri, "".join(f"{line}\n" for line in [*others, *rows]))

    def _is_own(self, row: dict[str, Any]) -> bool:
        """Of an earlier conversion of the same file."""
        return all(row.get(name) == getattr(self.config, name) for name in ("source", "annotations"))

    def _summary(self) -> Summary:
        kept, published = sum(self.kept.values()), SOURCES[self.config.source].published
        marked = {"ends after the video": self.past_the_end} if self.past_the_end else {}
        return {
            "source": self.config.source,
            "read": kept + len(self.dropped),
            "kept": kept,
            "dropped": dict(Counter(row.reason for row in self.dropped).most_common()),
            "marked": marked,
            "splits": dict(self.kept),
            "published": {split: published.get(split) for split in self.kept},
            "replaced": self.replaced,
        }

    def _record(self, summary: Summary) -> Summary:
        uri = storage.join(self.config.out, "sources.json")
        record = storage.read_json(uri) if storage.exists(uri) else {}
        entry = summary | {"config": self.config.model_dump()}
        storage.write_json(uri, record | {f"{self.config.source}: {self.config.annotations}": entry})
        return summary


def _group(id: str, source: Source) -> str:
    return "/".join(id.split("/")[: 2 if source.many_files else 1])


def split_of(config: ConvertConfig, source: Source) -> str:
    """The split of the records; ``""`` where they say it themselves.

    Raises:
        ConfigError: nothing says it.
    """
    words = storage.name(config.annotations).lower().replace("-", "_").replace(".", "_").split("_")
    named = [split for beginning, split in SPLITS.items() for word in words if word.startswith(beginning)]
    if config.split or source.split == "*":
        return config.split
    if not named and not source.split:
        raise ConfigError(f"--split is needed: {storage.name(config.annotations)} does not say train, val or test")
    return named[0] if named else source.split


def _local_files(config: ConvertConfig, source: Source, stack: ExitStack) -> SourceFiles:
    def local(option: str) -> Path | None:
        uri = getattr(config, option)
        if uri and storage.is_folder(uri) and not storage.is_local(uri):
            raise ConfigError(f"--{option} {uri}: a folder must be local; copy it first")
        return Path(stack.enter_context(scratch.local_copy(uri))) if uri else None

    annotations = local("annotations")
    assert annotations is not None
    return SourceFiles(
        annotations,
        split_of(config, source),
        config.media_root,
        fps=_fps(config.fps),
        **{option: local(option) for option in FILES},
    )


def _fps(text: str) -> Fraction | None:
    if not text:
        return None
    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if fps <= 0:
        raise ConfigError(f"--fps {text}: give a number like 25, 29.97 or 30000/1001")
    return fps
