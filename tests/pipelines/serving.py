"""What the tests of the service share: one running service, tiny models, a film, problem documents, bad files."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from contextlib import ExitStack

import av
import numpy as np
import torch

from pipelines.serve import ServeConfig
from pipelines.serve.model import answer_batch
from pipelines.serve.server import service
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import Question, SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer
from spacevllm.predictor import Predictor

QUESTIONS = ["the small red circle while it moves left", "what grows?"]
PORTS = range(20_000, 32_000)  # below what systems give to outgoing connections, above what Ray's workers take


class OneService:
    """One service at a time (Ray Serve has one HTTP port); asked for with the same options again, it is still there."""

    def __init__(self):
        self.options, self.url, self.running = None, "", ExitStack()

    def __call__(self, **options):
        if options != self.options:
            self.close()
            self.url = self.running.enter_context(service(ServeConfig(port=free_port(), **options)))
            self.options = options
        return self.url

    def close(self):
        self.options = None
        self.running.close()


class ModelHere:
    """The handle of a model in this process, as Ray Serve gives one of ``GroundModel``: it remembers nothing.

    Attributes:
        asked: requests so far.
    """

    def __init__(self, predictor):
        self.predictor, self.asked = predictor, 0
        self.facts, self.ground = Remote(self._facts), Remote(self._ground)

    def options(self, session_id):
        return self

    async def _facts(self):
        shape = {"num_frames": self.predictor.num_frames, "image_size": self.predictor.image_size}
        return {"model": "model", "digest": "", **shape}

    async def _ground(self, ask):
        self.asked += 1
        [answer] = await asyncio.to_thread(answer_batch, self.predictor, [ask])
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


class Remote:
    def __init__(self, remote):
        self.remote = remote


def free_port():
    """No port that an outgoing connection of somebody else may take before it is listened on."""
    while True:
        with socket.socket() as probe:
            port = random.SystemRandom().choice(PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def untrained():
    """Always the same random weights, whatever ran before."""
    tokenizer = build_tiny_tokenizer([*QUESTIONS, "From 1.00s to 2.00s."])
    config = tiny_config(len(tokenizer))
    return Predictor(_model(config), SpaceVLLMProcessor(tokenizer, config))


def decided(answer):
    """An untrained model whose language model says ``answer`` to everything; its boxes are its own.

    Layers pass on what they get, and the answer is one token whose embedding follows the prompt's last one and is
    followed by the end.
    """
    tokenizer = build_tiny_tokenizer([*QUESTIONS, answer])
    tokenizer.add_tokens([answer])
    config = tiny_config(len(tokenizer))
    model, processor = _model(config), SpaceVLLMProcessor(tokenizer, config)
    last = processor.segment(Question("stvg", QUESTIONS[0])).ids[-1]
    said = tokenizer.convert_tokens_to_ids(answer)
    with torch.no_grad():
        for layer in model.mllm.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for table in (
            model.get_input_embeddings().weight,
            model.backbone.lm_head.weight,
        ):  # one and the same where they are tied
            table[[last, said, processor.end_of_turn]] = 0
            table[last, 0] = 1
            table[said, :2] = torch.tensor([2.0, 1.0])
            table[processor.end_of_turn, 1] = 10
    return Predictor(model, processor)


def _model(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SpaceVLLM(config)


def write_film(path, seconds):
    """A picture a second, 32 x 32: light grows from one minute to the next."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast", "g": "60"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for second in range(seconds):
            picture = np.full((32, 32, 3), second // 60 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def events(lines):
    """(name, data) of each server-sent event; heartbeats are left out."""
    name = ""
    for line in lines:
        kind, _, text = line.partition(": ")
        if kind == "event":
            name = text
        elif kind == "data":
            yield name, json.loads(text)


def metric(client, name):
    """The sum of all samples whose line begins so."""
    found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def assert_problem(response, status, reason):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["reason"] == reason
    assert response.json()["status"] == status
