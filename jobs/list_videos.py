"""An archive → its manifest: what is there, in which version, how large."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from jobs.common import finish, say
from jobs.errors import OK
from pipelines.core import storage
from pipelines.media.entries import LISTED_SIZE, LISTED_VERSION
from pipelines.media.manifest import list_videos
from spacevllm.config import ConfigError


def run(videos: str, allow: list[str], out: str, dry_run: bool) -> int:
    """Writes ``out``, a Parquet file; returns the exit status."""
    if not out.lower().endswith(".parquet"):
        raise ConfigError(f"--out {out}: the manifest is a Parquet file, call it {out}.parquet")
    storage.need_bucket(out)
    rows = list_videos(videos, allow)
    if dry_run:
        say(f"# spacevllm list: everything checked, nothing done: {rows.num_rows} videos")
        return OK
    usable = rows.filter(pc.equal(rows["error"], ""))
    storage.write_table(out, _manifest(usable))
    left_out = rows.num_rows - usable.num_rows
    finish(f"manifest: {out} ({usable.num_rows} videos{f'; {left_out} left out: {_why(rows)}' if left_out else ''})")
    return OK


def _manifest(rows: pa.Table) -> pa.Table:
    """The columns that ``manifest`` reads: of a manifest that was listed, its parts and a row a question, too."""
    columns = {"video": rows["uri"], LISTED_VERSION: rows["version"], LISTED_SIZE: rows["size"]}
    columns |= {name: rows[name] for name in ("begin_s", "end_s") if rows[name].null_count < rows.num_rows}
    asked = pc.list_value_length(rows["questions"])
    if not pc.any(pc.greater(asked, 0)).as_py():
        return pa.table(columns)
    if pc.any(pc.equal(asked, 0)).as_py():
        raise ConfigError("some of these videos are asked something, others nothing: list them one after the other")
    of = pc.list_parent_indices(rows["questions"].combine_chunks())
    return pa.table(columns).take(of).append_column("question", pc.list_flatten(rows["questions"]))


def _why(rows: pa.Table) -> str:
    return next(error for error in rows["error"].to_pylist() if error)
