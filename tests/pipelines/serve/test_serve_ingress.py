"""The whole ingress over its real store, decoders and routes; the model answers in this process, without Ray Serve."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import tracemalloc
from contextlib import asynccontextmanager
from dataclasses import replace
from xml.etree import ElementTree

import av
import httpx
import numpy as np
import pytest
from serving import QUESTIONS, ModelHere, assert_problem, decided, events, write_film

from pipelines.serve.answers import Written, answers_json
from pipelines.serve.app import build_app
from pipelines.serve.chat import answer_text
from pipelines.serve.config import ServeConfig
from pipelines.serve.problems import Problem
from pipelines.serve.service import Service
from spacevllm.answer import Answer
from spacevllm.predictor import Predictor
from spacevllm.span import Span
from spacevllm.tube import Tube
from spacevllm.windows import SECONDS_PER_FRAME
from tests.conftest import write_mp4


@pytest.fixture(scope="module")
def predictor(decided_model):
    return Predictor.load(decided_model)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_mp4(tmp_path_factory.mktemp("ingress") / "clip.mp4")


@asynccontextmanager
async def ingress(model, folder, **options):
    """The service and a client of it."""
    service = Service(ServeConfig(model="m", **{"decoders": 1} | options), model, str(folder))
    app = build_app(service)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield service, client


async def send(client, clip, questions=QUESTIONS, **data):
    file = {"file": ("clip.mp4", clip.read_bytes())}
    return await client.post("/v1/ground", files=file, data={"question": questions, **data})


SECOND = Span(0.0, 1.0)


def tube(boxes, span=SECOND):
    corners = np.arange(4 * boxes, dtype=np.float32).reshape(-1, 4) / 7
    begin = 5 if span else 0
    return Tube("a.mp4", "what?", "é", span, begin, begin + boxes, corners, 8.0, boxes + 5, 64, 48, 9.0)


@pytest.mark.parametrize("boxes", [0, 1, 1000, 1001, 2500])
def test_the_text_of_an_answer_is_its_json_form(boxes):
    several = Answer([tube(boxes), tube(boxes + 1), replace(tube(boxes), track=3)])
    answers = [Answer([tube(boxes)]), Answer([tube(0, None)]), several]
    for one in answers:
        assert json.loads(Written.of(one).text) == one.to_dict()
    assert len(several.to_dict()["more"]) == 2 and "more" not in answers[0].to_dict()
    text = answers_json({"id": 1}, [Written.of(one) for one in answers])
    assert json.loads(text) == {"id": 1, "tubes": [one.to_dict() for one in answers]}


def test_the_chat_form_tells_all_spans_and_carries_all_tubes():
    answer = Answer([tube(3), tube(2, Span(4.0, 5.0))])
    words, facts = answer_text(answer).split("\n")
    assert words == "From 0.00s to 1.00s; from 4.00s to 5.00s."
    told = json.loads(facts)
    assert told["span"] == [0.0, 1.0] and len(told["boxes"]) == 3 and told["more"] == answer.to_dict()["more"]
    assert "more" not in answer_text(Answer([tube(3)]))


def test_writing_an_answer_takes_little_more_memory_than_its_text():
    one = tube(8_000)
    tracemalloc.start()
    try:
        text = Written.of(Answer([one])).text
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(text)


def test_answers_are_written_outside_the_event_loop(predictor, clip, tmp_path, monkeypatch):
    writers = set()
    written = Tube.to_dict
    monkeypatch.setattr(Tube, "to_dict", lambda tube: writers.add(threading.current_thread()) or written(tube))

    async def run():
        async with ingress(ModelHere(predictor), tmp_path) as (_, client):
            whole = await send(client, clip)
            streamed = await send(client, clip, stream="true")
            content = [{"type": "video_url", "video_url": {"url": whole.json()["id"]}}]
            messages = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTIONS[0]}]}]
            chat = await client.post("/v1/chat/completions", json={"messages": messages})
            return whole.json(), streamed.text, chat.json()

    whole, streamed, chat = asyncio.run(run())
    assert writers and threading.main_thread() not in writers
    assert [len(tube["boxes"]) for tube in whole["tubes"]] == [16, 16]
    assert list(events(streamed.splitlines())) == [("result", whole)]
    facts = json.loads(chat["choices"][0]["message"]["content"].split("\n")[1])
    assert facts["boxes"] == whole["tubes"][0]["boxes"] and facts["span"] == [1.0, 3.0]


def test_a_drawing_that_is_given_up_leaves_nothing(predictor, tmp_path):
    """Its process is killed in the middle; and a video of the media root that has left stays away."""
    clip = write_mp4(tmp_path / "media" / "clip.mp4")

    async def run(folder, **options):
        async with ingress(ModelHere(predictor), folder, media_root=str(clip.parent), **options) as (service, client):
            video = (await client.post("/v1/videos", json={"uri": "clip.mp4"})).json()["id"]
            await client.post("/v1/ground", json={"video": video, "question": QUESTIONS[0]})
            kept = await service.videos.get(video)
            if options:
                assert_problem(await client.get(f"/v1/videos/{video}/overlay"), 422, "timeout")
                assert not list(folder.rglob("*.part"))
            await client.delete(f"/v1/videos/{video}")
            with pytest.raises(Problem) as gone:
                await service.videos.draw(kept, [Written.of(Answer([tube(1)])).text])
            assert gone.value.reason == ("timeout" if options else "unknown_video")
            assert os.listdir(folder) == [".incoming"] and not os.listdir(folder / ".incoming")

    asyncio.run(run(tmp_path / "whole"))
    asyncio.run(run(tmp_path / "killed", draw_timeout_s=0.01))


def test_frame_times_are_told_where_the_rate_varies(tmp_path, predictor, clip):
    uneven = tmp_path / "uneven.mkv"
    with av.open(str(uneven), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in (0, 1, 2, 3, 11):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    async def run():
        async with ingress(ModelHere(predictor), tmp_path / "store") as (_, client):
            sent = [await client.post("/v1/videos", files={"file": file.read_bytes()}) for file in (uneven, clip)]
            return [answer.json()["probe"] for answer in sent]

    varying, even = asyncio.run(run())
    assert varying["times_s"] == [0, 0.125, 0.25, 0.375, 1.375] and "times_s" not in even


def test_frames_are_kept_only_of_what_can_be_asked_at_once(tmp_path, predictor):
    """Not of films, nor of videos that made room for others."""
    seconds = int(SECONDS_PER_FRAME * predictor.num_frames) + 1
    film = write_film(tmp_path / "film.mp4", seconds)
    files = [write_mp4(tmp_path / f"{i}.mp4", size=(640, 480), shade=60 * i) for i in range(4)]
    sizes = [path.stat().st_size for path in files]

    async def run():
        async with ingress(ModelHere(predictor), tmp_path / "store", store_mb=1) as (service, client):
            service.videos.store.max_bytes = sum(sizes[:2]) + 3000
            ids = [
                (await client.post("/v1/videos", files={"file": path.read_bytes()})).json()["id"]
                for path in (film, *files)
            ]
            kept = list(service.videos._frames.kept)
            there = [name for name in ids if service.videos.store.get(name)]
            assert kept == [name for name in there if name != ids[0]] and 0 < len(kept) < len(files)

    asyncio.run(run())


def test_an_id_opens_no_file_outside_the_media_root_of_today(tmp_path, predictor):
    """The store is that of a server with another media root."""
    write_mp4(tmp_path / "media" / "in" / "clip.mp4")
    outside = write_mp4(tmp_path / "media" / "clip.mp4", shade=9)

    async def named(media_root, *videos):
        async with ingress(ModelHere(predictor), tmp_path / "store", media_root=media_root) as (_, client):
            answers = [await client.post("/v1/videos", json={"uri": video}) for video in videos]
            answers.append(await client.post("/v1/videos", files={"file": outside.read_bytes()}))
            return [answer.json()["id"] for answer in answers]

    async def statuses(media_root, ids):
        async with ingress(ModelHere(predictor), tmp_path / "store", media_root=media_root) as (_, client):
            return [(await client.get(f"/v1/videos/{video}/file")).status_code for video in ids]

    ids = asyncio.run(named(str(tmp_path / "media"), "in/clip.mp4", "clip.mp4"))
    assert asyncio.run(statuses(str(tmp_path / "media"), ids)) == [200, 200, 200]
    assert asyncio.run(statuses(str(tmp_path / "media" / "in"), ids)) == [200, 404, 200]
    assert asyncio.run(statuses("", ids)) == [404, 404, 200]


def test_an_answer_of_two_spans_is_one_answer_everywhere(clip, tmp_path):
    async def run():
        decided("From 0.50s to 1.00s; from 2.00s to 2.50s.").save(tmp_path / "model")
        model = ModelHere(Predictor.load(tmp_path / "model"))
        async with ingress(model, tmp_path / "store") as (_, client):
            answer = (await send(client, clip, QUESTIONS[:1])).json()
            [tube], video = answer["tubes"], f"/v1/videos/{answer['id']}"
            assert (tube["begin_s"], tube["end_s"], tube["begin_frame"], len(tube["boxes"])) == (0.5, 1.0, 4, 4)
            [again] = tube["more"]
            assert (again["begin_s"], again["end_s"], again["track"]) == (2.0, 2.5, 0)
            assert [box[0] for box in again["boxes"]] == [16, 17, 18, 19]
            content = [
                {"type": "video_url", "video_url": {"url": answer["id"]}},
                {"type": "text", "text": QUESTIONS[0]},
            ]
            chat = await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]})
            words, facts = chat.json()["choices"][0]["message"]["content"].split("\n")
            assert words == "From 0.50s to 1.00s; from 2.00s to 2.50s." and json.loads(facts)["more"] == tube["more"]
            overlay = await client.get(f"{video}/overlay")
            assert overlay.status_code == 200 and overlay.content

    asyncio.run(run())


def test_the_reference_names_every_route_and_needs_no_other_server(predictor, tmp_path):
    async def run():
        async with ingress(ModelHere(predictor), tmp_path) as (_, client):
            described = (await client.get("/openapi.json")).json()
            return described, await client.get("/docs"), await client.get("/redoc")

    described, docs, redoc = asyncio.run(run())
    routes = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    found = ElementTree.fromstring(re.sub("<(meta|link)([^>]*)>", r"<\1\2/>", docs.text.partition("\n")[2]))
    assert {heading.findtext("code") for heading in found.iter("h2")} == routes and len(routes) > 10
    assert "max_length" not in docs.text and "one field for each question" in docs.text
    addresses = [one.get("href") or one.get("src") for one in found.iter() if one.get("href") or one.get("src")]
    assert all(address.startswith("/") for address in addresses) and not list(found.iter("script"))
    assert "default-src 'none'" in docs.headers["content-security-policy"] and redoc.status_code == 404


def test_chat_says_what_is_not_there_and_what_could_not_be_read():
    assert answer_text(Answer([tube(0, None)])) == "No time could be read from the answer: é"
    assert answer_text(Answer([replace(tube(0, None), answer="it is not there")])) == "It is not there."
    for present, begin in ((True, "From 0.00s to 1.00s."), (False, "Probably not there. From 0.00s to 1.00s.")):
        sentence, facts = answer_text(Answer([replace(tube(2, SECOND), present=present)])).split("\n")
        assert sentence == begin and json.loads(facts)["present"] is present


def test_more_boxes_than_one_request_may_have_are_refused_at_once(predictor, clip, tmp_path):
    model = ModelHere(predictor)

    async def run():
        async with ingress(model, tmp_path, max_boxes=47) as (_, client):  # the clip has 24 frames
            one = await send(client, clip, QUESTIONS[:1])
            assert one.status_code == 200
            asked = model.asked
            assert_problem(await send(client, clip), 422, "too_many_boxes")
            overlay = f"/v1/videos/{one.json()['id']}/overlay"
            assert_problem(await client.get(overlay, params={"question": QUESTIONS}), 422, "too_many_boxes")
            assert model.asked == asked

    asyncio.run(run())
