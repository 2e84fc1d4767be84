"""Runs the service and its page until it is told to stop."""

from __future__ import annotations

from jobs.common import finish, need_folder, need_model, resolve, show_plan
from pipelines.serve import ServeConfig, check_access
from pipelines.serve import run as serve


def run(model: str, port: int, media_root: str, overrides: list[str], dry_run: bool) -> int:
    """Serves until SIGTERM or Ctrl-C; both are the normal end, with exit status 0."""
    config = resolve(ServeConfig, "", overrides, model=model, port=port, media_root=media_root)
    need_model(model)
    check_access(config)
    if media_root:
        need_folder("--media-root", media_root)
    if dry_run:
        return show_plan("serve", config)
    print(f"starting the service with {model}", flush=True)
    stopped = serve(config, ready=_tell)
    finish(f"stopped: {stopped['url']}")
    return 0


def _tell(url: str) -> None:
    print(f"ready: {url}/v1/ground, page: {url}/, description: {url}/docs", flush=True)
