"""Finished rows: a Delta table, whose log says what is done.

Workers write Parquet files; a commit by the driver makes them rows (``commits.py``), and a file that no commit names is
none. So neither a second driver nor workers that outlive theirs can leave a row twice. A row carries

    id            what it answers: a hash of uri (and question)
    status        "ok" or "failed"
    error         "" or "<reason>: <message>"
    fingerprint   a hash of everything else it was made from: the video's bytes, the model, the sampling plan

and belongs to a *generation*: what one model answered in one way. Another model adds rows beside, and removes none.
A row that takes another's place (its video has changed, or it had failed) waits in a partition of its own until
``settle`` exchanges the two in one commit.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import storage
from pipelines.core.delta import Conflict, File, Log
from spacevllm.data.instance import instance_id

KEY = ["id", "status", "error", "fingerprint"]
ONLY = "all"  # the generation of what needs no model
WAITING = ".waiting"  # behind a generation's name
SETTLED_BYTES = 256 << 20  # waiting rows that are held at once

Wanted = Mapping[str, str | None]  # id → fingerprint; None: it cannot be told now, so whatever is there stands
Lookup = Callable[[pa.ChunkedArray], Wanted]  # the same of so many ids alone, where all are too many for Python
Again = Callable[[str], bool]  # of a failed row's ``error``: whether to try once more


class Row(NamedTuple):
    """What decides whether a row is done."""

    id: str
    status: str
    error: str
    fingerprint: str

    def stands(self, fingerprint: str | None, again: Again) -> bool:
        """Whether nothing is to be done about it."""
        if self.status != "ok" and again(self.error):
            return False
        return self.fingerprint == fingerprint or (fingerprint is None and self.status == "ok")


class Results:
    """The rows of one generation of the table in ``folder``. Holds no data and may travel to workers.

    Args:
        keep_good: a failed row never takes the place of a good one. It waits on, as the newest that is known, while
            readers see the good one.
        shard: name of the part of the work that this driver does, such as ``1-of-4``.
    """

    def __init__(self, folder: str, generation: str = ONLY, keep_good: bool = False, shard: str = "") -> None:
        self.folder, self.generation, self.waiting = storage.absolute(folder), generation, generation + WAITING
        self.keep_good, self.shard = keep_good, shard

    def write(self, table: pa.Table, generation: str = "", shard: str = "") -> File:
        """Writes a file that is not part of the table yet. Raises OutputError.

        Args:
            shard: the one whose work all its rows are.
        """
        name = f"part-{shard}{'-' * bool(shard)}{uuid.uuid4().hex}.parquet"
        size = storage.write_table(storage.join(self.folder, name), table)
        return File(name, size, table.num_rows, generation or self.generation)

    def read(self, file: File, columns: list[str] | None = None) -> pa.Table:
        return storage.read_table(self.uri(file), columns)

    def is_of_others(self, file: File) -> bool:
        """Whether it holds only the work of other shards, as its name says."""
        found = re.fullmatch(r"part-(\d+-of-(\d+))-\w+\.parquet", file.path)
        return bool(found and self.shard and found[1] != self.shard and self.shard.endswith(f"-of-{found[2]}"))

    def uri(self, file: File) -> str:
        return storage.join(self.folder, file.path)

    def uris(self) -> list[str]:
        """The Parquet files that hold the rows that readers see. Of a folder of earlier releases: all of them."""
        log = Log(self.folder)
        return [self.uri(file) for file in log.files(self.generation)] if log.there else loose_files(self.folder)

    def table(self, columns: list[str]) -> pa.Table:
        """All rows that readers see; FileNotFoundError: there are none."""
        uris = self.uris()
        if not uris:
            raise FileNotFoundError(f"no rows in {self.folder}")
        return pa.concat_tables([storage.read_table(uri, columns) for uri in uris], promote_options="default")

    def rows(self, columns: list[str]) -> Iterator[tuple[dict[str, Any], str]]:
        """Every row that readers see with the file it lies in, one file at a time."""
        for uri in self.uris():
            for row in storage.read_table(uri, columns).to_pylist():
                yield row, uri

    def done(self, wanted: Wanted, again: Again | bool = False) -> tuple[set[str], set[str]]:
        """The wanted ids that are done, and those to be done whose row will take the place of another.

        Args:
            again: which failed rows are to be done once more.
        """
        once_more = again if callable(again) else lambda _: bool(again)
        self.prepare(wanted)
        done, there = set(), set()
        for row in self._key_rows(Log(self.folder).files(self.generation, self.waiting)):
            if row.id in wanted:
                there.add(row.id)
                if row.stands(wanted[row.id], once_more):
                    done.add(row.id)
        return done, there - done

    def prepare(self, wanted: Wanted | Lookup) -> None:
        """What has to be done before anybody asks which rows there are."""
        if not Log(self.folder).there:
            self._adopt()
        self.settle(wanted)

    def compact(self) -> None:
        """After a long run: a file a block would make each later look at the table slow."""
        Log(self.folder).compact(self.generation)

    def _adopt(self) -> None:
        """The files of an earlier release, whose folder had no log, become rows of this generation."""
        seen: set[str] = set()
        come, doubled = [], []
        for uri in loose_files(self.folder):
            table = storage.read_table(uri)
            first = [not (name in seen or seen.add(name)) for name in table["id"].to_pylist()]  # type: ignore[func-returns-value]
            if all(first):
                come.append(File(storage.name(uri), storage.size(uri), table.num_rows, self.generation))
            elif any(first):
                come.append(self.write(table.filter(pa.array(first))))
            doubled += [] if all(first) else [uri]
        if come:
            with suppress(Conflict):  # another driver has just done the same
                Log(self.folder).commit(come)
        for uri in doubled:
            storage.remove(uri)

    def collect(self, wanted: Wanted, columns: list[str] | None = None) -> pa.Table:
        """The wanted rows in the order of their ids, each as it was made last; ``columns`` must hold ``KEY``."""
        self.settle(wanted)
        tables = []
        for file in Log(self.folder).files(self.generation, self.waiting):
            table = self.read(file, columns)
            hidden = file.generation == self.waiting
            tables.append(table.filter(pa.array([_fits(row, wanted, hidden) for row in key_rows(table)], pa.bool_())))
        if not tables:
            return pa.table({name: pa.array([], pa.string()) for name in columns or KEY})
        return pa.concat_tables(tables, promote_options="default").sort_by("id")  # older rows may lack a column

    def settle(self, wanted: Wanted | Lookup) -> None:
        """Lets waiting rows take their places, each bundle of files in one commit; those of other shards wait on."""
        log = Log(self.folder)
        bundles = list(_bundles([file for file in log.files(self.waiting) if not self.is_of_others(file)]))
        for files in bundles:
            while not self._settled(log, files, wanted):
                log.look()  # somebody else has committed: the places may have changed
                files = [file for file in log.files(self.waiting) if file in files]
            log.look()
        if bundles:
            log.sweep()

    def _settled(self, log: Log, files: list[File], asked: Wanted | Lookup) -> bool:
        if not files:
            return True
        in_order = sorted(files, key=lambda file: file.added)
        waiting = pa.concat_tables([self.read(file) for file in in_order], promote_options="default")
        wanted = asked(waiting["id"]) if callable(asked) else asked
        rows = list(key_rows(waiting))
        newest = _newest(rows, wanted)
        held = {row.id: row for row in self._key_rows(log.files(self.generation), waiting["id"])}
        places = [
            self._place(row, held.get(row.id), wanted) if newest[row.id] == number else None
            for number, row in enumerate(rows)
        ]
        if self.shard:
            places = [p if row.id in wanted else WAITING for p, row in zip(places, rows, strict=True)]
        if all(place == WAITING for place in places):
            return True
        moved, kept = (waiting.filter(pa.array([place == p for place in places], pa.bool_())) for p in ("", WAITING))
        gone, come = list(files), [self.write(t, g) for t, g in ((moved, ""), (kept, self.waiting)) if t.num_rows]
        for file in log.files(self.generation):
            if self.is_of_others(file):
                continue
            goes = _among(self.read(file, ["id"]), moved["id"])
            if pc.any(goes).as_py():
                gone.append(file)
                rest = self.read(file).filter(pc.invert(goes))
                come += [self.write(rest)] if rest.num_rows else []
        try:
            log.commit(come, gone)
        except Conflict:
            return False
        return True

    def _place(self, row: Row, held: Row | None, wanted: Wanted) -> str | None:
        """Of the newest row of an id. ``""``: in the table; WAITING: a failure behind a good row; None: nowhere, the
        good row is right again."""
        if not self.keep_good or held is None or row.status == "ok" or held.status != "ok":
            return ""
        return None if held.fingerprint == wanted.get(row.id) else WAITING

    def _key_rows(self, files: list[File], ids: pa.ChunkedArray | None = None) -> Iterator[Row]:
        """Args: ids: only their rows."""
        for file in files:
            table = self.read(file, KEY)
            yield from key_rows(table if ids is None else table.filter(_among(table, ids)))


def _among(table: pa.Table, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which of its rows have one of ``ids``; (N,) bool."""
    return pc.is_in(table["id"], ids.combine_chunks())


