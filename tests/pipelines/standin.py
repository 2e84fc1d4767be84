"""A predictor that answers at once and always the same: what the stages around it do is under test, not the model."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.core.results import Results
from pipelines.core.storage import OutputError
from spacevllm.answer import Answer
from spacevllm.span import Span, frame_range
from spacevllm.tube import Tube


class Standin:
    num_frames = 4
    image_size = 32
    model_id = "standin"
    digest = "0123456789abcdef"

    def ground(self, video, questions, task="stvg"):
        return [self._answer(video, question, task) for question in questions]

    def locate(self, image, expressions):
        size = np.array([image.info.width, image.info.height] * 2)
        return [(size * [0.25, 0.25, 0.75, 0.75]).astype(np.float32) for _ in expressions]

    def answer(self, video, questions, options=None):
        return ["A" for _ in questions]

    def _answer(self, video, question, task):
        """``every …`` has three tubes: at the end the same thing again, a little less sure, and another one."""
        best = self._tube(video, question, task)
        if not question.startswith("every"):
            return Answer([best])
        info = video.info
        begin = info.num_frames * 3 // 4
        span, boxes = (
            Span(begin / 8, info.duration_s),
            np.tile(np.float32([20, 2, 60, 40]), (info.num_frames - begin, 1)),
        )
        late = {"span": span, "begin_frame": begin, "end_frame": info.num_frames}
        again = replace(best, boxes=boxes, confidence=0.4, **late)
        return Answer([best, again, replace(again, boxes=boxes + 2, confidence=0.3, track=1)])

    def _tube(self, video, question, task):
        if question == "break":
            raise RuntimeError("this question breaks the model")
        info = video.info
        assert video.frames.shape == (self.num_frames, self.image_size, self.image_size, 3)
        part = video.part or Span(0.0, info.duration_s)
        span = None if question == "mumble" else Span(part.begin_s, (part.begin_s + part.end_s) / 2)
        begin, end = frame_range(span, info.times_s, info.duration_s) if span else (0, 0)
        return Tube(
            video=info.path,
            question=question,
            answer=f"asked as {task}" if span else "mumble",
            span=span,
            begin_frame=begin,
            end_frame=end,
            boxes=np.tile(np.float32([1, 2, 30, 40]), (end - begin, 1)),
            fps=float(info.fps),
            num_frames=info.num_frames,
            width=info.width,
            height=info.height,
            duration_s=info.duration_s,
            confidence=0.5,
            sampled_frames=video.indices,
            sampled_boxes=np.tile(np.float32([1, 2, 30, 40]), (len(video.indices), 1)),
        )


class OtherStandin(Standin):
    digest = "fedcba9876543210"


class SlowStandin(Standin):
    def ground(self, video, questions, task="stvg"):
        time.sleep(0.3)
        return super().ground(video, questions, task)


def load(path, device):
    return Standin()


def load_other(path, device):
    return OtherStandin()


def load_slow(path, device):
    return SlowStandin()


class Killed(Standin):
    """``clip3.mp4`` kills whoever looks at it, as a host without memory does."""

    def ground(self, video, questions, task="stvg"):
        if video.info.path.endswith("clip3.mp4"):
            os._exit(137)
        return super().ground(video, questions, task)


class BrokenDevice(Standin):
    """Answers twice and then no more, in the first process, which leaves a file at ``path``. ``for ever``: never."""

    def __init__(self, path):
        self.answers, self.path = 0, path

    def ground(self, video, questions, task="stvg"):
        self.answers += 1
        if self.path == "for ever" or (self.answers > 2 and not os.path.exists(self.path)):
            if self.path != "for ever":
                open(self.path, "w").close()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().ground(video, questions, task)


def load_killed(path, device):
    return Killed()


def load_broken(path, device):
    return BrokenDevice(path)


class Unconnected(Results):
    """The first process that writes never can, as a machine without its network; then others do."""

    def write(self, table, generation="", shard=""):
        first = Path(self.folder).with_name("first process")
        if not first.exists():
            first.write_text(str(os.getpid()))
        if first.read_text() in (str(os.getpid()), "every one"):
            raised = OutputError("cannot write: no route to host")
            raised.passes = True
            raise raised
        return super().write(table, generation, shard)
