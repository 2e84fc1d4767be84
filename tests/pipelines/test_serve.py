"""The HTTP service: real Ray Serve, real HTTP, real MP4 files, a real (untrained) tiny model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from pipelines.cluster import ray_session
from pipelines.serve import ServeConfig
from pipelines.serve.problems import Problem
from pipelines.serve.server import check_port, service
from pipelines.serve.sources import resolve
from spacevllm.config import ConfigError
from spacevllm.data.moving_shapes import MovingShapesConfig, write_one
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer
from spacevllm.predictor import Predictor

QUESTIONS = ["the small red circle while it moves left", "what grows?"]
CAP_MB = 1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    tokenizer = build_tiny_tokenizer([*QUESTIONS, "From 1.00s to 2.00s."])
    config = tiny_config(len(tokenizer))
    Predictor(SpaceVLLM(config), SpaceVLLMProcessor(tokenizer, config)).save(folder)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A media root with a good clip, broken files, and a link that leads out of it."""
    root = tmp_path_factory.mktemp("media")
    write_one(root, MovingShapesConfig(), "test", 0)
    (root / "media/test/000000.mp4").rename(root / "clip.mp4")
    whole = (root / "clip.mp4").read_bytes()
    (root / "short.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "text.mp4").write_text("no video at all")
    (root / "empty.mp4").touch()
    (root.parent / "outside.mp4").write_bytes(whole)
    (root / "link.mp4").symlink_to(root.parent / "outside.mp4")
    return root


@pytest.fixture(scope="module")
def client(model, media):
    config = ServeConfig(
        model=str(model), port=free_port(), media_root=str(media), max_upload_mb=CAP_MB, max_questions=3
    )
    with ray_session(), service(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http


def upload(client, path, questions=QUESTIONS):
    with path.open("rb") as file:
        return client.post("/v1/ground", files={"file": file}, data={"question": questions})


def ask(client, **body):
    return client.post("/v1/ground", json=body)


def assert_problem(response, status, reason):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["reason"] == reason
    assert response.json()["status"] == status


@pytest.mark.slow
def test_upload_gets_what_the_predictor_says(client, media, model):
    answer = upload(client, media / "clip.mp4")
    assert answer.status_code == 200, answer.text
    predictor = Predictor.load(model)
    body = answer.json()
    assert body.pop("id").startswith("video-")
    assert {**body, "tubes": None} == {"video": "clip.mp4", "model": "model", "digest": predictor.digest, "tubes": None}
    expected = [tube.to_dict() | {"video": "clip.mp4"} for tube in predictor.ground(media / "clip.mp4", QUESTIONS)]
    for got, tube in zip(body["tubes"], expected, strict=True):  # threads differ, and with them the last digits
        assert got.pop("confidence") == pytest.approx(tube.pop("confidence"), rel=1e-3)
        assert got == tube


@pytest.mark.slow
def test_video_below_the_media_root(client, media):
    one = ask(client, video="clip.mp4", question=QUESTIONS[0])
    assert one.status_code == 200, one.text
    assert [tube["question"] for tube in one.json()["tubes"]] == QUESTIONS[:1]
    absolute = str(media / "clip.mp4")
    both = ask(client, video=absolute, questions=QUESTIONS).json()["tubes"]
    assert [tube["question"] for tube in both] == QUESTIONS


@pytest.mark.slow
def test_the_same_bytes_are_read_once_whatever_their_name(client, media, tmp_path):
    def memories():
        return client.get("/healthz").json()["memories"]

    def tubes(answer):  # the last digits may differ, and with them the confidence
        return [tube | {"confidence": None, "video": None} for tube in answer.json()["tubes"]]

    first = tubes(upload(client, media / "clip.mp4"))
    before = memories()
    (tmp_path / "other.mp4").write_bytes((media / "clip.mp4").read_bytes())
    again = upload(client, tmp_path / "other.mp4")
    assert again.json()["tubes"][0]["video"] == "other.mp4"
    assert tubes(again) == first
    assert memories() == before | {"hits": before["hits"] + 1}
    for _ in range(2):
        assert tubes(ask(client, video="clip.mp4", questions=QUESTIONS)) == first
    assert memories()["hits"] >= before["hits"] + 2 and 0 < memories()["bytes"] < 2 << 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "video", ["../outside.mp4", "/etc/passwd", "link.mp4", "file:///etc/passwd", "https://x/a.mp4"]
)
def test_nothing_outside_the_media_root(client, video):
    assert_problem(ask(client, video=video, question="what?"), 403, "outside_media_root")


@pytest.mark.slow
def test_missing_video(client):
    assert_problem(ask(client, video="none.mp4", question="what?"), 404, "missing_video")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"), [("text.mp4", "not_a_video"), ("empty.mp4", "empty_file"), ("short.mp4", None)]
)
def test_undecodable_video_keeps_its_reason(client, media, name, reason):
    answer = upload(client, media / name)
    assert_problem(answer, 422, reason or answer.json()["reason"])
    assert name in answer.json()["detail"] and "/tmp/" not in answer.json()["detail"]
    assert_problem(ask(client, video=name, question="what?"), 422, answer.json()["reason"])
    assert upload(client, media / "clip.mp4").status_code == 200  # the next request is none the worse


