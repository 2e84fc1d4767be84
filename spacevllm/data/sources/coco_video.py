"""The user's own: COCO-style JSON about videos, in either of its two forms.

Per track, as YouTube-VIS: ``annotations`` have ``video_id`` and ``bboxes``, one x, y, w, h or null a frame;
``videos`` have ``width``, ``height`` and ``length``. Per image, as CocoVID: ``annotations`` have ``image_id``,
``bbox`` and ``instance_id`` or ``track_id``; ``images`` have ``video_id`` and a 0-based ``frame_id``. A video's
``name`` or ``file_name`` is its media, its ``fps`` is used if there is one. The question is an annotation's
``question`` or ``caption``, else its category's name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AliasChoices, Field

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import (
    Count,
    Dropped,
    Numbers4,
    Row,
    SourceFiles,
    Text,
    explain,
    from_xywh,
    load_json,
    rate,
)
from spacevllm.data.sources.tracks import Clip, Track, ask

WHERE = "your own: YouTube-VIS or CocoVID JSON"

_Frame = Annotated[int, Field(ge=0)]


class _Video(Row):
    name: Text = Field(validation_alias=AliasChoices("name", "file_name"))
    fps: Annotated[float, Field(gt=0)] | None = None
    width: Count
    height: Count
    length: Count


class _Named(Row):
    """What of an annotation may be its question."""

    category_id: int | None = None
    question: Text | None = Field(default=None, validation_alias=AliasChoices("question", "caption"))


class _Tube(_Named):
    id: int
    video_id: int
    bboxes: list[Numbers4 | None]


class _Box(_Named):
    image_id: int
    track: int = Field(validation_alias=AliasChoices("instance_id", "track_id"))
    bbox: Numbers4


class _Image(Row):
    id: int
    video_id: int
    frame_id: _Frame
    width: Count
    height: Count


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every track of one JSON file, or every question about them."""
    whole = load_json(files.annotations, dict)
    for name in ("videos", "annotations"):
        if not isinstance(whole.get(name), list):
            raise ConfigError(f"{files.annotations} has no list of {name}: COCO-style JSON about videos is needed")
    return ask("coco_video", files, _PerImage(whole).tracks() if whole.get("images") else _PerTrack(whole).tracks())


class _PerTrack:
    def __init__(self, whole: dict[str, Any]) -> None:
        self.videos, self.rows = _by_id(whole["videos"]), whole["annotations"]
        self.labels = {id: row.get("name") for id, row in _by_id(whole.get("categories")).items()}

    def tracks(self) -> Iterator[Track]:
        for number, row in enumerate(self.rows):
            id = str(row.get("id", f"#{number}")) if isinstance(row, dict) else f"#{number}"
            try:
                yield self._track(id, _Tube.model_validate(row))
            except ValueError as error:
                yield broken(id, error)

    def _track(self, id: str, tube: _Tube) -> Track:
        clip = clip_of(self.videos.get(tube.video_id))
        if len(tube.bboxes) > clip.num_frames:
            raise ValueError("bboxes: more than the video has frames")
        seen = {frame: box for frame, box in enumerate(tube.bboxes) if box is not None}
        return Track(clip, id, text_of(tube, self.labels), list(seen), from_xywh(list(seen.values())).tolist())


class _PerImage:
    def __init__(self, whole: dict[str, Any]) -> None:
        self.images, self.rows = _by_id(whole["images"]), whole["annotations"]
        self.labels = {id: row.get("name") for id, row in _by_id(whole.get("categories")).items()}
        self.videos = self._with_length(_by_id(whole["videos"]))

    def tracks(self) -> Iterator[Track]:
        boxes: dict[tuple[int, int], list[tuple[int, _Box]]] = defaultdict(list)
        errors: dict[tuple[int, int], ValueError] = {}
        for number, row in enumerate(self.rows):
            try:
                box = _Box.model_validate(row)
                image = self._image(box.image_id)
                boxes[image.video_id, box.track].append((image.frame_id, box))
            except ValueError as error:
                place = self._place(row)
                if place is None:
                    yield broken(f"#{number}", error)
                else:
                    errors.setdefault(place, error)
        for place in sorted({*boxes, *errors}):
            yield self._track(place, boxes[place], errors.get(place))

    def _track(self, place: tuple[int, int], boxes: list[tuple[int, _Box]], error: ValueError | None) -> Track:
        try:
            clip = clip_of(self.videos.get(place[0]))
            boxes = sorted(boxes, key=lambda pair: pair[0])
            corners = from_xywh([box.bbox for _, box in boxes]).tolist()
            text = text_of(boxes[0][1], self.labels) if boxes else ""
        except ValueError as wrong:
            return broken(str(place[1]), wrong)
        reason = explain(error) if error else ""
        return Track(clip, str(place[1]), text, [frame for frame, _ in boxes], corners, reason)

    def _image(self, id: int) -> _Image:
        if id not in self.images:
            raise ValueError("image_id is none of images")
        return _Image.model_validate(self.images[id])

    def _place(self, row: Any) -> tuple[int, int] | None:
        """Video and track of a broken box, if it says that much: it spoils its track, else it is one of its own."""
        if not isinstance(row, dict):
            return None
        image = self.images.get(row.get("image_id"), {})  # type: ignore[arg-type]  # any key may be asked for
        video, track = image.get("video_id"), row.get("instance_id", row.get("track_id"))
        return (video, track) if type(video) is int and type(track) is int else None

    def _with_length(self, videos: dict[int, Any]) -> dict[int, Any]:
        """Videos with the size of their images and, where they do not say it, the length that these reach."""
        found = {id: dict(row) for id, row in videos.items()}
        for image in self.images.values():
            row, frame = found.get(image.get("video_id")), image.get("frame_id")
            if row is None or type(frame) is not int:
                continue
            for name in ("width", "height"):
                row.setdefault(name, image.get(name))
            if "length" not in videos[image["video_id"]]:
                row["length"] = max(row.get("length", 0), frame + 1)
        return found


def clip_of(row: Any) -> Clip:
    """Raises ValueError: no such video, or not all is known of it."""
    if row is None:
        raise ValueError("video_id is none of videos")
    row = row if "name" in row or "file_name" in row else row | {"name": _folder(row.get("file_names"))}
    found = _Video.model_validate(row)
    return Clip(found.name, rate(found.fps) if found.fps else None, found.length, found.width, found.height)


def text_of(row: _Named, labels: dict[int, Any]) -> str:
    text = row.question or (labels.get(row.category_id) if row.category_id is not None else None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("category_id is none of categories, and there is no question")
    return text.strip()


def broken(id: str, error: ValueError) -> Track:
    return Track(Clip("", None, 0, 0, 0), id, "", [], [], explain(error))


def _folder(names: Any) -> Any:
    """YouTube-VIS names the frames: ``0043f083b5/00000.jpg`` → ``0043f083b5``."""
    return names[0].rpartition("/")[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def _by_id(rows: Any) -> dict[int, Any]:
    rows = rows if isinstance(rows, list) else []
    return {row["id"]: row for row in rows if isinstance(row, dict) and type(row.get("id")) is int}
