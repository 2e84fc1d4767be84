"""Videos that were sent or named, on disk: one folder each, within a byte budget; unused for longest, first to leave.

An upload's id is the SHA-256 of its bytes, so that names mean nothing and the same video is kept once. A file below the
media root stays where it is; its id is that of its address and version. A video enters only after it was decoded. The
folder may be shared by several processes: everything appears by one rename.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pipelines.core import storage
from pipelines.serve.problems import Problem

LEFT_S = 24 * 3600.0  # nothing is on its way in for so long
ID = re.compile(r"video-[0-9a-f]{40}")
ABOUT, CONTENT, INCOMING = "about.json", "content", ".incoming"
ANSWER, DRAWING = "answer-", "overlay-"  # one file each, in the order of their times of change
ANSWERS_KEPT, DRAWINGS_KEPT = 64, 4  # of one video


@dataclass(frozen=True)
class Video:
    """A video that can be asked.

    Attributes:
        id: names its bytes. name: as the client called it.
        path: of its bytes on this machine. version: of a file that is not the store's own, ``""`` for one that is.
        facts: width, height, fps, num_frames, duration_s, codec, container; times_s where the rate varies;
            start_s where the first frame comes late in the file's own clock.
    """

    id: str
    name: str
    path: str
    version: str
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """What clients see of it."""
        return {"id": self.id, "name": self.name, "probe": dict(self.facts)}


class VideoStore:
    """Blocking; safe to use from several threads and processes.

    Args:
        folder: local; made if need be. max_bytes: budget of what was sent and drawn.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.root = Path(folder)
        self.max_bytes = max_bytes
        (self.root / INCOMING).mkdir(parents=True, exist_ok=True)
        self._sweep()

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """An empty folder for a video on its way in; what is left of it at the end is removed."""
        with tempfile.TemporaryDirectory(dir=self.root / INCOMING, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def _sweep(self) -> None:
        """Removes what killed processes left; what other copies of the ingress are at work on is younger."""
        for left in os.scandir(self.root / INCOMING):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > LEFT_S:
                    shutil.rmtree(left.path, ignore_errors=True)

    def get(self, video_id: str) -> Video | None:
        """None if it was never here, has left, or is a file that has changed."""
        if not ID.fullmatch(video_id):
            return None
        folder = self.root / video_id
        try:
            video = Video(**storage.read_json(folder / ABOUT))
            os.utime(folder)
        except OSError:
            return None
        if video.version and storage.version(video.path) != video.version:
            return None
        return video

    def add(self, incoming: Path, video: Video) -> Video:
        """Keeps ``incoming``, which may hold ``content``, as ``video``; then ``trim`` makes room for it."""
        target = self.root / video.id
        if not video.version:
            video = Video(**{**asdict(video), "path": str(target / CONTENT)})
        storage.write_json(incoming / ABOUT, asdict(video))
        for _ in range(3):
            try:
                os.rename(incoming, target)
                break
            except OSError:
                if self.get(video.id):  # somebody else has just added the same
                    break
                self.remove(video.id)  # half a video, as a killed process leaves it
        return self.get(video.id) or video

    def remember(self, video: Video, question: str, answer: str) -> None:
        """Keeps the answer (JSON) to the question asked last about ``video``."""
        name, now = _answer_name(question), time.time_ns()
        with suppress(FileNotFoundError), self.incoming() as folder:  # not found: the video has left in the meantime
            storage.write_text(folder / name, answer)
            os.utime(folder / name, ns=(now, now))  # a file system's own clock may tick too slowly to tell two apart
            os.replace(folder / name, self.root / video.id / name)
        for old in self._newest_first(video, ANSWER)[ANSWERS_KEPT:]:
            old.unlink(missing_ok=True)

    def asked(self, video: Video, question: str = "") -> str | None:
        """The answer (JSON) to a question, default: the one asked last; None if it was not asked."""
        try:
            found = [self.root / video.id / _answer_name(question)] if question else self._newest_first(video, ANSWER)
            return storage.read_text(found[0]) if found else None
        except FileNotFoundError:
            return None

    def drawing(self, video: Video, key: str) -> Path | None:
        """What was drawn under ``key``; None if it was not, or is gone."""
        path = self.root / video.id / f"{DRAWING}{key}.mp4"
        try:
            os.utime(path)  # the one used last stays longest
        except FileNotFoundError:
            return None
        return path

    def add_drawing(self, video: Video, key: str, drawn: Path) -> Path:
        """Moves a drawing here; then ``trim`` makes room for it. Raises FileNotFoundError: the video has left."""
        path = self.root / video.id / f"{DRAWING}{key}.mp4"
        os.replace(drawn, path)
        for old in self._newest_first(video, DRAWING)[DRAWINGS_KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def remove(self, video_id: str) -> None:
        """With all that was made of it; gone at once for whoever looks, if it was here at all."""
        with suppress(FileNotFoundError), self.incoming() as folder:
            os.rename(self.root / video_id, folder / video_id)

    def _newest_first(self, video: Video, prefix: str) -> list[Path]:
        found = []
        with suppress(FileNotFoundError), os.scandir(self.root / video.id) as files:
            for file in files:
                if file.name.startswith(prefix):
                    with suppress(FileNotFoundError):
                        found.append((file.stat().st_mtime_ns, Path(file.path)))
        return [path for _, path in sorted(found, reverse=True)]

    def trim(self, keep: str) -> list[str]:
        """Removes the videos unused for longest, but for ``keep``, until the rest is within the budget; their ids."""
        removed: list[str] = []
        folders = sorted(self._folders())
        total = sum(size for _, size, _ in folders)
        for _, size, name in folders:
            if total <= self.max_bytes:
                break
            if name != keep:
                self.remove(name)
                removed.append(name)
                total -= size
        return removed

    def _folders(self) -> Iterator[tuple[float, int, str]]:
        """When each was used last, its bytes and its name; one that leaves meanwhile is left out."""
        for folder in self.root.iterdir():
            if ID.fullmatch(folder.name):
                with suppress(FileNotFoundError):
                    size = sum(file.stat().st_size for file in os.scandir(folder))
                    yield folder.stat().st_mtime, size, folder.name


def content_id(path: Path) -> str:
    """The id of a file's bytes."""
    with path.open("rb") as file:
        return _id(hashlib.file_digest(file, "sha256").hexdigest())


def address_id(uri: str, version: str) -> str:
    """The id of a file that stays where it is."""
    return _id(hashlib.sha256(f"{uri}\0{version}".encode()).hexdigest())


def save_upload(upload: IO[bytes], path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(upload, file, 1 << 20)


def _answer_name(question: str) -> str:
    return f"{ANSWER}{hashlib.sha256(question.encode(errors='surrogatepass')).hexdigest()[:40]}.json"


def _id(digest: str) -> str:
    return f"video-{digest[:40]}"


def missing(video: str) -> Problem:
    return Problem(404, "missing_video", f"{video[:200]}: no such video")
