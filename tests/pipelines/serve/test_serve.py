"""The HTTP service: real Ray Serve, real HTTP, real MP4 files, a real (untrained) tiny model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from serving import QUESTIONS, assert_problem, free_port, metric

from pipelines.serve.server import check_port, on_signals
from spacevllm.config import ConfigError
from spacevllm.predictor import Predictor
from spacevllm.video.probe import probe
from tests.conftest import write_mp4

CAP_MB, MAX_REQUESTS = 1, 8


@pytest.fixture(scope="module")
def model(decided_model):
    return decided_model


@pytest.fixture(scope="module")
def media(media_root):
    return media_root


@pytest.fixture(scope="module")
def client(served):
    with httpx.Client(base_url=served(), timeout=600) as http:
        yield http


def upload(client, path, questions=QUESTIONS):
    with path.open("rb") as file:
        return client.post("/v1/ground", files={"file": file}, data={"question": questions})


def ask(client, **body):
    return client.post("/v1/ground", json=body)


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
    assert memories()["hits"] >= before["hits"] + 2 and 0 < memories()["bytes"] < 16 << 20


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
    assert "POST /v1/ground" in client.get("/docs").text
    ground = client.get("/openapi.json").json()["paths"]["/v1/ground"]["post"]
    assert set(ground["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"200", "400", "403", "404", "413", "415", "422"} <= set(ground["responses"])


@pytest.mark.slow
def test_a_video_gets_an_id_and_is_asked_by_it(client, media):
    sent = client.post("/v1/videos", files={"file": (media / "clip.mp4").open("rb")})
    assert sent.status_code == 200, sent.text
    video = sent.json()
    assert video["name"] == "clip.mp4" and video["probe"]["width"] == 160 and video["probe"]["duration_s"] > 1
    by_id = ask(client, video=video["id"], question=QUESTIONS[0]).json()
    assert by_id["id"] == video["id"] and by_id["tubes"][0]["question"] == QUESTIONS[0]
    named = client.post("/v1/videos", json={"uri": "clip.mp4"}).json()
    assert named["probe"] == video["probe"] and named["id"] != video["id"]  # a file that may change is another thing
    assert client.get(f"/v1/videos/{video['id']}").json() == video
    file = client.get(f"/v1/videos/{named['id']}/file")
    assert file.content == (media / "clip.mp4").read_bytes() and file.headers["content-type"] == "video/mp4"
    assert client.get(f"/v1/videos/{video['id']}/file", headers={"range": "bytes=4-7"}).content == b"ftyp"


@pytest.mark.slow
def test_a_video_may_be_removed_and_come_again(client, tmp_path):
    file = write_mp4(tmp_path / "mine.mp4", shade=77)
    sent = upload(client, file).json()
    assert client.delete(f"/v1/videos/{sent['id']}").status_code == 204
    for answer in (client.get(f"/v1/videos/{sent['id']}"), client.delete(f"/v1/videos/{sent['id']}")):
        assert_problem(answer, 404, "unknown_video")
    assert_problem(ask(client, video=sent["id"], question="what?"), 404, "unknown_video")
    assert upload(client, file).json()["id"] == sent["id"]


@pytest.mark.slow
def test_videos_that_leave_while_they_are_asked(client, tmp_path):
    """The same bytes sent, asked, drawn and removed by many at once: each gets an answer or hears that it is gone."""
    files = [write_mp4(tmp_path / f"{i}.mp4", shade=90 + i).read_bytes() for i in range(2)]

    def work(number):
        video = client.post("/v1/videos", files={"file": files[number % 2]})
        assert video.status_code == 200, video.text
        address = f"/v1/videos/{video.json()['id']}"
        later = [client.get, client.delete, lambda a: client.get(f"{a}/overlay", params={"question": QUESTIONS[:1]})]
        answers = [ask(client, video=video.json()["id"], question=QUESTIONS[0]), later[number % 3](address)]
        for answer in answers:
            if answer.status_code not in (200, 204):
                assert_problem(answer, 404, "unknown_video")
        return video.json()["id"]

    with ThreadPoolExecutor(6) as threads:
        assert len(set(threads.map(work, range(24)))) == 2
    assert client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_overlay_of_the_last_or_a_given_question(client, media, tmp_path):
    video = client.post("/v1/videos", files={"file": write_mp4(tmp_path / "new.mp4").open("rb")}).json()["id"]
    assert_problem(client.get(f"/v1/videos/{video}/overlay"), 404, "nothing_asked")
    given = client.get(f"/v1/videos/{video}/overlay", params={"question": QUESTIONS})
    assert given.status_code == 200 and given.headers["content-type"] == "video/mp4"
    last = client.get(f"/v1/videos/{video}/overlay")
    for answer in (given, last):
        (tmp_path / "overlay.mp4").write_bytes(answer.content)
        assert probe(tmp_path / "overlay.mp4").num_frames == 24
    assert last.content != given.content
    assert_problem(client.get(f"/v1/videos/{video}/overlay", params={"question": " "}), 400, "no_question")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["video-" + "0" * 40, "video-x", "..%2f..%2fetc%2fpasswd", "%00"])
def test_unknown_ids(client, name):
    for address in (name, f"{name}/file", f"{name}/overlay"):
        answer = client.get(f"/v1/videos/{address}")
        assert_problem(answer, 404, answer.json()["reason"])
    if len(name) == 46:
        assert_problem(ask(client, video=name, question="what?"), 404, "unknown_video")


@pytest.mark.slow
def test_a_changed_file_is_another_video(client, media):
    file = write_mp4(media / "changing.mp4")
    before = client.post("/v1/videos", json={"uri": "changing.mp4"}).json()
    write_mp4(file, num_frames=30)
    assert_problem(client.get(f"/v1/videos/{before['id']}/file"), 404, "unknown_video")
    after = client.post("/v1/videos", json={"uri": "changing.mp4"}).json()
    assert after["id"] != before["id"] and after["probe"]["num_frames"] == 30


def until(client, status):
    """The first answer of /readyz with this status, which comes as soon as the machine gets round to it."""
    while (answer := client.get("/readyz")).status_code != status:
        pass
    return answer


@pytest.mark.slow
def test_too_many_requests_at_once_get_429(client, media):
    """Requests whose bodies never end hold all places; health is told all the same."""
    host = (client.base_url.host, client.base_url.port)
    head = (
        b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    )
    waiting = [socket.create_connection(host) for _ in range(MAX_REQUESTS)]
    try:
        for connection in waiting:
            connection.sendall(head)
        assert_problem(until(client, 429), 429, "busy")
        refused = upload(client, media / "clip.mp4")
        assert_problem(refused, 429, "busy")
        assert refused.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200
    finally:
        for connection in waiting:
            connection.close()
    until(client, 200)
    assert upload(client, media / "clip.mp4").status_code == 200


@pytest.mark.slow
def test_questions_sent_together_are_answered_in_one_batch(client, media):
    video = client.post("/v1/videos", json={"uri": "clip.mp4"}).json()["id"]
    alone = {q: ask(client, video=video, question=q).json()["tubes"][0] for q in QUESTIONS}
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda q: ask(client, video=video, question=q), QUESTIONS * 3))
    for question, answer in zip(QUESTIONS * 3, together, strict=True):
        [tube] = answer.json()["tubes"]
        assert tube | {"confidence": None} == alone[question] | {"confidence": None}


@pytest.mark.slow
def test_metrics_count_both_parts(client, media):
    def value(name):
        return metric(client, name)

    route = 'spacevllm_requests_total{route="/v1/ground",status="200"}'
    before = value(route), value("spacevllm_batch_requests_count"), value("spacevllm_videos_remembered_total")
    for _ in range(2):
        upload(client, media / "clip.mp4", QUESTIONS[:1])
    after = value(route), value("spacevllm_batch_requests_count"), value("spacevllm_videos_remembered_total")
    assert after[0] == before[0] + 2 and after[1] > before[1] and after[2] > before[2]
    assert value("spacevllm_memory_bytes") > 0 and value("spacevllm_requests_in_work") == 0
    refused = value('spacevllm_problems_total{reason="missing_video"}')
    ask(client, video="none.mp4", question="what?")
    assert value('spacevllm_problems_total{reason="missing_video"}') == refused + 1


@pytest.mark.slow
def test_other_web_pages_may_not_ask(client):
    host = client.base_url.netloc.decode()
    assert_problem(client.get("/healthz", headers={"host": "evil.example"}), 403, "unknown_host")
    assert_problem(client.get("/healthz", headers={"origin": "https://evil.example"}), 403, "cross_origin")
    assert_problem(client.get("/healthz", headers={"origin": "null"}), 403, "cross_origin")
    own = client.get("/healthz", headers={"origin": f"http://{host}"})
    assert own.status_code == 200 and own.headers["x-content-type-options"] == "nosniff"


@contextmanager
def half_sent(http, path):
    """A connection that has sent all but the last bytes of a good request, and these bytes."""
    with path.open("rb") as file:
        request = http.build_request("POST", "/v1/ground", files={"file": file}, data={"question": QUESTIONS[0]})
        body = request.read()
    head = b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=600) as connection:
        connection.sendall(b"POST /v1/ground HTTP/1.1\r\n" + head + b"\r\n" + body[:-10])
        yield connection, body[-10:]


@pytest.mark.slow
def test_command_serves_until_it_is_told_to_stop(model, media):
    port = free_port()
    command = [sys.executable, "-m", "jobs.cli", "serve", "--model", str(model), "--port", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        ready = next((line for line in iter(server.stdout.readline, "") if line.startswith("ready")), "")
        assert ready.startswith(f"ready: http://127.0.0.1:{port}/v1/ground"), ready or server.communicate()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as http:
            assert http.get("/readyz").status_code == 200
            assert http.get("/healthz").json()["warm_up_s"] > 0  # the model has answered before anybody asked
            assert upload(http, media / "clip.mp4").status_code == 200
            assert_problem(ask(http, video="clip.mp4", question="what?"), 403, "no_media_root")
            with half_sent(http, media / "clip.mp4") as (connection, rest):
                while metric(http, "spacevllm_requests_in_work") != 1:
                    pass
                server.terminate()
                connection.sendall(rest)
                assert connection.recv(1000).startswith(b"HTTP/1.1 200")  # what is in work is answered
        out, error = server.communicate(timeout=600)
        assert server.returncode == 0, error
        assert out.splitlines()[-1] == f"stopped: http://127.0.0.1:{port}"
        assert "Traceback" not in error
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_stop_it(kind):
    before, stop = signal.getsignal(kind), threading.Event()
    with on_signals(stop):
        os.kill(os.getpid(), kind)
        assert stop.wait(60)
    assert signal.getsignal(kind) is before


def test_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="choose another --port"):
            check_port("127.0.0.1", other.getsockname()[1])
