"""The commands about archives: nothing but words here, as in ``cli``, which makes them subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.options import Allow, Asked, DryRun, Export, Model, Out, Overrides, Questions, Videos, Windows


def list_videos(
    videos: Videos,
    out: Annotated[str, typer.Option(help="The manifest to write, NAME.parquet.", metavar="FILE")],
    allow: Allow = None,
    dry_run: DryRun = False,
) -> int:
    """List an archive once: its videos, their versions and sizes, as a manifest.

    What takes the manifest as --videos looks nothing up. Run it again when the archive has changed.
    """
    from jobs.list_videos import run

    return run(videos, allow or [], out, dry_run)


def ground(
    model: Model,
    videos: Videos,
    out: Out,
    allow: Allow = None,
    questions: Questions = "",
    question: Asked = None,
    windows: Windows = "auto",
    export: Export = None,
    max_failed: Annotated[float, typer.Option(help="Share of rows that may fail where all counts as done.")] = 0.0,
    shard: Annotated[str, typer.Option(help="Only this part of the videos: 2/4 is the second of four.")] = "",
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Ask every video of an archive; tubes in a Delta table, which is Parquet underneath.

    Exit status 3: done, but some rows failed (a larger share than --max-failed); each of them says why.
    """
    from jobs.ground import run

    lists = {"allow": allow or [], "question": question or [], "export": export or []}
    part = {"max_failed": max_failed, "shard": shard}
    return run(model, videos, questions, out, windows, overrides or [], dry_run, part, **lists)


def forget(
    out: Out,
    video: Annotated[str, typer.Option(help="Whose answers are removed: its path, URI or file name.")] = "",
    question: Annotated[str, typer.Option(help="Whose answers are removed: its text.")] = "",
    other_models: Annotated[bool, typer.Option(help="Remove what other models than the last one answered.")] = False,
    dry_run: DryRun = False,
) -> int:
    """Remove answers of `ground` for good: about a video, to a question, or of earlier models."""
    from jobs.forget import run

    return run(out, video, question, other_models, dry_run)


def search(
    question: Annotated[str, typer.Argument(help="What to look for, in plain words.", metavar="QUESTION")],
    model: Model,
    videos: Videos,
    out: Out,
    allow: Allow = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> int:
    """Look for one thing in a whole archive.

    OUT/page/report.html shows the clips, the surest first; searching again in OUT asks only what is new.
    """
    from jobs.search import run

    return run(question, model, videos, allow or [], out, overrides or [], dry_run)
