"""Films are read by actors of their own, in bundles of windows, for whoever asks a model about them.

A film's frames would not fit a block, and which of them are wanted is known only as its answers come. So decoders only
measure films (``decode.Film``), and the model's actor, which never opens a file, has several readers read ahead of it.
Readers on one machine share a copy of a remote film.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pipelines.core import scratch
from pipelines.media.reading import Plan, ReadOptions
from spacevllm.span import Span
from spacevllm.video.errors import VideoError
from spacevllm.video.parts import Bundle, Pictures, ReadParts, bundled, read_bundles
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import Backend, SampledFrames

TRIES = 3  # of a bundle, each with another reader
OPEN_FILMS = 4  # whose copies one reader holds: as many model's actors may be at different ones


class FilmReader:
    """A Ray actor without a CPU of its own: decoders wait while films are read."""

    def __init__(self, plan: Plan, options: ReadOptions, backend: Backend) -> None:
        self.plan, self.backend = plan, backend
        self.sampler = options.open_sampler()
        scratch.sweep()
        self._copies: dict[str, tuple[str, ExitStack]] = {}  # uri → its path here, and what lets it go

    def read(self, uri: str, info: VideoInfo, bundle: Bundle) -> Pictures | OSError:
        """What was read; an error where the file cannot be fetched, as Ray would wrap it in a page of traces."""
        try:
            path = self._local(uri)
        except OSError as error:
            return error

        def find(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.sampler.find(path, info, indices, self.plan.size, self.backend)

        return bundle.read(find)

    def leave(self, uri: str) -> None:
        """Nobody will ask for this film's parts again."""
        if uri in self._copies:
            self._copies.pop(uri)[1].close()

    def _local(self, uri: str) -> str:
        if uri not in self._copies:
            while len(self._copies) >= OPEN_FILMS:
                self.leave(next(iter(self._copies)))
            held = ExitStack()
            self._copies[uri] = held.enter_context(scratch.shared_copy(uri)), held
        return self._copies[uri][0]


class Reader(NamedTuple):
    """Handle of a ``FilmReader``, and the node it was started on."""

    handle: Any
    node: str


def start_readers(plan: Plan, options: ReadOptions, backend: Backend, count: int) -> list[Reader]:
    """At most ``count`` readers, at most one for each CPU, spread over the nodes; they live as long as the caller."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor: Any = ray.remote(FilmReader)
    readers = []
    for node in _places(ray.nodes(), count):
        place = NodeAffinitySchedulingStrategy(node, soft=True)  # elsewhere, should the node be lost
        options_ = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": place}
        readers.append(Reader(actor.options(**options_).remote(plan, options, backend), node))
    return readers


def _places(nodes: Sequence[Any], count: int) -> list[str]:
    """Node ids, each at most as often as it has CPUs: first one on each node, then a second."""
    cpus = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]}
    rounds = range(max(cpus.values(), default=0))
    return [node for number in rounds for node in sorted(cpus) if cpus[node] > number][:count]


class FilmReaders:
    """What a model's actor reads films with.

    Args:
        readers: gives those that there are, and starts them. sharing: actors like this one. Where there are more
            nodes than actors, a film is read on as many nodes as fall to one actor: each fetches it once.
    """

    def __init__(self, readers: Callable[[], list[Reader]], plan: Plan, sharing: int) -> None:
        self._readers, self.plan, self._sharing = readers, plan, sharing

    def of(self, uri: str, info: VideoInfo) -> ReadParts:
        """Reads parts of this film; ``OSError`` where nobody can fetch it."""
        import ray

        told = ray.put(info)  # of a long film some megabytes, for every bundle

        def read_parts(parts: Sequence[Span]) -> Iterator[SampledFrames | VideoError]:
            near, turns = self._near(uri), itertools.count()

            def start(bundle: Bundle) -> Callable[[], Pictures]:
                turn = next(turns)
                return partial(self._result, self._begin(turn, uri, told, bundle), turn, uri, told, bundle)

            bundles = bundled(info, parts, *self.plan, readers=len(near))
            yield from read_bundles(info, bundles, start, ahead=len(near))

        return read_parts

    def leave(self, uri: str) -> None:
        """Lets its copies go."""
        for reader in self._near(uri):
            reader.handle.leave.remote(uri)

    def _near(self, uri: str) -> list[Reader]:
        """Readers on this film's nodes: whoever asks about it, the same."""
        readers = self._readers()
        nodes = sorted({r.node for r in readers}, key=lambda node: hashlib.sha256(f"{uri} {node}".encode()).digest())
        chosen = nodes[: -(-len(nodes) // self._sharing)]
        return [reader for reader in readers if reader.node in chosen]

    def _begin(self, turn: int, uri: str, told: Any, bundle: Bundle) -> Any:
        near = self._near(uri)
        return near[turn % len(near)].handle.read.remote(uri, told, bundle)

    def _result(self, read: Any, turn: int, uri: str, told: Any, bundle: Bundle) -> Pictures:
        import ray
        from ray.exceptions import RayActorError

        for more in range(1, TRIES + 1):
            try:
                pictures = ray.get(read)
            except RayActorError as error:
                pictures = error
            if isinstance(pictures, Pictures):
                return pictures
            if more < TRIES:
                read = self._begin(turn + more, uri, told, bundle)
        raise OSError(f"{TRIES} readers could not read it, the last: {pictures}")
