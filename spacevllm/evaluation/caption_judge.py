"""TempCompass's captions through a judge: a language model answers a multiple-choice question from the caption alone.

As in the authors' eval_captioning.py (github.com/llyx97/TempCompass), with a prompt of our own: figures of different
judges do not compare. Any server with OpenAI's ``/chat/completions`` will do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from spacevllm.data.instance import Instance, instance_id
from spacevllm.evaluation.scoring import Answer

PROMPT = (
    "Here is a description of a video: {caption}\n\nAnswer from this description alone.\n{question}\n{options}\n"
    "Reply with the letter of the option that the description supports, or with None if it supports none."
)
REQUESTS_AT_ONCE, TRIES, TIMEOUT_S = 8, 3, 120


@dataclasses.dataclass(frozen=True)
class Judge:
    """A model behind OpenAI's protocol. url: up to ``/v1``. key: sent as a bearer token if there is one."""

    url: str
    model: str
    key: str = dataclasses.field(default_factory=lambda: os.environ.get("OPENAI_API_KEY", ""), repr=False)

    def ask(self, prompt: str) -> str:
        """What the model replies. Raises ConnectionError, after three tries, with the address and the reason."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        reason = ""
        for _ in range(TRIES):
            try:
                return self._post({**body, "max_tokens": 64})
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                reason = f"{type(error).__name__}: {error}"
                if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429:
                    break  # it will not change its mind
        raise ConnectionError(f"--judge {self.url}: no answer ({reason})")

    def _post(self, body: Mapping[str, object]) -> str:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        url = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])


def judge_captions(
    instances: Sequence[Instance],
    answers: Mapping[str, Answer | None],
    questions: Mapping[str, Instance],
    judge: Judge,
    verdicts: MutableMapping[str, str] | None = None,
) -> tuple[list[Instance], dict[str, Answer | None]]:
    """Captions as multiple choice: each gets its question's options and, as answer, what the judge chose.

    Args:
        questions: by the captions' ``Instance.id``: ``tempcompass.judging``. Other instances stay as they are.
        verdicts: replies of earlier runs, which are not asked for again; new ones are added as they come.

    Raises:
        ConnectionError: the judge does not answer; the replies before are in ``verdicts``.
    """
    verdicts = {} if verdicts is None else verdicts
    asked = [(name, question, answers.get(name)) for name, question in questions.items()]
    prompts = {name: _prompt(caption, question) for name, question, caption in asked if isinstance(caption, str)}
    keys = {name: _key(judge.model, name, prompt) for name, prompt in prompts.items()}
    new = [name for name in prompts if keys[name] not in verdicts]
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    try:
        for name, reply in zip(new, pool.map(judge.ask, (prompts[name] for name in new)), strict=True):
            verdicts[keys[name]] = reply
    finally:
        pool.shutdown(cancel_futures=True)  # where one got no answer, the others need not wait for theirs
    replies = {name: verdicts[key] for name, key in keys.items()}
    choices = [
        dataclasses.replace(i, options=questions[i.id].options, answer=questions[i.id].answer)
        if i.id in questions
        else i
        for i in instances
    ]
    return choices, {**answers, **replies}


def _key(model: str, name: str, prompt: str) -> str:
    """Another caption or another judge is another verdict."""
    return f"{model} {name} {instance_id(prompt)}"


def _prompt(caption: str, question: Instance) -> str:
    options = "\n".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(question.options))
    return PROMPT.format(caption=caption, question=question.question, options=options)
