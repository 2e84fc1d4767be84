"""What a run of ``ground`` has to do, as tables in DuckDB: a pair of a million videos with ten questions is a row of 28
bytes and no Python object, and what does not fit into memory lies on disk.

media      m, the columns of the manifest, part: what an id and a fingerprint say of it. In the order of the work.
texts      q, text: every question once
asked      m, n, q: what is asked of which media, each n-th of its questions
pairs      m, n, q, id, fingerprint: as numbers, exactly ``instance_id`` and ``made_from``
missing    those of them that are left to do, see ``pipelines.core.keys``
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.archive.predict import Model
from pipelines.archive.shards import Shard
from pipelines.archive.work import QUESTION, WORK, clash, seen_by
from pipelines.core import sql, storage
from pipelines.core.ids import Ids
from pipelines.core.keys import Keys
from pipelines.core.results import Again, Results, Wanted
from pipelines.media.stream import Chunks
from spacevllm.config import ConfigError
from spacevllm.windows import Windows

SEPARATOR = "\x1f"  # of ``instance_id``
TASK = "stvg"
FOLDER, FEW = ".plan", 1000  # in OUT, where there are more media than few
BEFORE, AFTER = f"{SEPARATOR}{TASK}{SEPARATOR}", f"{SEPARATOR}{()}"  # a question's part of a fingerprint: no options
STRIDE, CHUNK = 1 << 14, 1 << 11  # media that are brought into Python together, and into one file

_HASH = "('0x' || sha256({})[:16])::UBIGINT"
_ID = _HASH.format("id || ? || text")
_PAIRS = f"""CREATE OR REPLACE TABLE pairs AS SELECT m, n, q, {_ID} AS id,
    CASE WHEN version IS NOT NULL THEN {_HASH.format("version || ? || part || ? || text || ?")} END AS fingerprint
    FROM asked JOIN media USING (m) JOIN texts USING (q)"""
_OWN = """CREATE TABLE own AS WITH found AS (
        SELECT m, text, min(place) AS place FROM (
            SELECT m, unnest(questions) AS text, generate_subscripts(questions, 1) AS place FROM media
            UNION ALL SELECT m, text, place + 1000000 FROM named)
        WHERE text NOT IN (SELECT text FROM texts) GROUP BY m, text)
    SELECT m, text, ? + row_number() OVER (PARTITION BY m ORDER BY place) - 1 AS n FROM found
    WHERE text <> '' OR (? = 0 AND m NOT IN (SELECT m FROM found WHERE text <> ''))"""
_ASKED = """CREATE VIEW asked AS
    SELECT m, q AS n, q FROM media CROSS JOIN (SELECT q FROM texts WHERE q < {everywhere})
    UNION ALL SELECT m, n::UINTEGER, q FROM own JOIN texts USING (text)"""
_CALLED = "SELECT m, uri FROM media WHERE string_split(rtrim(uri, '/'), '/')[-1] IN (SELECT name FROM names)"
_AMONG = """SELECT printf('%016x', id), CASE WHEN fingerprint IS NOT NULL THEN printf('%016x', fingerprint) END
    FROM pairs WHERE id IN (SELECT TRY_CAST('0x' || id AS UBIGINT) FROM looked_up WHERE length(id) = 16)"""
_TODO = """CREATE OR REPLACE TABLE todo AS SELECT m, (row_number() OVER (ORDER BY m) - 1)::UINTEGER AS place
    FROM (SELECT DISTINCT m FROM missing)"""
_MEDIA = """SELECT uri, media, begin_s, end_s, error FROM todo JOIN media USING (m)
    WHERE place >= ? AND place < ? ORDER BY place"""
_QUESTIONS = """SELECT place, printf('%016x', id) AS id, text AS question,
    CASE WHEN fingerprint IS NULL THEN '' ELSE printf('%016x', fingerprint) END AS fingerprint
    FROM todo JOIN missing USING (m) JOIN texts USING (q) WHERE place >= ? AND place < ? ORDER BY place, n"""


class Plan:
    """The tables above, in an empty database; ``ask``, ``mark`` and ``find_missing`` fill them, in this order."""

    def __init__(self, database: sql.Database) -> None:
        self.database = database
        self.everywhere = 0  # so many texts are asked of every media

    def ask(self, manifest: pa.Table, questions: Sequence[tuple[str, str]]) -> None:
        """Pairs the media with the questions.

        Args:
            manifest: rows of ``manifest.SCHEMA``.
            questions: (video, question); an empty video means every video.

        Raises:
            ConfigError: a question names a video that is not there, or more than one.
        """
        rows = manifest.append_column("part", _parts(manifest)).append_column("m", _order(manifest))
        with self._given("rows", rows):
            self.database.execute("CREATE TABLE media AS FROM rows")
        everywhere = list(dict.fromkeys(text for video, text in questions if not video))
        texts = {"q": np.arange(len(everywhere), dtype=np.uint32), "text": pa.array(everywhere, pa.string())}
        with self._given("rows", pa.table(texts)):
            self.database.execute("CREATE TABLE texts AS FROM rows")
        with self._given("named", self._named([(video, text) for video, text in questions if video])):
            self.database.execute(_OWN, [len(everywhere), len(everywhere)])
        new = "SELECT ? + row_number() OVER () - 1, text FROM (SELECT DISTINCT text FROM own)"
        self.database.execute(f"INSERT INTO texts {new}", [len(everywhere)])
        self.database.execute(_ASKED.format(everywhere=len(everywhere)))
        self.everywhere = len(everywhere)

    def keep(self, shard: Shard) -> None:
        """Leaves the media of the other shards out."""
        mine = f"{_HASH.format('id')} % {shard.of} = {shard.number - 1}"
        self.database.execute(f"DELETE FROM media WHERE NOT ({mine})")
        self.database.execute("DELETE FROM own WHERE m NOT IN (SELECT m FROM media)")

    @property
    def num_pairs(self) -> int:
        return int(sql.value(self.database, "SELECT count(*) FROM asked"))

    @property
    def num_media(self) -> int:
        """About which something is asked."""
        asked = "SELECT count(*) FROM media WHERE ? > 0 OR m IN (SELECT m FROM own)"
        return int(sql.value(self.database, asked, self.everywhere))

    def mark(self, model: Model, windows: Windows) -> None:
        """Gives every pair its id and fingerprint.

        Raises:
            ConfigError: two pairs have one id, as the name of a file may make them; one of them would get no answer.
        """
        seen = SEPARATOR + SEPARATOR.join(map(str, seen_by(model, windows)))
        self.database.execute(_PAIRS, [SEPARATOR, seen, BEFORE, AFTER])
        doubled = "SELECT id FROM pairs GROUP BY id HAVING count(*) > 1"
        which = f"FROM pairs p JOIN media USING (m) JOIN texts USING (q) WHERE p.id IN ({doubled}) ORDER BY p.id, m, n"
        if twice := self.database.execute(f"SELECT uri, text {which} LIMIT 2").fetchall():
            raise clash(*twice[1])

    @property
    def ids(self) -> Ids:
        """Of every pair, whichever model answers."""
        query = f"SELECT {_ID} AS id FROM asked JOIN media USING (m) JOIN texts USING (q)"
        return Ids(self.database.execute(query, [SEPARATOR]).fetchnumpy()["id"])

    def among(self, ids: pa.ChunkedArray) -> Wanted:
        """``Wanted``, of those of ``ids`` that are in the plan."""
        with self._given("looked_up", pa.table({"id": ids})):
            return dict(self.database.execute(_AMONG).fetchall())

    def find_missing(self, results: Results, again: Again) -> Keys:
        """Looks up what is done; returns what was read for it."""
        results.prepare(self.among)
        keys = Keys(self.database, results)
        keys.find_missing(again)
        self.database.execute(_TODO)
        return keys

    @property
    def num_missing(self) -> int:
        return int(sql.value(self.database, "SELECT count(*) FROM missing"))

    @property
    def num_missing_media(self) -> int:
        return int(sql.value(self.database, "SELECT count(*) FROM todo"))

    @property
    def replacing(self) -> Ids:
        """Those missing whose rows will take the place of others, see ``Results.done``."""
        return Ids(self.database.execute("SELECT id FROM missing WHERE replaces").fetchnumpy()["id"])

    def work(self) -> Iterator[pa.Table]:
        """What is missing: rows of ``WORK``, at most ``CHUNK`` at a time."""
        for first in range(0, self.num_missing_media, STRIDE):
            media, questions = (sql.arrow(self.database, q, first, first + STRIDE) for q in (_MEDIA, _QUESTIONS))
            rows = _nested(media, questions)
            yield from (rows.slice(start, CHUNK) for start in range(0, rows.num_rows, CHUNK))

    @contextmanager
    def spread(self, out: str, shard: str = "") -> Iterator[pa.Table | Chunks]:
        """What is missing, for Ray: little of it as a table; more as files in ``out``, which every node can read, until
        the block ends."""
        folder = storage.join(storage.absolute(out), f"{FOLDER}-{shard}" if shard else FOLDER)
        for left in [folder] if shard else storage.begin_with(folder):  # by a run that was killed
            storage.remove_folder(left)
        if self.num_missing_media < FEW:
            yield pa.concat_tables([WORK.empty_table(), *self.work()])
            return
        files = [storage.join(folder, f"{first:09d}.parquet") for first in range(0, self.num_missing_media, CHUNK)]
        try:
            for uri, table in zip(files, self.work(), strict=True):
                storage.write_table(uri, table)
            yield Chunks(files, self.num_missing_media)
        finally:
            storage.remove_folder(folder)

    @contextmanager
    def _given(self, name: str, table: pa.Table) -> Iterator[None]:
        """``table`` can be read as ``name``."""
        self.database.register(name, table)
        try:
            yield
        finally:
            self.database.unregister(name)

    def _named(self, questions: Sequence[tuple[str, str]]) -> pa.Table:
        """Questions about one video each: m, text, place."""
        names = pa.array(list({storage.name(video) for video, _ in questions}), pa.string())
        by_name: dict[str, list[tuple[int, str]]] = {}
        with self._given("names", pa.table({"name": names})):
            for m, uri in self.database.execute(_CALLED).fetchall():
                by_name.setdefault(storage.name(uri), []).append((m, uri))
        found = [_find_video(by_name.get(storage.name(video), []), video) for video, _ in questions]
        columns = {"m": pa.array(found, pa.uint32()), "text": pa.array([text for _, text in questions], pa.string())}
        return pa.table(columns | {"place": pa.array(range(len(found)), pa.int64())})


@contextmanager
def open_plan() -> Iterator[Plan]:
    with sql.open_database() as database:
        yield Plan(database)


def _find_video(rows: Sequence[tuple[int, str]], name: str) -> int:
    """The row whose uri is ``name`` or ends with it, of those that share its last part."""
    found = [m for m, uri in rows if uri == storage.absolute(name)]
    found = found or [m for m, uri in rows if uri.endswith("/" + name.removeprefix("./"))]
    if len(found) != 1:
        raise ConfigError(f"a question names the video {name!r}: {len(found) or 'none'} of the videos are called so")
    return found[0]


def _order(manifest: pa.Table) -> pa.Array:
    """Each media's place in the work, (M,) uint32: the largest first, so that none is left over at the end."""
    place = np.empty(manifest.num_rows, np.uint32)
    size = pc.fill_null(manifest["size"], -1).to_numpy()  # (M,)
    place[np.argsort(-size, kind="stable")] = np.arange(len(place))
    return pa.array(place)


