"""Text that others chose (names of files, questions), made harmless for where it goes: a terminal, a spreadsheet."""

from __future__ import annotations

import json
import re
import unicodedata

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def printable(text: str, keep: str = "") -> str:
    """``text`` with escapes (``\\u001b``, as JSON has them) for what a terminal obeys or hides instead of showing it.

    Args:
        keep: characters to leave, such as the line ends of a text of ours.
    """
    return "".join(char if char in keep or _is_shown(char) else json.dumps(char)[1:-1] for char in text)


def _is_shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"  # such as a no-break space


def to_cell(text: str) -> str:
    """``text`` as a CSV cell that a spreadsheet shows: what it would take for a formula gets a ``'`` before it."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """Undoes ``to_cell``."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
