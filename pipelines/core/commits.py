"""Files of finished rows → commits, beside the work: those that land while a commit is under way share the next one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa

from pipelines.core.delta import Conflict, File, Log
from pipelines.core.results import Results


class Block(NamedTuple):
    """A file that a worker wrote, and the ids of its rows."""

    file: File
    ids: Sequence[str]


class Commits:
    """Adds blocks to the table of ``results``; each id once, whoever else commits meanwhile.

    Args:
        replacing: ids whose rows take the place of others, see ``Results.done``.
    """

    def __init__(self, results: Results, replacing: AbstractSet[str]) -> None:
        self.results, self.replacing = results, replacing
        self._log = Log(results.folder)
        self._seen = {file.path for file in self._log.files()}
        self._taken: set[tuple[str, str]] = set()  # (generation, id) that others have committed since
        self._blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="commits", daemon=True)
        self._thread.start()

    def add(self, block: Block) -> None:
        """Returns at once. Raises OutputError: an earlier commit failed."""
        if self._error:
            raise self._error
        self._blocks.put(block)

    def close(self) -> None:
        """Waits until all is committed. Raises OutputError."""
        self._blocks.put(None)
        self._thread.join()
        if self._error:
            raise self._error

    def _work(self) -> None:
        try:
            while blocks := self._next():
                self._commit(blocks)
        except BaseException as error:  # told where blocks are added
            self._error = error

    def _next(self) -> list[Block]:
        """All that have landed, at least one; [] at the end."""
        blocks = []
        while (block := self._blocks.get()) is not None:
            blocks.append(block)
            if self._blocks.empty():
                return blocks
        self._blocks.put(None)  # the end comes again after these
        return blocks

    def _commit(self, blocks: list[Block]) -> None:
        placed = [self._placed(block) for block in blocks]
        while True:
            placed = [left for block in placed if (left := self._not_taken(block)) is not None]
            if not placed:
                return
            version = self._log.version
            try:
                self._log.commit([block.file for block in placed])
            except Conflict:
                self._log.look()
                self._note_others()
                continue
            self._log.look()
            self._seen |= {block.file.path for block in placed}
            if self._log.version != version + 1 and version >= 0:  # others came right behind
                self._note_others()
            return

    def _placed(self, block: Block) -> Block:
        waits = not self.replacing.isdisjoint(block.ids)
        return block._replace(file=block.file.of(self.results.waiting)) if waits else block

    def _not_taken(self, block: Block) -> Block | None:
        """The block without rows that another driver was faster with; None if nothing is left of it."""
        left = [(block.file.generation, name) not in self._taken for name in block.ids]
        if all(left) or not self._taken:
            return block
        rest = self.results.read(block.file).filter(pa.array(left))
        if not rest.num_rows:
            return None
        return Block(self.results.write(rest, block.file.generation), rest["id"].to_pylist())

    def _note_others(self) -> None:
        """What others have committed in this generation since the last look."""
        for file in self._log.files(self.results.generation, self.results.waiting):
            if file.path not in self._seen and not self.results.is_of_others(file):
                ids = self.results.read(file, ["id"])["id"].to_pylist()
                self._taken |= {(file.generation, name) for name in ids}
                self._seen.add(file.path)


@contextmanager
def committing(results: Results, replacing: AbstractSet[str]) -> Iterator[Commits]:
    """What landed is committed at the end, after an error, too."""
    commits = Commits(results, replacing)
    try:
        yield commits
    finally:
        commits.close()
