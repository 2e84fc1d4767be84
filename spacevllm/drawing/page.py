"""What the HTML pages share: ``page.html`` (head, colours, type), and how templates are read."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """A template beside this file. What is filled into HTML is escaped; a name that is not given is an error."""
    environment = Environment(
        loader=PackageLoader("spacevllm", "drawing"), autoescape=name.endswith(".html"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["cell"] = lambda value: " ".join(str(value).split()).replace("|", "\\|")  # Markdown's tables
    return environment.get_template(name)
