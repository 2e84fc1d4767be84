"""RefCOCO, RefCOCO+ (UNC) and RefCOCOg (UMD): expressions for one thing on a COCO train2014 image.

``refs(*).p`` are pickles of Python 2 (or the same as JSON): each ref has sentences, an ``ann_id`` into COCO's
``instances.json``, where its box stands as x, y, w, h, and a split of its own (``testA``: people, ``testB``: other
things). A question's id is ``<set>/<ref_id>/<sent_id>``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import (
    Count,
    Dropped,
    Numbers4,
    Row,
    SourceFiles,
    Text,
    check_boxes,
    convert_each,
    from_xywh,
    load_json,
)

PUBLISHED = {
    "refcoco": {"train": 120_624, "val": 10_834, "testA": 5_657, "testB": 5_095},
    "refcoco+": {"train": 120_191, "val": 10_758, "testA": 5_726, "testB": 4_889},
    "refcocog": {"train": 80_512, "val": 4_896, "test": 9_602},
}
WHERE = "github.com/lichengunc/refer (Apache-2.0); images: COCO train2014 (CC BY 4.0 annotations)"


class _Ref(Row):
    ref_id: int
    ann_id: int
    image_id: int
    split: Text


class _Sentence(Row):
    sent_id: int
    sent: Text


class _Box(Row):
    image_id: int
    bbox: Numbers4


class _Image(Row):
    file_name: Text
    width: Count
    height: Count


class _Coco(NamedTuple):
    """``instances.json``: rows by id, not looked into."""

    boxes: dict[int, Any]
    images: dict[int, Any]


_Item = tuple[Any, Any]  # ref, sentence


def read(name: str, files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every expression of split ``files.split``, ``""``: of all. ``name``: a key of ``PUBLISHED``."""
    assert files.instances is not None  # Source.needs
    coco = _load_coco(files.instances)
    sentences = _sentences(_load_refs(files.annotations), files.split)
    return convert_each(files.annotations, sentences, partial(_convert, name, files, coco))


def _sentences(refs: list[Any], split: str) -> Iterator[tuple[str, _Item]]:
    for number, ref in enumerate(refs):
        fields = ref if isinstance(ref, dict) else {}
        if split and fields.get("split", split) != split:
            continue
        sentences = fields.get("sentences")
        for sentence in sentences if isinstance(sentences, list) else [None]:
            sent_id = sentence.get("sent_id") if isinstance(sentence, dict) else None
            yield f"{fields.get('ref_id', f'#{number}')}/{sent_id}", (ref, sentence)


def _convert(name: str, files: SourceFiles, coco: _Coco, key: str, item: _Item) -> Instance:
    ref = _Ref.model_validate(item[0])
    if item[1] is None:
        raise ValueError("sentences: no list of sentences")
    sentence = _Sentence.model_validate(item[1])
    if ref.ann_id not in coco.boxes or ref.image_id not in coco.images:
        raise ValueError(f"{'ann_id' if ref.image_id in coco.images else 'image_id'} is not in COCO's instances")
    box, image = _Box.model_validate(coco.boxes[ref.ann_id]), _Image.model_validate(coco.images[ref.image_id])
    if box.image_id != ref.image_id:
        raise ValueError("ann_id belongs to another image than image_id")
    return Instance(
        id=f"{name}/{key}",
        task="rec",
        source=name,
        split=ref.split,
        media=files.media(image.file_name),  # the ref's own file_name ends in _<number>, which no file does
        media_type="image",
        question=sentence.sent,
        box_frames=[0],
        boxes=check_boxes(from_xywh([box.bbox]), image.width, image.height),
        width=image.width,
        height=image.height,
    )


def _load_coco(path: Path) -> _Coco:
    whole = load_json(path, dict)
    if not isinstance(whole.get("images"), list) or not isinstance(whole.get("annotations"), list):
        raise ConfigError(f"{path} has no images and annotations: give COCO's instances.json")
    return _Coco(_by_id(whole["annotations"]), _by_id(whole["images"]))


def _by_id(rows: list[Any]) -> dict[int, Any]:
    return {row["id"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), int)}


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, text and numbers only: a pickle from elsewhere may not name code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _load_refs(path: Path) -> list[Any]:
    if path.suffix == ".json":
        return load_json(path, list)
    try:
        refs = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except Exception as error:  # a damaged pickle raises anything at all
        raise ConfigError(f"{path} is no pickle of refs: {error}") from None
    if not isinstance(refs, list):
        raise ConfigError(f"{path}: expected a list of refs, found a {type(refs).__name__}")
    return refs