def _newest(rows: list[Row], wanted: Wanted) -> dict[str, int]:
    """Id → the place of its row: the one that is wanted, else the last. Clocks of two machines may differ."""
    newest: dict[str, int] = {}
    for number, row in enumerate(rows):
        before = newest.get(row.id)
        if before is None or row.fingerprint == wanted.get(row.id) or rows[before].fingerprint != wanted.get(row.id):
            newest[row.id] = number
    return newest


def _fits(row: Row, wanted: Wanted, hidden: bool) -> bool:
    """Whether it is the newest of its id: of what cannot be told now, that is the one that readers see."""
    if row.id not in wanted:
        return False
    return not hidden if wanted[row.id] is None else row.fingerprint == wanted[row.id]


def _bundles(files: list[File]) -> Iterator[list[File]]:
    """Files that are read together."""
    bundle: list[File] = []
    for file in files:
        if bundle and sum(f.size for f in bundle) + file.size > SETTLED_BYTES:
            yield bundle
            bundle = []
        bundle.append(file)
    if bundle:
        yield bundle


def made_from(version: str | None, *others: object) -> str:
    """A fingerprint; ``""``: the file cannot be looked at now."""
    return "" if version is None else instance_id(version, *others)


def wanted_rows(work: pa.Table) -> Wanted:
    """Of a table with columns id and fingerprint."""
    pairs = zip(work["id"].to_pylist(), work["fingerprint"].to_pylist(), strict=True)
    return {name: fingerprint or None for name, fingerprint in pairs}


def key_rows(table: pa.Table) -> Iterator[Row]:
    return map(Row, *(table[name].to_pylist() for name in KEY))


def loose_files(folder: str) -> list[str]:
    """Parquet files of a folder, whatever its log says."""
    return [uri for uri in storage.find(folder) if uri.endswith(".parquet")]


def count_rows(table: pa.Table, expected: int) -> dict[str, object]:
    """``{"in", "ok", "failed", "errors": {reason: count}}`` of finished rows with columns status and error.

    Raises:
        RuntimeError: rows are missing or doubled; in = ok + failed is the promise of every summary.
    """
    ok = table["status"].to_pylist().count("ok")
    if table.num_rows != expected or len(set(table["id"].to_pylist())) != expected:
        raise RuntimeError(f"{expected} rows expected, {table.num_rows} found: run the same command again")
    errors = Counter(text.partition(":")[0] for text in table["error"].to_pylist() if text)
    return {"in": expected, "ok": ok, "failed": expected - ok, "errors": dict(errors.most_common())}