@pytest.mark.slow
def test_a_picture_has_no_time(client, media):
    picture = next(media.glob("media/test/*.png"))
    assert_problem(upload(client, picture), 422, "still_image")


@pytest.mark.slow
def test_upload_too_large(client, tmp_path):
    (tmp_path / "big.mp4").write_bytes(bytes(CAP_MB * 2**20 + 1))
    assert_problem(upload(client, tmp_path / "big.mp4"), 413, "upload_too_large")


@pytest.mark.slow
def test_upload_that_hides_its_size(client):
    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(CAP_MB * 2**20 // 65536 + 1):
            yield bytes(65536)
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert_problem(client.post("/v1/ground", content=endless(), headers=headers), 413, "upload_too_large")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"video": "clip.mp4"}, "no_question"),
        ({"video": "clip.mp4", "question": " "}, "no_question"),
        ({"video": "clip.mp4", "questions": ["a", "b", "c", "d"]}, "too_many_questions"),
        ({"question": "what?"}, "bad_request"),
        ({"video": "clip.mp4", "question": "what?", "vide": 1}, "bad_request"),
        ({"video": 7, "question": "what?"}, "bad_request"),
        (["clip.mp4"], "bad_request"),
    ],
)
def test_bad_json_requests(client, body, reason):
    assert_problem(client.post("/v1/ground", json=body), 400, reason)


@pytest.mark.slow
def test_malformed_bodies(client, media):
    kind = {"content-type": "application/json"}
    assert_problem(client.post("/v1/ground", content=b"{", headers=kind), 400, "malformed_body")
    assert_problem(client.post("/v1/ground", content=b"\xff", headers=kind), 400, "malformed_body")
    form = {"content-type": "multipart/form-data"}
    assert_problem(client.post("/v1/ground", content=b"x", headers=form), 400, "malformed_body")
    assert_problem(client.post("/v1/ground", content=b"x"), 415, "unsupported_media_type")
    no_file = client.post("/v1/ground", files={"other": b"x"}, data={"question": "what?"})
    assert_problem(no_file, 400, "no_file")
    assert_problem(upload(client, media / "clip.mp4", []), 400, "no_question")


@pytest.mark.slow
def test_addresses(client, model):
    assert client.get("/healthz").json()["status"] == "ok"
    assert_problem(client.get("/nowhere"), 404, "not_found")
    wrong = client.get("/v1/ground")
    assert_problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert "swagger" in client.get("/docs").text
    ground = client.get("/openapi.json").json()["paths"]["/v1/ground"]["post"]
    assert set(ground["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"200", "400", "403", "404", "413", "415", "422"} <= set(ground["responses"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_command_serves_until_it_is_told_to_stop(model, media, tmp_path, kind):
    port = free_port()
    command = [sys.executable, "-m", "jobs.cli", "serve", "--model", str(model), "--port", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        ready = next((line for line in iter(server.stdout.readline, "") if line.startswith("ready")), "")
        assert ready.startswith(f"ready: http://127.0.0.1:{port}/v1/ground"), ready or server.communicate()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            assert upload(http, media / "clip.mp4").status_code == 200
            assert_problem(ask(http, video="clip.mp4", question="what?"), 403, "no_media_root")
        server.send_signal(kind)
        out, error = server.communicate(timeout=60)
        assert server.returncode == 0, error
        assert out.splitlines()[-1] == f"stopped: http://127.0.0.1:{port}"
        assert "Traceback" not in error
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)


def test_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="choose another --port"):
            check_port("127.0.0.1", other.getsockname()[1])


@pytest.mark.parametrize(
    ("video", "uri"),
    [("a/b.mp4", "s3://bucket/videos/a/b.mp4"), ("s3://bucket/videos/c.mp4", "s3://bucket/videos/c.mp4")],
)
def test_remote_media_root(video, uri):
    assert resolve(video, "s3://bucket/videos/") == uri


@pytest.mark.parametrize(
    "video", ["s3://bucket/videos/../x.mp4", "s3://bucket/videos2/x.mp4", "../x.mp4", "s3://other/x"]
)
def test_remote_media_root_holds(video):
    with pytest.raises(Problem) as problem:
        resolve(video, "s3://bucket/videos")
    assert problem.value.status == 403
