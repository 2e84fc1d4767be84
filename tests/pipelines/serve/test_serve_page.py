"""The page in a real Chromium against the real service, with a key and two copies of the model; and OpenAI's client."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading
from contextlib import contextmanager
from fractions import Fraction

import av
import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from serving import QUESTIONS, ModelHere, assert_problem, decided, free_port, metric, write_film

from pipelines.serve import ServeConfig
from pipelines.serve.app import build_app
from pipelines.serve.service import Service
from spacevllm.predictor import Predictor
from tests.conftest import write_mp4

sync_api = pytest.importorskip("playwright.sync_api")
openai = pytest.importorskip("openai")

pytestmark = pytest.mark.slow
KEY = "a-key-of-tests-only"
SIZE, FPS = (320, 240), 8
SHOWS = f"frame => !video.seeking && Math.floor(timeline.ariaValueNow * {FPS} + .01) === frame"
COLOURS = [(0xFF, 0x8A, 0x3D), (0x35, 0xB6, 0xF2)]  # of the first and the second answer


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    write_mp4(root / "clip.mp4", num_frames=32, size=SIZE, fps=FPS)
    (root / "text.mp4").write_text("no video")
    return root


@pytest.fixture(scope="module")
def film(media):
    return write_film(media / "film.mp4", 7200)


@pytest.fixture(scope="module")
def url(one_service, decided_model, media):
    return one_service(
        model=str(decided_model),
        media_root=str(media),
        api_key=KEY,
        max_inline_mb=1,
        replicas={"min": 2, "max": 2},
        ingress={"min": 1, "max": 2},
    )


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=600) as http:
        yield http


@pytest.fixture(scope="module")
def chromium():
    """Chromium as the machine has it, or as Playwright installed it."""
    with sync_api.sync_playwright() as playwright:
        own = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except sync_api.Error as error:
            if own:
                raise  # there is one, and it does not start
            pytest.skip(f"no browser: {error}")
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(chromium, url, request):
    context = chromium.new_context(color_scheme=request.param, viewport={"width": 1200, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(300_000)
    opened.failures = []
    opened.on("pageerror", lambda error: opened.failures.append(str(error)))
    opened.on("console", lambda said: "Security Policy" in said.text and opened.failures.append(said.text))
    opened.goto(url)
    yield opened
    assert opened.failures == []
    context.close()


def open_video(page, path):
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    page.wait_for_selector("#key-form", state="hidden")
    page.set_input_files("#file", path)
    page.wait_for_selector("#work")


def ask(page, question):
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector(".answer .span >> visible=true")


def drawn(page, colour):
    """The bounding box (x1, y1, x2, y2) of what is of ``colour`` on the video, in CSS pixels from its corner."""
    picture = np.asarray(Image.open(io.BytesIO(page.locator("#screen").screenshot())).convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(picture - colour).max(2) < 40)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_upload_ask_and_the_box_is_where_the_answer_says(page, client, media):
    open_video(page, media / "clip.mp4")
    ask(page, QUESTIONS[0])
    with (media / "clip.mp4").open("rb") as file:
        [tube] = client.post("/v1/ground", files={"file": file}, data={"question": QUESTIONS[0]}).json()["tubes"]
    assert (tube["begin_s"], tube["end_s"]) == (1.0, 3.0) and len(tube["boxes"]) == 16
    assert page.text_content(".answer .span") == "1.00 to 3.00 s"
    page.evaluate("document.querySelector('#video').pause()")
    size = page.locator("#screen").bounding_box()
    for frame in (9, 16, 22):
        page.evaluate("seconds => { video.currentTime = seconds }", (frame + 0.5) / FPS)
        page.wait_for_function(SHOWS, arg=frame)
        expected = np.array(next(box[1:] for box in tube["boxes"] if box[0] == frame)) * size["width"] / SIZE[0]
        np.testing.assert_allclose(drawn(page, COLOURS[0]), expected, atol=4)  # half a line, and rounding
    page.keyboard.press("Escape")
    for key, frame in (("ArrowRight", 23), ("ArrowLeft", 22), ("End", 31)):
        page.keyboard.press(key)
        page.wait_for_function(SHOWS, arg=frame)
    assert page.locator("#boxes rect").count() == 0  # after the span there is no box


def write_uneven(path, late_s):
    """White; eight frames a second, then two; pixels are twice as high as wide; the first frame is ``late_s`` late."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(1, 2)
        stream.codec_context.time_base = Fraction(1, FPS)
        for number in (*range(16), *range(16, 33, 4)):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE[1], SIZE[0], 3), 255, np.uint8), format="rgb24")
            frame.pts = number + int(late_s * FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("late_s", [0.0, 1.5])
def test_boxes_follow_the_videos_own_times_and_fill_its_picture(page, client, tmp_path, late_s):
    clip = write_uneven(tmp_path / "uneven.mp4", late_s)
    open_video(page, clip)
    ask(page, QUESTIONS[0])
    [tube] = client.post("/v1/ground", files={"file": clip.open("rb")}, data={"question": QUESTIONS[0]}).json()["tubes"]
    assert [box[0] for box in tube["boxes"]] == list(range(8, 18))  # of seconds 1 to 3
    page.evaluate("video.pause()")
    for seconds, frame in ((1.95, 15), (2.3, 16), (2.7, 17)):
        page.evaluate("seconds => { video.currentTime = seconds }", seconds + late_s)
        page.wait_for_function("begin => !video.seeking && timeline.ariaValueNow >= begin", arg=seconds - 0.6)
        box = page.evaluate(
            "() => ['x', 'y', 'width', 'height'].map(n => +document.querySelector('#boxes .line').getAttribute(n))"
        )
        x1, y1, x2, y2 = next(row[1:] for row in tube["boxes"] if row[0] == frame)
        np.testing.assert_allclose(box, [x1, y1, x2 - x1, y2 - y1], atol=0.01)
    assert page.evaluate("video.videoWidth / video.videoHeight") == pytest.approx(SIZE[0] / SIZE[1] / 2, rel=0.01)
    picture = np.asarray(Image.open(io.BytesIO(page.locator("#screen").screenshot())).convert("L"))
    assert picture[len(picture) // 2, [5, -5]].min() > 200  # white from border to border


def test_several_questions_by_keyboard(page, media):
    open_video(page, media / "clip.mp4")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    for question in QUESTIONS:
        page.keyboard.type(question)
        page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.track i').length === 2")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.wait_for_function("() => document.querySelectorAll('#boxes .line').length === 2")
    page.locator(".chip").nth(1).press("Space")
    assert page.locator(".chip").nth(1).get_attribute("aria-pressed") == "false"
    page.wait_for_function("() => document.querySelectorAll('#boxes .line').length === 1")
    page.locator(".remove").first.click()
    assert page.locator(".answer").count() == 1
    page.reload()
    page.set_input_files("#file", media / "clip.mp4")  # this tab keeps the key, this browser the questions
    assert page.locator("#earlier li").all_text_contents() == QUESTIONS[::-1]


def test_a_video_by_its_name_and_kind_errors(page, media):
    open_video(page, media / "clip.mp4")
    page.click("#another")
    page.set_input_files("#file", media / "text.mp4")
    page.wait_for_selector("text=This file is not a video that can be read.")
    page.fill("#address", "../etc/passwd")
    page.press("#address", "Enter")
    page.wait_for_selector("text=The server may not read this address.")
    page.fill("#address", "clip.mp4")
    page.press("#address", "Enter")
    page.wait_for_function("() => video.readyState >= 2 && !document.querySelector('#work').hidden")
    assert page.is_hidden("#trouble")
    ask(page, "<img src=x onerror=alert(1)>")
    assert page.text_content(".answer .asked") == "<img src=x onerror=alert(1)>"
    assert page.locator("main img").count() == 0


def test_a_film_shows_how_far_it_is_and_can_be_cancelled(page, client, film):
    open_video(page, film)
    page.fill("#question", QUESTIONS[0])
    page.press("#question", "Enter")
    page.wait_for_function("() => document.querySelector('.walk')?.value >= 2")
    assert page.evaluate("document.querySelector('.walk').max") == 899
    assert "best so far 1 to 3 s" in page.text_content(".sure")
    assert page.locator(".track.off i").count() == 1  # where the best so far is
    page.click("text=Cancel")
    assert page.locator(".answer").count() == 0 and page.is_hidden("#trouble")
    while metric(client, "spacevllm_requests_in_work"):  # the server gives it up, too
        pass
    ask_again = page.locator("#earlier li button")
    assert ask_again.all_text_contents() == QUESTIONS[:1]


def test_a_question_that_failed_says_why_and_is_asked_again(page, media):
    open_video(page, media / "clip.mp4")
    page.context.set_offline(True)
    page.fill("#question", QUESTIONS[0])
    page.press("#question", "Enter")
    page.wait_for_selector("text=The server does not answer.")
    assert page.is_hidden("#trouble") and page.is_hidden("#all")
    page.context.set_offline(False)
    page.click("text=Ask again")
    page.wait_for_selector(".answer .span >> visible=true")
    assert page.locator(".answer").count() == 1 and page.locator(".failed").count() == 0


def test_a_question_that_is_too_long_is_not_sent(page, media):
    open_video(page, media / "clip.mp4")
    page.fill("#question", "x" * 1001)
    page.press("#question", "Enter")
    assert page.evaluate("question.validationMessage") == "A question has at most 1000 characters, this one has 1001."
    assert page.locator(".answer").count() == 0
    ask(page, "x" * 1000)
    assert page.locator(".asked").bounding_box()["height"] < 150


def test_copied_json_is_the_servers(page, client, media):
    open_video(page, media / "clip.mp4")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, QUESTIONS[0])
    page.click(".copy")
    page.wait_for_selector("text=Copied")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    [tube] = client.post("/v1/ground", json={"video": copied["video"], "question": QUESTIONS[0]}).json()["tubes"]
    assert copied | {"confidence": 0} == tube | {"confidence": 0}


def test_fits_a_phone(chromium, url, media):
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(url)
    open_video(page, media / "clip.mp4")
    ask(page, "a question that is so long that it needs several lines, with awordthathasnoplacewhereitcouldbebroken")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_the_key_is_needed_everywhere_but_for_the_page(client, url):
    for address in ("/v1/videos", "/v1/ground", "/v1/chat/completions", "/metrics", "/v1/models", "/nowhere"):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
            refused = httpx.get(url + address, headers=headers)
            assert_problem(refused, 401, "no_key")
            assert refused.headers["www-authenticate"] == "Bearer"
    for address in ("/", "/page/main.js", "/page/settings.json", "/healthz", "/readyz", "/docs", "/openapi.json"):
        assert httpx.get(url + address).status_code == 200
    assert "default-src 'none'" in httpx.get(url).headers["content-security-policy"]


def test_a_videos_questions_go_to_the_copy_that_remembers_it(client, tmp_path):
    def read():
        return metric(client, "spacevllm_videos_read_total")

    before = read()
    for shade in (30, 60, 90):
        file = {"file": write_mp4(tmp_path / f"{shade}.mp4", size=(96, 64), shade=shade).read_bytes()}
        for question in QUESTIONS * 3:
            assert client.post("/v1/ground", files=file, data={"question": question}).status_code == 200
    assert read() == before + 3


def parts(url, text=QUESTIONS[0]):
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def test_openais_client(url, client, media):
    chat = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    inline = "data:video/mp4;base64," + base64.b64encode((media / "clip.mp4").read_bytes()).decode()
    video = client.post("/v1/videos", json={"uri": "clip.mp4"}).json()["id"]
    [tube] = client.post("/v1/ground", json={"video": video, "question": QUESTIONS[0]}).json()["tubes"]
    model = chat.models.list().data[0].id
    for source in (inline, video, "clip.mp4"):
        answer = chat.chat.completions.create(model=model, messages=parts(source))
        sentence, facts = answer.choices[0].message.content.split("\n")
        assert sentence == "From 1.00s to 3.00s."
        assert json.loads(facts)["boxes"] == tube["boxes"] and json.loads(facts)["span"] == [1.0, 3.0]
    assert chat.models.retrieve(model).id == model
    pieces = chat.chat.completions.create(model=model, messages=parts(video), stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text.startswith("From 1.00s to 3.00s.\n")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (parts("clip.mp4", " "), "no_question"),
        ([{"role": "user", "content": "where?"}], "no_video"),
        (parts("data:video/mp4;base64,%%%"), "bad_request"),
        (parts("data:text/plain,hello"), "bad_request"),
        (parts("data:video/mp4;base64,AAAA"), "not_a_video"),
        (parts("/etc/passwd"), "outside_media_root"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "bad_request"),
        ([], "bad_request"),
    ],
)
def test_openais_client_gets_problems(url, messages, reason):
    chat = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as error:
            chat.chat.completions.create(model="model", messages=messages, stream=stream)
        assert error.value.body["reason"] == reason


