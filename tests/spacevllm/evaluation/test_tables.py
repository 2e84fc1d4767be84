"""Tables name what was scored and what was not; the best published figure is the best."""

from __future__ import annotations

from scoring_cases import instance, tube

from spacevllm.evaluation.benchmarks import BENCHMARKS, benchmark_baselines, score_benchmark
from spacevllm.evaluation.published import OURS, PUBLISHED
from spacevllm.evaluation.tables import HEADLINES, benchmark_lines, overview_lines


def vidstg(**changes):
    """A summary of three queries, one of them answered."""
    kinds = {"a": "declarative", "b": "declarative", "c": "interrogative"}
    truths = [
        instance(id=name, source="vidstg", sentence_type=kind, media=f"{name}.mp4") for name, kind in kinds.items()
    ]
    scores, _ = score_benchmark("vidstg", truths, {"a": tube(20, 40)}, ["dense", "stcat"])
    counts = {"in": 3, "failed": 2, "in_file": 10_303, "without_media": 10_299, "dropped": 1, "beyond_limit": 0}
    about = {"benchmark": "vidstg", "split": "test", "task": "stvg", "model_id": "small", "scores": scores}
    about |= {"stand_in": False, "other_copies": {"media": 0, "first": []}}
    return about | counts | {"baselines": benchmark_baselines("vidstg", truths, ["dense", "stcat"])} | changes


def test_a_table_for_each_protocol_and_group():
    text = "\n".join(benchmark_lines(vidstg()))
    for title in ("vidstg · dense", "vidstg · dense · declarative", "vidstg · stcat · interrogative"):
        assert f"## {title}\n" in text
    first = text.split("## vidstg · dense\n")[1].splitlines()
    assert first[1] == "| | m_tIoU | m_vIoU | vIoU@0.3 | vIoU@0.5 | gt_vIoU | queries |"
    assert first[3].startswith("| **small** | 33.3 [0.0, 100.0] |") and first[3].endswith("| 3 of 10,303 |")
    assert first[4].startswith("| centre box whole clip | 20.0 |")
    assert "SpaceVLLM" not in text.split("## vidstg · dense · declarative")[0]  # papers report the kinds apart
    assert f"| {OURS} | 47.7 | 27.4 | 39.1 | 26.2 |  |  |" in text


def test_what_was_not_asked_is_said():
    text = "\n".join(benchmark_lines(vidstg()))
    assert "Scored: 3 of the 10,303 queries in the file." in text
    assert "another size" not in text
    copies = "\n".join(benchmark_lines(vidstg(other_copies={"media": 7, "first": ["a.mp4", "b.mp4"]})))
    assert "7 files have another size or number of frames than annotated" in copies and ": a.mp4, b.mp4, …." in copies
    assert "Not asked: 10,299 without their videos in media/, 1 cannot be read (left_out.jsonl)." in text
    assert "2 failed: they count as 0." in text
    assert "stand-in" not in text and "A stand-in, not the benchmark" in "\n".join(
        benchmark_lines(vidstg(stand_in=True))
    )
    assert "Not asked" not in "\n".join(benchmark_lines(vidstg(without_media=0, dropped=0)))


def test_the_overview_has_a_row_for_each_protocol_and_reported_group():
    rows = list(overview_lines("small", [vidstg()], {"egoschema": "egoschema is not scored: get it"}))
    assert rows[0].startswith("| benchmark | protocol | metric | **small** | constant | random | SpaceVLLM-7B |")
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:7]]
    assert [row[:3] for row in cells[:4]] == [
        [f"vidstg · {kind}", protocol, "m_vIoU"]
        for protocol in ("dense", "stcat")
        for kind in ("declarative", "interrogative")
    ]
    assert cells[0][3] == "50.0 [0.0, 100.0]" and cells[0][6:] == ["27.4", "36.5 ScanFocus", "2"]
    assert cells[4] == ["egoschema", *[""] * 7, "not scored"] and "egoschema is not scored: get it" in rows[-1]


def test_published_figures_are_of_the_reported_split_alone():
    other = vidstg(split="val")
    assert "SpaceVLLM" not in "\n".join(benchmark_lines(other))
    assert "| – | – | 2 |" in "\n".join(overview_lines("small", [other], {}))


def test_published_figures_are_percent_in_columns_that_exist():
    columns = {"stvg": {"m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5"}, "vtg": {"R1@0.3", "R1@0.5", "R1@0.7", "mIoU"}}
    columns |= {"rec": {"acc@0.5"}, "qa": {"accuracy"}}
    for name, groups in PUBLISHED.items():
        task = BENCHMARKS[name].task
        for values in (values for rows in groups.values() for values in rows.values()):
            assert values.keys() <= columns[task] and HEADLINES[task] in values
            assert all(1 < value < 100 for value in values.values())
