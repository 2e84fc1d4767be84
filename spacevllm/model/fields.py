"""Fields of ``SpaceVLLMConfig`` as a person writes them, checked: apart from it, as it runs where pydantic is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches
from inspect import get_annotations
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spacevllm.config import ConfigError
from spacevllm.model.configuration import ONEVISION_FIELDS, SpaceVLLMConfig


def check_fields(fields: Mapping[str, Any], prefix: str = "") -> None:
    """Raises ConfigError for a name that ``SpaceVLLMConfig`` has not, or a value of another type: transformers'
    configurations take any name and any value. prefix: of the names, as their author wrote them."""
    types = get_annotations(SpaceVLLMConfig, eval_str=True)
    known = {f.name for f in dataclass_fields(SpaceVLLMConfig)} | ONEVISION_FIELDS
    for name, value in fields.items():
        if name not in known:
            near = "".join(f", did you mean {one!r}?" for one in get_close_matches(name, known, n=1))
            raise ConfigError(f"{prefix}{name}: unknown key{near}")
        try:
            TypeAdapter(types.get(name, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            raise ConfigError(f"{prefix}{name}: {error.errors()[0]['msg']} (got {value!r})") from None
