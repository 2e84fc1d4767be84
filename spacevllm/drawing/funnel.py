"""The funnel of the synthesis pipeline as an SVG picture: a bar for each stage, the paper's share beside them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from spacevllm.data.synthesis.funnel import PAPER_REMOVED, FunnelStage

WIDTH, ROW, LEFT, BAR = 720, 44, 110, 420
# Every selector names the picture: inside a page, an SVG's styles hold for the whole page
_STYLE = """\
.funnel-plot text { font: 14px system-ui, sans-serif; fill: #1f2023 }
.funnel-plot .quiet { fill: #6c6f75; font-size: 12.5px }
.funnel-plot .ground { fill: #eceae4 } .funnel-plot .kept { fill: #d9641a }
.funnel-plot .paper { stroke: #4d5157; stroke-width: 1.5; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  .funnel-plot text { fill: #e9e7e2 } .funnel-plot .quiet { fill: #979ba2 } .funnel-plot .ground { fill: #2b2e34 }
  .funnel-plot .kept { fill: #ff8a3d } .funnel-plot .paper { stroke: #d4d3cf }
}"""


def draw_funnel(stages: Sequence[FunnelStage]) -> str:
    """SVG text, as wide as its place up to 720 units, light and dark; it names every count, so it needs no legend."""
    entered = stages[0].entered if stages else 0
    bars = [_bar("captions", entered, entered, 0, "")]
    for row, stage in enumerate(stages, start=1):
        why = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in stage.reasons.items())
        bars.append(_bar(stage.name, stage.kept, entered, row, f"−{stage.removed:.0%}: {why}" if why else ""))
    height = ROW * len(bars) + 26
    x, end = LEFT + BAR * (1 - PAPER_REMOVED), ROW * len(bars)
    paper = f'<line class="paper" x1="{x:g}" x2="{x:g}" y1="4" y2="{end}"/>' + _text(
        x, end + 16, f"what the paper keeps of all: about {1 - PAPER_REMOVED:.0%}", "quiet", "middle"
    )
    label = escape("; ".join(f"{s.name} keeps {s.kept} of {s.entered}" for s in stages))
    size = f'viewBox="0 0 {WIDTH} {height}" style="max-width: {WIDTH}px; width: 100%"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="funnel-plot" {size} role="img" aria-label="{label}">'
    return f"{head}<style>{_STYLE}</style>{''.join(bars)}{paper}</svg>\n"


def _bar(name: str, kept: int, entered: int, row: int, why: str) -> str:
    y, width = ROW * row + 6, BAR * kept / entered if entered else 0
    share = f"{kept:,} · {kept / entered:.0%}" if entered else "0"
    return (
        _text(LEFT - 12, y + 13, name, "", "end")
        + f'<rect class="ground" x="{LEFT}" y="{y}" width="{BAR}" height="18" rx="4"/>'
        + f'<rect class="kept" x="{LEFT}" y="{y}" width="{width:.1f}" height="18" rx="4"/>'
        + _text(LEFT + BAR + 12, y + 13, share)
        + (_text(LEFT, y + 32, why, "quiet") if why else "")
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'
