"""The analyzer against a real endpoint that answers well, badly, late and not at all."""

from __future__ import annotations

import pytest
from chat_server import chat_server

from spacevllm.config import ConfigError
from spacevllm.data.synthesis.analyzer import AnalyzerOptions, find_objects, parse_objects
from spacevllm.data.synthesis.chat import EndpointChat
from spacevllm.data.synthesis.sample import Rejected

CAPTION = "the small red circle passes a blue square"
OBJECTS = ["the small red circle", "a blue square"]
QUICK = AnalyzerOptions(pause_s=0)


def analyze(plan, attempts=3, caption=CAPTION):
    with chat_server(plan) as (url, requests):
        chat = EndpointChat(url, "qwen", timeout_s=0.5)
        return find_objects(caption, chat, QUICK.model_copy(update={"attempts": attempts})), requests


def test_the_main_subject_comes_first():
    objects, [request] = analyze([])
    assert objects == OBJECTS
    assert request["path"] == "/v1/chat/completions" and request["model"] == "qwen" and request["temperature"] == 0
    assert request["response_format"] == {"type": "json_object"}
    assert request["messages"][-1] == {"role": "user", "content": f"Caption: {CAPTION}"}


@pytest.mark.parametrize("failure", [500, 429, "hang"])
def test_a_failed_request_is_tried_again(failure):
    objects, requests = analyze([failure, failure])
    assert objects == OBJECTS and len(requests) == 3


def test_garbage_is_sent_back_with_what_is_wrong():
    objects, requests = analyze(["Sure! The objects are:", '{"objects": "circle"}'])
    assert objects == OBJECTS and len(requests) == 3
    *_, said, complaint = requests[1]["messages"]
    assert said == {"role": "assistant", "content": "Sure! The objects are:"} and "no JSON" in complaint["content"]
    assert "objects: Input should be a valid list" in requests[2]["messages"][-1]["content"]
    assert len(requests[2]["messages"]) == 4  # only the last answer is quoted


@pytest.mark.parametrize(
    ("plan", "reason", "why"),
    [
        (["no", "still no"], "bad_answer", "still no"),
        (["no", 503], "no_answer", "status 503"),
        (["hang", "hang"], "no_answer", "ReadTimeout"),
        (['{"objects": []}'], "no_object", "names nothing"),
    ],
)
def test_what_does_not_help_is_rejected_with_its_reason(plan, reason, why):
    with pytest.raises(Rejected) as refusal:
        analyze(plan, attempts=2)
    assert refusal.value.reason == reason and why in refusal.value.message


def test_nobody_listens():
    with chat_server() as (url, _):
        pass
    with pytest.raises(Rejected, match=r"no_answer: .*ConnectError"):
        find_objects(CAPTION, EndpointChat(url, "qwen"), QUICK)


def test_the_key_comes_from_the_environment(monkeypatch):
    with pytest.raises(ConfigError, match="A_KEY is not set"):
        EndpointChat("http://127.0.0.1/v1", "qwen", key_variable="A_KEY")
    monkeypatch.setenv("A_KEY", "secret")
    with chat_server() as (url, requests):
        EndpointChat(url, "qwen", key_variable="A_KEY")([{"role": "user", "content": "Caption: a circle"}])
    assert requests[0]["key"] == "Bearer secret"


@pytest.mark.parametrize(
    ("answer", "objects"),
    [
        ('{"objects": ["a dog", " a  cat ", "a dog", ""]}', ["a dog", "a cat"]),
        ('```json\n{"objects": ["a dog"]}\n```', ["a dog"]),
        ('{"objects": []}', []),
    ],
)
def test_answers_that_are_read(answer, objects):
    assert parse_objects(answer) == objects


@pytest.mark.parametrize(
    "answer",
    ["", "a dog", '["a dog"]', '{"objects": ["a dog"], "note": 1}', '{"objects": [1]}', "{}", "null", "[" * 100_000],
)
def test_answers_that_are_not(answer):
    with pytest.raises(ValueError, match=r"JSON|objects|note|answer"):
        parse_objects(answer)
