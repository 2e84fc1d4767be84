"""What a decoder can still do once a hostile file has taken it over."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import intruder
import numpy as np
import pytest

from spacevllm.video import GuardedSampler, errors, sandbox_status, wire

Clip = Callable[[str], Path]
END = b"<end of text>"  # then come the arrays
SECRETS = {"AWS_SECRET_ACCESS_KEY": "topsecret", "SPACEVLLM_API_KEY": "k" * 20, "HF_TOKEN": "token"}


@pytest.fixture(scope="module", autouse=True)
def child_finds_intruder() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        found = [str(Path(intruder.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(found))
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def taken_over(child_finds_intruder: None, clip: Clip) -> Iterator[Callable[..., Any]]:
    """Runs a function in one child that is used again and again."""
    with GuardedSampler(timeout_s=60) as sampler:
        yield lambda function, *arguments: sampler.run(function, clip("plain.mp4"), *arguments)


def heard(text: bytes) -> Any:
    """What a parent makes of these bytes."""
    theirs, ours = os.pipe()
    os.write(ours, struct.pack(">Q", len(text.partition(END)[0])) + text.replace(END, b""))
    os.close(ours)
    try:
        return wire.receive(theirs, time.monotonic() + 60, max_bytes=1 << 20)
    finally:
        os.close(theirs)


def needs(what: str) -> None:
    for missing in sandbox_status():
        if missing.startswith(what):
            pytest.skip(missing)


def test_no_secret_is_in_its_environment(taken_over: Callable[..., Any]) -> None:
    told = " ".join(taken_over(intruder.environment))
    assert "PATH=" in told and not any(name in told or value in told for name, value in SECRETS.items())


def test_it_opens_no_other_file(taken_over: Callable[..., Any], clip: Clip, tmp_path: Path) -> None:
    needs("files")
    (tmp_path / "other.txt").write_text("private")
    for other in (tmp_path / "other.txt", clip("plain.mp4"), "/etc/passwd", "/proc/self/environ"):
        with pytest.raises(PermissionError):
            taken_over(intruder.read, str(other))
    with pytest.raises(PermissionError):
        taken_over(intruder.read_its_parents_secrets)
    with pytest.raises(PermissionError):
        taken_over(intruder.write, str(tmp_path / "other.txt"))
    assert (tmp_path / "other.txt").read_text() == "private"


def test_it_writes_only_where_it_may(clip: Clip, tmp_path: Path) -> None:
    needs("files")
    (tmp_path / "canvas").mkdir()
    with GuardedSampler(timeout_s=60, writes_to=tmp_path / "canvas") as sampler:
        assert sampler.run(intruder.write, clip("plain.mp4"), str(tmp_path / "canvas" / "a")) == "was here"
        with pytest.raises(PermissionError):
            sampler.run(intruder.write, clip("plain.mp4"), str(tmp_path / "a"))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK])
def test_it_opens_no_socket(taken_over: Callable[..., Any], family: int) -> None:
    needs("network")
    with pytest.raises(PermissionError):
        taken_over(intruder.call, family)


@pytest.mark.parametrize(
    "deed",
    [
        intruder.run_a_program,
        intruder.have_a_child,
        intruder.stop_its_parent,
        intruder.starve_its_parent,
        intruder.look_into_its_parent,
    ],
)
def test_it_has_no_way_to_other_processes(taken_over: Callable[..., Any], deed: Callable[..., Any]) -> None:
    needs("network and processes")
    with pytest.raises(PermissionError):
        taken_over(deed)


def test_it_changes_no_rights(taken_over: Callable[..., Any], tmp_path: Path) -> None:
    needs("network and processes")
    with pytest.raises(PermissionError):
        taken_over(intruder.change_rights, str(tmp_path))


def test_it_stays_within_its_limits(taken_over: Callable[..., Any]) -> None:
    needs("privileges")
    with pytest.raises((ValueError, PermissionError), match=r"hard limit|maximum limit|not permitted"):
        taken_over(intruder.raise_its_limits)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nothing",
        b"[]",
        b"null",
        b'{"value": 1}',
        b'{"value": [1], "buffers": []}',
        b'{"value": {"Predictor": {}}, "buffers": []}',
        b'{"value": {"VideoInfo": {"path": "/etc/passwd"}}, "buffers": []}',
        b'{"value": {"array": 0, "dtype": "O", "shape": [1]}, "buffers": [8]}' + END + bytes(8),
        b'{"value": {"array": 0, "dtype": "uint8", "shape": [1000000]}, "buffers": [0]}',
        b'{"value": {"array": 7, "dtype": "uint8", "shape": [1]}, "buffers": []}',
        b'{"value": {"fraction": [1, 0]}, "buffers": []}',
        b'{"value": 1, "buffers": [-1]}',
        b'{"value": 1, "buffers": [4611686018427387904]}',
        b'{"error": ["SystemExit", "0"]}',
        b"[" * 50_000,
    ],
)
def test_an_answer_that_is_none(text: bytes) -> None:
    with pytest.raises(wire.Malformed):
        heard(text)


def test_what_it_says_is_never_run(clip: Clip, tmp_path: Path) -> None:
    with GuardedSampler(timeout_s=60) as sampler:
        with pytest.raises(errors.DecoderCrashed, match="no answer"):
            sampler.run(intruder.answer_with_a_pickle, clip("plain.mp4"), str(tmp_path / "marker"))
        with pytest.raises(errors.DecoderCrashed, match="no answer"):
            sampler.run(intruder.promise_more_than_there_is, clip("plain.mp4"))
        assert len(sampler.sample(clip("plain.mp4"), 2).frames) == 2  # by another child
    assert not (tmp_path / "marker").exists()


def test_errors_it_may_send_are_exceptions_only() -> None:
    for kind, meant in (("KeyboardInterrupt", RuntimeError), ("TooLarge", errors.TooLarge), ("eval", RuntimeError)):
        error = heard(json.dumps({"error": [kind, "why"], "buffers": []}).encode())
        assert type(error) is meant and "why" in str(error)


def test_what_cannot_be_sent_is_an_error_and_the_child_lives_on(taken_over: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="cannot send a dict"):
        taken_over(_a_dict)
    np.testing.assert_equal(taken_over(_arrays), [np.zeros((0, 4)), np.float32(1) * np.ones(3, np.float32)])


def test_this_machine_gives_the_whole_sandbox_or_says_what_is_missing() -> None:
    assert all(what.split(":")[0] in ("privileges", "files", "network and processes") for what in sandbox_status())


def test_a_machine_without_the_means_decodes_and_says_so(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "from spacevllm.video import guard_child, sandbox\n"
        "sandbox._MACHINES, sandbox._CREATE_RULESET = {}, 100_000\n"
        "guard_child.serve()\n"
    )
    with pytest.MonkeyPatch.context() as patch, GuardedSampler(timeout_s=60) as sampler:
        patch.setattr("spacevllm.video.guard._CHILD", code)
        assert len(sampler.sample(clip("plain.mp4"), 2).frames) == 2
        assert [what.partition(":")[0] for what in sampler.missing] == ["files", "network and processes"]
        assert [record.message for record in caplog.records if "Landlock" in record.message] != []


def _a_dict(path: str) -> dict:
    return {}


def _arrays(path: str) -> list:
    return [np.zeros((0, 4)), np.ones(3, np.float32)]
