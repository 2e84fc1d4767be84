"""Films through the service: window by window, told of as events, and given up when nobody listens any more."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest
from serving import QUESTIONS, assert_problem, events, metric, write_film

from pipelines.serve.events import stream
from pipelines.serve.problems import Problem
from spacevllm.predictor import Predictor
from spacevllm.windows import Walked

SECONDS, WINDOWS = 120, 14  # of 16 s, half overlapping
LONG, MANY = 7200, 899


@pytest.fixture(scope="module")
def client(served):
    with httpx.Client(base_url=served(), timeout=600) as http:
        yield http


@pytest.fixture(scope="module")
def film(media_root):
    return write_film(media_root / "film.mp4", SECONDS)


@pytest.fixture(scope="module")
def long_film(media_root):
    return write_film(media_root / "long.mp4", LONG)


@pytest.mark.slow
def test_progress_then_what_the_predictor_says(client, film, decided_model):
    asked = {"video": "film.mp4", "questions": QUESTIONS}
    with client.stream("POST", "/v1/ground", json=asked | {"stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        *progress, (last, result) = events(answer.iter_lines())
    assert last == "result" and [name for name, _ in progress] == ["progress"] * (WINDOWS + 1)
    assert [told["done"] for _, told in progress] == list(range(WINDOWS + 1))
    assert {told["total"] for _, told in progress} == {WINDOWS}
    assert progress[0][1]["best"] == [None, None]
    for best, tube in zip(progress[-1][1]["best"], result["tubes"], strict=True):
        assert best["question"] == tube["question"] and best["confidence"] == pytest.approx(tube["confidence"], 1e-3)
    assert [tube["windows"] for tube in result["tubes"]] == [WINDOWS] * 2
    for tube, expected in zip(result["tubes"], Predictor.load(decided_model).ground(film, QUESTIONS), strict=True):
        assert (tube["begin_s"], tube["end_s"]) == (expected.begin_s, expected.end_s)
        np.testing.assert_allclose([box[1:] for box in tube["boxes"]], expected.boxes, atol=0.05)
    whole = client.post("/v1/ground", json=asked).json()
    assert [t | {"confidence": 0} for t in whole["tubes"]] == [t | {"confidence": 0} for t in result["tubes"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [{"data": {"question": QUESTIONS[0], "stream": "true"}},
     {"data": {"question": QUESTIONS[0]}, "headers": {"accept": "text/event-stream"}}],
)  # fmt: skip
def test_an_uploaded_clip_is_seen_at_once(client, media_root, sent):
    with client.stream("POST", "/v1/ground", files={"file": (media_root / "clip.mp4").open("rb")}, **sent) as answer:
        [(name, result)] = events(answer.iter_lines())
    assert name == "result" and result["tubes"][0]["windows"] == 1 and result["video"] == "clip.mp4"


@pytest.mark.slow
def test_what_fails_before_the_first_event_is_an_error_as_ever(client):
    for video, status, reason in (("none.mp4", 404, "missing_video"), ("text.mp4", 422, "not_a_video")):
        answer = client.post("/v1/ground", json={"video": video, "question": "what?", "stream": True})
        assert_problem(answer, status, reason)
    assert_problem(client.post("/v1/ground", json={"video": "film.mp4", "stream": True}), 400, "no_question")
    assert_problem(client.post("/v1/ground", json={"video": "a", "question": "b", "stream": "x"}), 400, "bad_request")


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_away_stops_the_work(client, long_film, streamed):
    before = metric(client, "spacevllm_batch_seconds_count")
    asked = {"video": "long.mp4", "question": QUESTIONS[0], "stream": streamed}
    if streamed:
        with client.stream("POST", "/v1/ground", json=asked) as answer:
            told = events(answer.iter_lines())
            assert [next(told)[1]["done"] for _ in range(3)] == [0, 1, 2]
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/ground", json=asked, timeout=httpx.Timeout(600, read=0.5))
    while metric(client, "spacevllm_requests_in_work"):
        pass
    assert metric(client, "spacevllm_batch_seconds_count") - before < MANY / 2
    assert client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_windows_that_cannot_be_read_any_more_are_counted(client, long_film):
    client.post("/v1/videos", json={"uri": "long.mp4"})
    with client.stream("POST", "/v1/ground", json={"video": "long.mp4", "question": "a", "stream": True}) as answer:
        told = events(answer.iter_lines())
        assert [next(told)[1]["done"] for _ in range(3)] == [0, 1, 2]
        long_film.unlink()
        *_, (name, result) = told
    [tube] = result["tubes"]
    assert name == "result" and tube["windows"] + tube["windows_unread"] == MANY and tube["windows_unread"] > 0


SCOPE = {"type": "http", "asgi": {"spec_version": "2.4"}}


async def still_there():
    """A client that listens on."""
    return await asyncio.Event().wait()


def streamed(work):
    """What is sent until the end, which is told."""

    async def run():
        ended, sent = asyncio.Event(), []

        async def send(message):
            sent.append(message.get("body", b"").decode())

        await stream(work, ended.set)(SCOPE, still_there, send)
        await ended.wait()
        return list(events("".join(sent).splitlines()))

    return asyncio.run(run())


def test_what_fails_later_is_an_event():
    async def refuse(tell):
        tell(Walked(1, 2, (None,)))
        raise Problem(422, "truncated", "the film ends here")

    async def break_down(tell):
        raise RuntimeError("a secret")

    sent = streamed(refuse)
    assert [name for name, _ in sent] == ["progress", "problem"]
    assert sent[0][1] == {"done": 1, "total": 2, "best": [None]}
    assert sent[1][1]["reason"] == "truncated" and sent[1][1]["status"] == 422
    [(name, problem)] = streamed(break_down)
    assert (name, problem["reason"]) == ("problem", "internal_error") and "secret" not in str(problem)


def test_work_that_is_cancelled_by_others_is_told():
    async def cancelled(tell):
        raise asyncio.CancelledError

    [(name, problem)] = streamed(cancelled)
    assert (name, problem["reason"], problem["status"]) == ("problem", "stopped", 503)


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_nobody_reads_ends_its_work(begun):
    """The reader leaves at the first event, or before the answer has begun."""

    async def run():
        ended, leaves = asyncio.Event(), asyncio.Event()

        async def work(tell):
            tell(Walked(0, 9, ()))
            await asyncio.Event().wait()

        async def send(message):
            if begun is (message["type"] == "http.response.body"):
                leaves.set()
                await asyncio.Event().wait()

        answer = asyncio.create_task(stream(work, ended.set)(SCOPE, still_there, send))
        await leaves.wait()
        answer.cancel()
        await ended.wait()

    asyncio.run(asyncio.wait_for(run(), 60))
