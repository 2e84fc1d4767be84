"""How much of Ray is heard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import ray
from pipelines.core.cluster import ray_session
with ray_session():
    ray.data.range(4).map(lambda row: print("a worker speaks") or row).materialize()
"""


@pytest.mark.slow
@pytest.mark.parametrize("debug", ["", "1"])
def test_debug_opens_ray_s_logs(debug, tmp_path):
    environment = os.environ | {"SPACEVLLM_DEBUG": debug, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_BACKEND_LOG_LEVEL", None)  # another session here set it
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heard = done.stdout + done.stderr
    assert ("a worker speaks" in heard, "Started a local Ray instance" in heard) == (bool(debug), bool(debug))
