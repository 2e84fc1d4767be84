"""The language model behind the analyzer: any OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, a hosted one), or a
transformers model in this process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from spacevllm.config import ConfigError
from spacevllm.data.synthesis.analyzer import ChatUnavailable, Message


class EndpointChat:
    """``POST <url>/chat/completions``, the OpenAI form; temperature 0.

    Args:
        url: up to and including ``/v1``.
        model: the name the endpoint knows it by.
        key_variable: environment variable that holds the API key; ``""``: none is sent.
        timeout_s: most seconds for one answer.

    Raises:
        ConfigError: ``key_variable`` is named but not set.
    """

    def __init__(self, url: str, model: str, key_variable: str = "", timeout_s: float = 60.0) -> None:
        key = os.environ.get(key_variable, "") if key_variable else ""
        if key_variable and not key:
            raise ConfigError(f"analyzer.key_variable: the environment variable {key_variable} is not set")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url, self.model = f"{url.rstrip('/')}/chat/completions", model
        limits = httpx.Limits(max_connections=None)  # how many at once is the caller's choice
        self.client = httpx.Client(timeout=timeout_s, headers=headers, limits=limits)

    def __call__(self, messages: Sequence[Message]) -> str:
        """The answer's text. Raises ChatUnavailable: no connection, time-out, error status, or another form."""
        request = {
            "model": self.model,
            "messages": list(messages),
            "temperature": 0,
            "response_format": {"type": "json_object"},
        }
        try:
            response = self.client.post(self.url, json=request)
            response.raise_for_status()
            content = response.json()["choices"][0]["message"]["content"]
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise ChatUnavailable(f"{self.url}: status {status}: {error.response.text[:200]}") from None
        except httpx.HTTPError as error:
            raise ChatUnavailable(f"{self.url}: {type(error).__name__}: {error}") from None
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ChatUnavailable(f"{self.url}: not OpenAI's form: {error!r}") from None
        if not isinstance(content, str):
            raise ChatUnavailable(f"{self.url}: the answer has no text")
        return content


class LocalChat:
    """A transformers language model with a chat template, greedy.

    Args:
        model: folder or hub name. device: torch's name; ``""`` takes a GPU if there is one.
        max_new_tokens: of one answer.

    Raises:
        ConfigError: the model cannot be loaded.
    """

    def __init__(self, model: str | Path, device: str = "", max_new_tokens: int = 128) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.max_new_tokens = max_new_tokens
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"analyzer.model {model}: no language model there: {reason}") from None
        self.model = loaded.to(self.device).eval()

    def __call__(self, messages: Sequence[Message]) -> str:
        tokens = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.device)
        written = self.model.generate(**tokens, max_new_tokens=self.max_new_tokens, do_sample=False)
        return str(self.tokenizer.decode(written[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))
