"""The comparison's table and variants; the training itself is the pipeline's own, tested there."""

from __future__ import annotations

from benchmarks.paper_claims import VARIANTS, _phases, table
from spacevllm.model.configuration import tiny_config


def test_every_variant_differs_from_the_papers_in_one_field():
    paper = tiny_config(300)
    for name, fields in list(VARIANTS.items())[1:]:
        [(field, value)] = fields.items()
        assert getattr(tiny_config(300, **fields), field) == value, name
        assert field == "time_encoding" or getattr(paper, field) != value, name


def test_phases_are_the_recipes_with_other_step_counts():
    phases = _phases(stills=3, videos=4)
    assert [(name, phase.steps) for name, phase in phases.items()] == [("stills", 3), ("videos", 4)]
    assert phases["videos"].sources == {"videos": 5, "stills": 1}


def test_the_table_has_mean_and_half_the_range():
    rows = {"SpaceVLLM": [{"m_tIoU": 0.6, "ms": 10.0}, {"m_tIoU": 0.8, "ms": 14.0}]}
    assert list(table(rows)) == [
        "| variant | m_tIoU | ms | seeds |",
        "|---|---|---|---|",
        "| SpaceVLLM | 0.700 ± 0.100 | 12.0 ± 2.0 | 2 |",
    ]
