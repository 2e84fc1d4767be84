"""The user's own: «CVAT for video 1.1», the XML that cvat.ai exports for a task with tracks.

Frames are 0-based numbers of the video, also where the task has a start frame or a step. Boxes with ``outside="1"``
are no boxes. The question is the track's attribute ``question``, ``caption`` or ``description``, else its label. CVAT
does not save the frame rate: give ``--fps``. Not read: other shapes than boxes, exports of a whole project.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree
from xml.parsers import expat

from pydantic import ConfigDict, Field

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Count, Dropped, Row, SourceFiles, Text, explain
from spacevllm.data.sources.tracks import Clip, Track, ask

WHERE = "your own: in CVAT, Export task dataset → CVAT for video 1.1"
QUESTION = ("question", "caption", "description")


class _Attributes(Row):
    model_config = ConfigDict(strict=False)  # XML has text alone


class _Meta(_Attributes):
    source: Text
    width: Count
    height: Count
    stop_frame: Annotated[int, Field(ge=0)]


class _Box(_Attributes):
    frame: Annotated[int, Field(ge=0)]
    outside: bool = False
    xtl: float
    ytl: float
    xbr: float
    ybr: float


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every track of one ``annotations.xml``, or every question about them."""
    return ask("cvat", files, _tracks(files.annotations))


def _tracks(path: Path) -> Iterator[Track]:
    clip = None
    _refuse_doctype(path)
    try:
        for _, element in ElementTree.iterparse(path):
            if element.tag == "meta":
                clip = _clip(path, element)
            elif element.tag == "track":
                if clip is None:
                    raise ConfigError(f"{path} has no meta before its tracks: export as CVAT for video 1.1")
                yield _track(clip, element)
                element.clear()  # one track in memory at a time
    except ElementTree.ParseError as error:
        raise ConfigError(f"{path} is no XML: {error}") from None
    if clip is None:
        raise ConfigError(f"{path} has no meta: export as CVAT for video 1.1")


def _refuse_doctype(path: Path) -> None:
    """CVAT writes none; with one, entities could make a small file fill the memory."""

    def refuse(*_: object) -> None:
        raise ConfigError(f"{path} has a DOCTYPE, CVAT's exports have none: delete it")

    def begin(*_: object) -> None:
        begun.append(True)  # a document type stands before the first element

    begun: list[bool] = []
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler = refuse, begin
    with path.open("rb") as file, suppress(expat.ExpatError):  # no XML: whoever reads it says so
        while not begun and (some := file.read(1 << 12)):
            parser.Parse(some)


def _clip(path: Path, meta: ElementTree.Element) -> Clip:
    names = {"source": ".//source", "width": ".//original_size/width", "height": ".//original_size/height"}
    texts = {name: meta.findtext(where) for name, where in (names | {"stop_frame": ".//stop_frame"}).items()}
    try:
        found = _Meta.model_validate(texts)
    except ValueError as error:
        raise ConfigError(f"{path}: meta: {explain(error)}; export a task as CVAT for video 1.1") from None
    return Clip(found.source, None, found.stop_frame + 1, found.width, found.height)


def _track(clip: Clip, element: ElementTree.Element) -> Track:
    id = element.get("id") or "without id"
    try:
        every = [_Box.model_validate(box.attrib) for box in element.iter("box")]
    except ValueError as error:
        return Track(clip, id, "", [], [], explain(error))
    boxes = [box for box in every if not box.outside]
    words = {a.get("name"): a.text for a in element.iter("attribute")}
    text = next((words[name] for name in QUESTION if words.get(name)), None) or element.get("label") or ""
    wrong = "" if text.strip() else "the track has neither a question nor a label"
    corners = [[box.xtl, box.ytl, box.xbr, box.ybr] for box in boxes]
    return Track(clip, id, text.strip(), [box.frame for box in boxes], corners, wrong)
