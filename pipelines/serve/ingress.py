"""The ingress as a deployment: the application of ``app`` on a CPU, with a handle to the model."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from pipelines.serve.app import build_app
from pipelines.serve.config import ServeConfig
from pipelines.serve.service import Service


@serve.deployment
@serve.ingress()
class Ingress:
    """Checks, decodes, asks the model, answers."""

    def __init__(self, config: ServeConfig, model: DeploymentHandle[Any], folder: str) -> None:
        self.service = Service(config, model, folder)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self.service)
