"""What the multiple-choice benchmarks share. A query's group (``Instance.sentence_type``) is what its table reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import SourceFiles

LETTERS = "ABCDEFGHIJ"


def quiz(
    files: SourceFiles,
    benchmark: str,
    key: str,
    media: str,
    question: str,
    options: Sequence[str],
    answer: str,
    group: str = "",
) -> Instance:
    """A question about a video of which only the name is known.

    Raises:
        ValueError: the answer is none of the options (where there are any), or two options are the same.
    """
    if options and answer not in options:
        raise ValueError("the answer is none of the options")
    if len(set(options)) < len(options):
        raise ValueError("two options are the same")
    return Instance(
        id=f"{benchmark}/{key}",
        task="qa",
        source=benchmark,
        split=files.split,
        media=files.media(media),
        media_type="video",
        question=question,
        options=list(options),
        answer=answer,
        sentence_type=group,
        num_frames=0,
    )


def json_files(path: Path) -> Iterator[Path]:
    """The file itself, or every ``*.json`` of a folder in order of name. Raises ConfigError if it holds none."""
    found = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not found:
        raise ConfigError(f"{path} holds no *.json")
    yield from found
