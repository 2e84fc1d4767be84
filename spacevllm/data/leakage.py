"""Which records are about the same thing: what must not be trained on because it is tested, and what came twice.

HC-STVG v1 and v2 cut the same clips out of the same films and keep their names, so training on one and testing on the
other would test what was learned by heart (as in the paper, such training records are removed).
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

from spacevllm.data.instance import Instance

FAMILIES = {"hcstvg_v1": "hcstvg", "hcstvg_v2": "hcstvg"}  # sources whose clips are the same where their names are
PREFERRED = ("hcstvg_v2", "hcstvg_v1")  # of records that came twice, v2's: it was annotated again

TRAIN = "train"  # every other split is held out: val, test, testA, ...


def tested_thing(instance: Instance) -> int:
    """64 bits that are equal for a training record and a held-out one that tests the same.

    A video: the whole clip, whatever is asked. An image: the image with the expression (RefCOCO, RefCOCO+ and RefCOCOg
    share images across splits; without all of those the 321,327 training expressions of the paper would not be left).
    """
    parts = [_clip(instance)] if instance.media_type == "video" else [_clip(instance), _words(instance)]
    return _hash("tested", *parts)


def twin(instance: Instance) -> int | None:
    """64 bits, equal for records of sister sources about the same clip with the same words; None: it has no sister."""
    if instance.source not in FAMILIES:
        return None
    return _hash("twin", instance.split, instance.task, _clip(instance), _words(instance))


def preference(source: str) -> int:
    """Of twins, the one with the smallest number stays."""
    return PREFERRED.index(source) if source in PREFERRED else len(PREFERRED)


def _clip(instance: Instance) -> str:
    family = FAMILIES.get(instance.source)
    return f"{family}/{PurePosixPath(instance.media).stem}" if family else instance.media


def _words(instance: Instance) -> str:
    return " ".join(instance.question.lower().split()).rstrip(".?! ")


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big")
