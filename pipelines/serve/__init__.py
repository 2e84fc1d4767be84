"""``POST /v1/ground``: the same predictor as every other stage, behind HTTP."""

from pipelines.serve.config import ServeConfig
from pipelines.serve.server import run

__all__ = ["ServeConfig", "run"]
