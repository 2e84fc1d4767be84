"""The service: a web page, ``POST /v1/ground`` and OpenAI's chat form over the same predictor as every other stage."""

from pipelines.serve.config import ServeConfig, check_access
from pipelines.serve.server import run

__all__ = ["ServeConfig", "check_access", "run"]
