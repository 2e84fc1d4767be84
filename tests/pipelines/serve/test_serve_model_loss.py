"""A copy of the model that is busy, or dies while it answers: real Ray Serve, a model that does as it is told."""

from __future__ import annotations

import asyncio
import os

import pytest
from ray import serve
from serving import QUESTIONS

from pipelines.serve.config import Replicas, ServeConfig
from pipelines.serve.problems import Problem
from pipelines.serve.server import _application
from pipelines.serve.service import Ask, Service


@serve.deployment
class Mortal:
    """Dies of its first question."""

    def facts(self):
        return {"num_frames": 8, "image_size": 32}

    async def ground(self, ask):
        os._exit(1)


@pytest.fixture
def mortal(ray_cluster, one_service):
    one_service.close()
    yield serve.run(Mortal.options(ray_actor_options={"num_cpus": 0.1}).bind(), name="mortal", route_prefix=None)
    serve.shutdown()


@pytest.mark.slow
def test_a_copy_that_dies_while_it_answers_is_not_ready(mortal, tmp_path):
    async def run():
        service = Service(ServeConfig(model="m"), mortal, str(tmp_path))
        await service.start()
        with pytest.raises(Problem) as problem:
            await service._ask(Ask("a", QUESTIONS))
        service.close()
        return problem.value

    problem = asyncio.run(run())
    assert (problem.status, problem.reason) == (503, "not_ready") and problem.headers["retry-after"]


def test_a_health_check_has_a_place_beside_all_questions(tmp_path):
    config = ServeConfig(model="m", max_requests=36, ingress=Replicas(min=1, max=2))
    _, model, _ = _application(config, tmp_path)._bound_deployment.init_args
    assert model._bound_deployment._deployment_config.max_ongoing_requests > 36 * 2
