"""Builds shards in this process, where few files may be open at once; prints chunks, buckets, and files opened.

``python few_open_files.py DATA OUT CHUNK_MB BUCKET_MB``: its own program, for the limit is that of a process, and Ray
needs more.
"""

from __future__ import annotations

import resource
import sys

from pipelines.core.tracking import Run, TrackingConfig
from pipelines.dataset.build_unistg import BuildUnistgConfig, _Build, read_through
from pipelines.dataset.build_unistg.chunks import find_files

LIMIT = 128


class HereBuild(_Build):
    """The same passes without Ray."""

    def _tasks(self, work, count):
        return map(work, range(count))


def main(data, out, chunk_mb, bucket_mb):
    off = TrackingConfig(enabled=False)
    config = BuildUnistgConfig(
        data=data, out=out, chunk_mb=float(chunk_mb), bucket_mb=float(bucket_mb), rows_per_shard=500, tracking=off
    )
    files = find_files(data)
    opened = []
    sys.addaudithook(lambda event, args: opened.append(args) if event == "open" and ".build" in str(args[0]) else None)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    build = HereBuild(config, files, read_through(files), Run(None, "", ""))
    build.run()
    print(len(build.chunks), build.recipe.num_buckets, len(opened))


if __name__ == "__main__":
    main(*sys.argv[1:])
