from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of an untrained tiny model."""
    from tiny import make

    from spacevllm.predictor import Predictor

    folder = tmp_path_factory.mktemp("tiny") / "model"
    Predictor(*make()).save(folder)
    return folder
