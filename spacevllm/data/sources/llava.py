"""General instruction data in LLaVA's form: conversations about an image, a video, or neither.

``{"id": …, "image": "coco/train2017/1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat …?"},
{"from": "gpt", "value": "…"}, …]}``, or ``"video"`` for ``"image"``, or none of them: text alone. Every pair of turns
is a question of its own, without the turns before it. A record's own ``id`` is not unique in published mixtures, so a
question's id is ``llava/<file>/<record>/<pair>``, from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from typing import Any, Literal

from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Dropped, Row, SourceFiles, Text, convert_each, load_json

WHERE = "your own, or any mixture in this form: huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K (CC BY 4.0)"
PLACEHOLDERS = ("<image>", "<video>")  # where LLaVA puts the visual tokens; ours always stand first


class _Media(Row):
    image: Text | None = None
    video: Text | None = None


class _Question(Row):
    value: Text
    speaker: Literal["human"]


class _Answer(Row):
    value: Text
    speaker: Literal["gpt"]


_Item = tuple[Any, Any, Any]  # record, its question and its answer


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every question of one JSON list of conversations."""
    items = _turns(load_json(files.annotations, list))
    return convert_each(files.annotations, items, partial(_convert, files))


def _turns(records: list[Any]) -> Iterator[tuple[str, _Item]]:
    for number, record in enumerate(records):
        turns = record.get("conversations") if isinstance(record, dict) else None
        if not isinstance(turns, list) or not turns:
            yield str(number), (record, None, None)
            continue
        for i, (asked, answered) in enumerate(zip_longest(turns[::2], turns[1::2])):
            yield f"{number}/{i}", (record, asked, answered)


def _convert(files: SourceFiles, key: str, item: _Item) -> Instance:
    record, asked, answered = item
    if asked is None:
        raise ValueError("conversations: no list of turns")
    media = _Media.model_validate(record)
    if media.image and media.video:
        raise ValueError("an image and a video: which of them is meant?")
    name = media.image or media.video or ""
    if not name and _mentions_media(record):
        raise ValueError("the question shows an image or a video, and the record names none")
    question = _Question.model_validate(_turn(asked)).value
    for placeholder in PLACEHOLDERS:
        question = question.replace(placeholder, "")
    if not question.strip():
        raise ValueError("the question is empty")
    return Instance(
        id=f"llava/{files.annotations.stem}/{key}",
        task="qa",
        source="llava",
        split=files.split,
        media=files.media(name) if name else "",
        media_type="image" if media.image else "video" if media.video else "text",
        question=question.strip(),
        answer=_Answer.model_validate(_turn(answered)).value,
        num_frames=1 if media.image else 0,
        sentence_type="interrogative",
    )


def _mentions_media(record: dict[str, Any]) -> bool:
    """Whether any turn holds a placeholder; it stands in the first alone."""
    texts = [str(turn.get("value")) for turn in record["conversations"] if isinstance(turn, dict)]
    return any(placeholder in text for text in texts for placeholder in PLACEHOLDERS)


def _turn(turn: Any) -> Any:
    """``from`` is a word of Python's."""
    return turn | {"speaker": turn.get("from")} if isinstance(turn, dict) else turn
