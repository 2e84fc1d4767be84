from __future__ import annotations

import pytest

SERVICE = pytest.StashKey()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of an untrained tiny model."""
    from tiny import make

    from spacevllm.predictor import Predictor

    folder = tmp_path_factory.mktemp("tiny") / "model"
    Predictor(*make()).save(folder)
    return folder


@pytest.fixture(scope="session")
def decided_model(tmp_path_factory):
    """Folder of a tiny model that answers everything with seconds 1 to 3."""
    from serving import decided

    folder = tmp_path_factory.mktemp("decided") / "model"
    decided("From 1.00s to 3.00s.").save(folder)
    return folder


@pytest.fixture(scope="session")
def media_root(tmp_path_factory):
    """A media root with a good clip, broken files, and a link that leads out of it."""
    from spacevllm.data.moving_shapes import MovingShapesConfig, write_one

    root = tmp_path_factory.mktemp("media")
    write_one(root, MovingShapesConfig(), "test", 0)
    (root / "media/test/000000.mp4").rename(root / "clip.mp4")
    whole = (root / "clip.mp4").read_bytes()
    (root / "short.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "text.mp4").write_text("no video at all")
    (root / "empty.mp4").touch()
    (root.parent / "outside.mp4").write_bytes(whole)
    (root / "link.mp4").symlink_to(root.parent / "outside.mp4")
    return root


@pytest.fixture(scope="session")
def one_service(ray_cluster, request):
    from serving import OneService

    running = request.config.stash[SERVICE] = OneService()
    yield running
    running.close()


@pytest.fixture(scope="module", autouse=True)
def no_service_beside_other_tests(request):
    """It holds CPUs that Ray Data and Ray Train would wait for."""
    running = request.config.stash.get(SERVICE, None)
    if running and not request.node.name.startswith("test_serve"):
        running.close()


@pytest.fixture(scope="session")
def served(one_service, decided_model, media_root):
    """Starts, if need be, the service that most tests ask: small limits, no key. Gives its address."""

    def start():
        return one_service(
            model=str(decided_model),
            media_root=str(media_root),
            max_upload_mb=1,
            max_questions=3,
            max_requests=8,
            upload_timeout_s=60,
            decode_memory_mb=512,
            max_frames=10_000,
            store_mb=1,
            frames_mb=8,
            memory_mb=16,
        )

    return start
