"""Options that several commands have, with their words."""

from __future__ import annotations

from typing import Annotated

import typer

_MODEL = "Folder of a trained model, local or a URL (s3://...), or models:/NAME@ALIAS of MLflow's registry."

Out = Annotated[str, typer.Option("--out", help="Folder or URI for the results.", metavar="DIR")]
Data = Annotated[str, typer.Option("--data", help="Uni-STG data set: the folder that holds unistg/.", metavar="DIR")]
Model = Annotated[str, typer.Option("--model", help=_MODEL, metavar="DIR")]
Videos = Annotated[
    str,
    typer.Option("--videos", help="A folder, a glob in quotes, a URL, or a manifest.", metavar="DIR|GLOB|URL|FILE"),
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", help="Where alone a manifest may name videos; may be repeated.", metavar="DIR|URI"),
]
Questions = Annotated[
    str,
    typer.Option("--questions", help="Questions: text lines, or rows of JSON, CSV or Parquet.", metavar="FILE"),
]
Asked = Annotated[list[str] | None, typer.Option("--question", help="A question; may be repeated.", metavar="TEXT")]
Windows = Annotated[
    str,
    typer.Option("--windows", help="Look at films window by window, or at every video at once.", metavar="auto|off"),
]
Export = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        help="Also write OUT/exports for other tools; may be repeated.",
        metavar="mot|coco-video|cvat|jsonl",
    ),
]
Config = Annotated[str, typer.Option("--config", help="YAML configuration, see jobs/configs.", metavar="FILE")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the resolved plan, touch nothing.")]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", help="Variable for the job; NAME alone: as it is here.", metavar="NAME[=VALUE]"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Configuration that differs from the file or the defaults.", metavar="KEY=VALUE"),
]