def _parts(manifest: pa.Table) -> pa.Array:
    """Which part of a media a fingerprint is about, as Python writes its numbers; ``""``: all of it."""
    if manifest["begin_s"].null_count == manifest["end_s"].null_count == manifest.num_rows:
        return pa.array([""], pa.string()).take(pa.array(np.zeros(manifest.num_rows, np.int64)))
    borders = zip(manifest["begin_s"].to_pylist(), manifest["end_s"].to_pylist(), strict=True)
    parts = ("" if part == (None, None) else "".join(f"{SEPARATOR}{border}" for border in part) for part in borders)
    return pa.array(parts, pa.string())


def _nested(media: pa.Table, questions: pa.Table) -> pa.Table:
    """Each media with its questions. questions: in the order of the media, ``place`` says of which they are."""
    questions = questions.combine_chunks()
    first = np.flatnonzero(np.diff(questions["place"].to_numpy(), prepend=-1))  # (M,)
    count = questions.num_rows
    columns = {name: questions[name].combine_chunks() for name in ("id", "question", "fingerprint")} | {
        "task": pa.array([TASK]).take(pa.array(np.zeros(count, np.int64))),
        "options": pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.string())),
    }
    asked = pa.StructArray.from_arrays([columns[f.name].cast(f.type) for f in QUESTION], fields=list(QUESTION))
    lists = pa.ListArray.from_arrays(pa.array(np.append(first, count).astype(np.int32)), asked)
    return media.append_column("questions", lists).cast(WORK)
