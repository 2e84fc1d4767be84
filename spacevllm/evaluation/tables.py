"""Markdown tables of benchmark scores in percent: the model, baselines that see nothing, published scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spacevllm.evaluation.baselines import CONSTANT
from spacevllm.evaluation.benchmarks import BENCHMARKS
from spacevllm.evaluation.published import OURS, PUBLISHED

HEADLINES = {"stvg": "m_vIoU", "vtg": "R1@0.5", "rec": "acc@0.5", "qa": "accuracy"}

Scored = Mapping[str, Any]  # the summary of one benchmark: ``pipelines.evaluation.benchmark.run``


def benchmark_lines(scored: Scored) -> Iterator[str]:
    """What was asked and what was not, then a table for each protocol and each group."""
    yield f"# {scored['benchmark']}, split {scored['split']}\n"
    yield asked_line(scored)
    for protocol, group, ours, seen in _parts(scored):
        columns = [key for key, value in ours.items() if isinstance(value, float)]
        yield f"\n## {' · '.join(part for part in (scored['benchmark'], protocol, group) if part)}\n"
        yield f"| | {' | '.join(columns)} | queries |"
        yield "|---" * (len(columns) + 2) + "|"
        cells = [_with_interval(ours, key) for key in columns]
        yield _line([f"**{scored['model_id']}**", *cells, _count(scored, ours)])
        for name, values in seen.items():
            yield _line([_words(name), *_numbers({k: 100 * values[k] for k in columns}, columns), ""])
        for name, values in _published(scored, group).items():
            if values.keys() & set(columns):
                yield _line([name, *_numbers(values, columns), ""])
    for task, found in scored["scores"].get("several", {}).items():
        columns = [key for key, value in found.items() if isinstance(value, float)]
        yield f"\n## {scored['benchmark']} · {task} with several right tubes\n"
        yield f"| | {' | '.join(columns)} | queries |"
        yield "|---" * (len(columns) + 2) + "|"
        numbers = _numbers({key: 100 * found[key] for key in columns}, columns)
        yield _line([f"**{scored['model_id']}**", *numbers, f"{found['n_queries']:,}"])


def overview_lines(model: str, all_scored: Sequence[Scored], missing: Mapping[str, str]) -> Iterator[str]:
    """One table: a row for each benchmark and protocol (and group, where papers report groups), its headline alone.

    Args:
        missing: benchmark → why it was not scored.
    """
    titles = ["benchmark", "protocol", "metric", f"**{model}**", "constant", "random"]
    titles += ["SpaceVLLM-7B", "best published", "queries"]
    yield _line(titles)
    yield "|---" * len(titles) + "|"
    for scored in all_scored:
        reported = _reported_groups(scored)
        for protocol, group, ours, seen in _parts(scored):
            if group in reported:
                yield _line(_overview_row(scored, protocol, group, ours, seen))
    for name in missing:
        yield _line([name, *[""] * (len(titles) - 2), "not scored"])
    yield ""
    yield "Percent; in brackets 95 % of a bootstrap over videos. Constant: the box in the middle, all of the clip,"
    yield "option A. Random: an annotated object, a span, an option. A dash: no figure that is certain."
    yield from (f"\n{reason}" for reason in missing.values())


def asked_line(scored: Scored) -> str:
    """What the scores speak of, in one line."""
    stand_in = "A stand-in, not the benchmark: published figures do not compare. " if scored["stand_in"] else ""
    line = f"{stand_in}Scored: {scored['in']:,} of the {scored['in_file']:,} queries in the file."
    why = {
        "without_media": f"without their {BENCHMARKS[scored['benchmark']].media} in media/",
        "dropped": "cannot be read",
        "beyond_limit": "lie beyond --limit",
    }
    parts = [f"{scored[key]:,} {words}" for key, words in why.items() if scored[key]]
    not_asked = f" Not asked: {', '.join(parts)} (left_out.jsonl)." if parts else ""
    failed = f" Of those scored, {scored['failed']:,} failed: they count as 0."
    return f"{line}{not_asked}{failed}{_copies(**scored['other_copies'])}"


def _copies(media: int, first: Sequence[str]) -> str:
    names = ", ".join(first) + (", …" if media > len(first) else "")
    told = f" {media:,} files have another size or number of frames than annotated, answers were carried over: {names}."
    return told if media else ""


def _parts(scored: Scored) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """(protocol, group, the model's scores, every baseline's); ``""`` where there is no protocol, and for the whole."""
    for protocol, beside in scored["baselines"].items():
        whole = scored["scores"].get(protocol, scored["scores"])
        yield protocol, "", whole, beside
        for group, ours in whole.items():
            if isinstance(ours, dict) and "n_queries" in ours:
                yield protocol, group, ours, {name: values[group] for name, values in beside.items() if group in values}


def _reported_groups(scored: Scored) -> set[str]:
    """Those that papers report apart, if they occur; else the whole."""
    there = {group for _, group, _, _ in _parts(scored)}
    return there & set(PUBLISHED.get(scored["benchmark"], {})) or {""}


def _overview_row(
    scored: Scored, protocol: str, group: str, ours: Mapping[str, Any], seen: Mapping[str, Any]
) -> list[str]:
    metric, constant = HEADLINES[scored["task"]], CONSTANT[scored["task"]]
    published = _published(scored, group)
    known = {name: values[metric] for name, values in published.items() if metric in values}
    best = max(known, key=lambda name: known[name], default="")
    blind = [
        max((v[metric] for name, v in seen.items() if (name in constant) is is_constant), default=None)
        for is_constant in (True, False)
    ]
    return [
        " · ".join(part for part in (scored["benchmark"], group, "stand-in" if scored["stand_in"] else "") if part),
        protocol,
        metric,
        _with_interval(ours, metric),
        *("–" if value is None else f"{100 * value:.1f}" for value in blind),
        f"{known[OURS]:.1f}" if OURS in known else "–",
        f"{known[best]:.1f} {best.split(' (')[0].split(',')[0]}" if best else "–",
        _count(scored, ours),
    ]


def _published(scored: Scored, group: str) -> Mapping[str, Mapping[str, float]]:
    """Those for the split that was read; none for another."""
    of_split = scored["split"] == (BENCHMARKS[scored["benchmark"]].split or "test")
    return PUBLISHED.get(scored["benchmark"], {}).get(group, {}) if of_split else {}


def _count(scored: Scored, ours: Mapping[str, Any]) -> str:
    whole = ours["n_queries"] == scored["in"]
    count = f"{ours['n_queries']:,} of {scored['in_file']:,}" if whole else f"{ours['n_queries']:,}"
    return count + (f", {ours['n_not_scored']:,} not scored" if ours.get("n_not_scored") else "")


def _with_interval(scores: Mapping[str, Any], key: str) -> str:
    low, high = scores["confidence"].get(key, (None, None))
    around = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * scores[key]:.1f}{around}"


def _numbers(values: Mapping[str, float], columns: Sequence[str]) -> list[str]:
    return [f"{values[key]:.1f}" if key in values else "" for key in columns]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _words(name: str) -> str:
    return name.replace("_", " ")