def test_openais_client_with_a_wrong_key_or_model(url):
    stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="a-key-of-nobody", max_retries=0)
    for call in (stranger.models.list, lambda: stranger.chat.completions.create(model="model", messages=parts("a"))):
        with pytest.raises(openai.AuthenticationError):
            call()
    chat = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    for call in (
        lambda: chat.chat.completions.create(model="gpt-5", messages=parts("clip.mp4")),
        lambda: chat.models.retrieve("gpt-5"),
    ):
        with pytest.raises(openai.NotFoundError) as error:
            call()
        assert error.value.body["reason"] == "unknown_model"


@contextmanager
def served_here(model, folder):
    """The service in a thread of this process: its page and routes, real HTTP; the model needs no worker."""
    port = free_port()
    app = build_app(Service(ServeConfig(model="m", decoders=1), ModelHere(Predictor.load(model)), str(folder)))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_an_answer_of_two_spans_is_drawn_in_both(chromium, media, tmp_path):
    decided("From 0.50s to 1.00s; from 2.00s to 2.50s.").save(tmp_path / "model")
    with served_here(tmp_path / "model", tmp_path / "store") as url:
        context = chromium.new_context(viewport={"width": 1200, "height": 800})
        page = context.new_page()
        page.set_default_timeout(300_000)
        page.goto(url)
        page.set_input_files("#file", media / "clip.mp4")
        page.wait_for_selector("#work")
        ask(page, QUESTIONS[0])
        assert page.locator(".answer .span").all_text_contents() == ["0.50 to 1.00 s", "2.00 to 2.50 s"]
        assert page.locator(".track i").count() == 2  # a bar for each span
        page.evaluate("document.querySelector('#video').pause()")
        for frame, there in ((5, 1), (12, 0), (17, 1), (25, 0)):
            page.evaluate("seconds => { video.currentTime = seconds }", (frame + 0.5) / FPS)
            page.wait_for_function(SHOWS, arg=frame)
            assert page.locator("#boxes .line").count() == there
        page.screenshot(path=str(tmp_path / "two_spans.png"))
        context.close()
