"""README and docs/ keep their word: every relative link resolves, every command line is one that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from jobs.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(page: Path) -> list[str]:
    """Whole ``spacevllm …`` lines of the page's shell blocks, continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("spacevllm ")]


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    local = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to {missing}"


def test_there_are_command_lines():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value[:60])
def test_command_lines_parse(page, line):
    job, *arguments = shlex.split(line, comments=True)[1:]
    get_command(app).commands[job].make_context(job, list(arguments))  # raises on an unknown or missing option
    if job == "submit":
        job = arguments[0]
        get_command(app).commands[job].make_context(job, arguments[arguments.index("--") + 1 :])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page):
    assert set(re.findall(r"`make ([a-z]+)`", page.read_text())) <= TARGETS


def test_file_tree_names_what_is_there():
    tree = (ROOT / "README.md").read_text().split("## The house")[1].split("```")[1]
    layer, missing = "", []
    for line in tree.splitlines():
        if re.match(r"\w+/ ", line):
            layer = line.split("/")[0]
        for name in re.findall(r"(?<![\w/])([a-z_]+(?:\.py|\.yaml|/))(?=\s|$|,)", line):
            there = (ROOT / name).exists() or any((ROOT / layer).rglob(name.rstrip("/")))
            missing += [] if there else [f"{layer}/{name}"]
    assert not missing, f"README's file tree names {missing}"
