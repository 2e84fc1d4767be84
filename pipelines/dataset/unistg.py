"""The whole data set from one configuration: sources → records → synthesis → shards → data card.

Each step keeps its output and does only what is missing::

    OUT/sources/      converted records: annotations/<split>.jsonl
    OUT/captions/     those that only synthesis reads
    OUT/synthesis/    stages, funnel, and the records made there
    OUT/unistg/, manifest.parquet, data_card.html, ...
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipelines.core import storage
from pipelines.core.cluster import ray_session
from pipelines.core.stage import Summary
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset import synthesize as synthesis_stage
from pipelines.dataset.build_unistg import BuildUnistgConfig
from pipelines.dataset.build_unistg import run as build
from pipelines.dataset.convert import FILES, ConvertConfig, check
from pipelines.dataset.convert import run as convert
from pipelines.dataset.data_card import read_origins, write_data_card
from pipelines.dataset.synthesize import SynthesisOptions, SynthesizeConfig, read_funnel
from spacevllm.config import Config, ConfigError
from spacevllm.data.instance import instance_id


class SourceConfig(ConvertConfig):
    """One annotation file of one source, see ``ConvertConfig``; ``media_root`` is better absolute, or relative to here.

    Attributes:
        use: ``train``: its records are part of the data set. ``captions``: they only feed the synthesis (rough
            intervals). ``both``: both.
    """

    out: str = ""
    use: Literal["train", "captions", "both"] = "train"


class SampleConfig(Config):
    """A small world with files in every published schema, made first, if there is no such folder yet."""

    out: str
    num_videos: int = Field(default=16, ge=4)
    seed: int = 0


class UnistgConfig(Config):
    """``build-unistg --config``.

    Attributes:
        out: the data set folder. title: of the data card.
        sources: annotation files. synthesis: how captions become STVG records; None: they do not.
        sample: made before anything is read.
        seed, rows_per_shard, leaks, workers: see ``BuildUnistgConfig``.
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    out: str
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    synthesis: SynthesisOptions | None = None
    sample: SampleConfig | None = None
    title: str = "Uni-STG"
    seed: int = 0
    rows_per_shard: int = Field(default=4096, ge=1)
    leaks: Literal["remove", "keep"] = "remove"
    workers: int | None = Field(default=None, ge=1)
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()


def prepare(config: UnistgConfig) -> None:
    """Makes the sample, if one is asked for, and checks what is to be read.

    Raises:
        ConfigError: a source or a file that is not there, an option it does not read, a model that is not there.
    """
    if config.sample is not None and not storage.exists(storage.join(config.sample.out, "moving_shapes.yaml")):
        if not storage.is_local(config.sample.out):
            raise ConfigError(f"sample.out {config.sample.out}: videos are written to a local folder")
        from spacevllm.data.sources.samples import write_samples

        write_samples(config.sample.out, config.sample.num_videos, config.sample.seed)
    for number, source in enumerate(config.sources):
        try:
            check(source)
        except ConfigError as error:
            raise ConfigError(f"sources[{number}]: {str(error).removeprefix('--')}") from None
    if config.synthesis is not None:
        synthesis_stage.check_models(config.synthesis)
        if not any(source.use != "train" for source in config.sources):
            raise ConfigError("synthesis needs captions: give one of the sources use: captions, or both")


def run(config: UnistgConfig, command: str = "") -> Summary:
    """Does what is missing; returns the builder's summary.

    Args:
        command: that builds this again, for the data card.

    Raises:
        ConfigError: see ``prepare``. StorageBusy: another job writes to the same output.
    """
    prepare(config)
    with ray_session(config.ray):
        folders = [_convert(config, "sources", ("train", "both"))]
        captions = _convert(config, "captions", ("captions", "both"))
        synthesised = _synthesize(config, captions) if config.synthesis is not None else ""
        data = [folder for folder in [*folders, synthesised] if folder and _has_records(folder)]
        summary = build(
            BuildUnistgConfig(
                data=tuple(data),
                out=config.out,
                seed=config.seed,
                rows_per_shard=config.rows_per_shard,
                leaks=config.leaks,
                workers=config.workers,
                tracking=config.tracking,
            )
        )
    origins = read_origins([folder for folder in (*folders, captions) if folder])
    funnel = read_funnel(synthesised) if synthesised else []
    write_data_card(config.out, config.title, summary["errors"], origins, funnel, command)
    return summary


def _convert(config: UnistgConfig, name: str, uses: tuple[str, ...]) -> str:
    """Converts what has changed into OUT/<name>; returns that folder, ``""`` if no source has such a use."""
    folder = storage.join(storage.absolute(config.out), name)
    record = storage.join(folder, "done.json")
    done: dict[str, str] = storage.read_json(record) if storage.exists(record) else {}
    chosen = [source for source in config.sources if source.use in uses]
    keys = {f"{source.source}: {source.annotations}": _version(source) for source in chosen}
    if done.keys() - keys.keys():  # a source that is gone takes its records along
        storage.remove_folder(folder)
        done = {}
    for source, (place, version) in zip(chosen, keys.items(), strict=True):
        if done.get(place) != version:
            _convert_one(source, folder)
            done[place] = version
            storage.write_json(record, done)
    return folder if chosen else ""


def _convert_one(source: SourceConfig, folder: str) -> Summary:
    fields: dict[str, Any] = source.model_dump(exclude={"use"}) | {"out": folder}
    root = source.media_root if source.media_root.startswith("/") or "://" in source.media_root else ""
    return convert(ConvertConfig(**fields | {"media_root": root or storage.absolute(source.media_root)}))


def _version(source: SourceConfig) -> str:
    """Changes when the source's settings or a file of it does."""
    files = [uri for option in ("annotations", *FILES) if (uri := getattr(source, option))]
    return instance_id(source.model_dump_json(), [storage.find(uri) for uri in files])


def _synthesize(config: UnistgConfig, captions: str) -> str:
    assert config.synthesis is not None
    folder = storage.join(storage.absolute(config.out), "synthesis")
    fields = config.synthesis.model_dump() | {"data": captions, "out": folder, "tracking": config.tracking.model_dump()}
    synthesis_stage.run(SynthesizeConfig.model_validate(fields))
    return folder


def _has_records(folder: str) -> bool:
    return any(uri.endswith(".jsonl") for uri in storage.find(storage.join(folder, "annotations")))
