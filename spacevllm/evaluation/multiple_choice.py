"""Reads which option a free-text answer means. Rules from the strictest to the loosest; the first that speaks decides.

"A" in "Answer", or as an article ("A man runs"), is not an answer; two different options named alike are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_END = r"(?=\s*(?:$|\n|[).:,;!?\]]|(?i:because|since|as|is)\b|[-–—]\s))"  # what may follow a letter that is an answer
_BARE = re.compile(r"[(\[]?([A-Za-z])[)\].:]*")
_HEAD = re.compile(r"(?:(?i:option)\s+)?(?P<open>[(\[])?(?P<letter>[A-Z])(?(open)[)\]])" + _END)
_CLAIM = re.compile(
    r"(?i:answers?|option|choice)\b\s*(?i:is|would be|:|=|-)*\s*(?i:option\s+)?[(\[]?(?P<letter>[A-Za-z])\b" + _END
)
_EITHER = re.compile(r"\b[A-Z]\b[)\]]?\s*(?:or|and|,|/|&)\s*[(\[]?[A-HJ-Z]\b")  # not "C, I think"
_BRACKET = re.compile(r"[(\[](?P<letter>[A-Za-z])[)\]]")
_ALONE = re.compile(r"(?<![\w'’])([A-Z])" + _END)  # "I think it's B."
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|$)", re.DOTALL | re.IGNORECASE)
_MARKUP = re.compile(r"</?\w+>|\\boxed|[*_`\"${}]")
_LABEL = re.compile(r"\s*(?:(?i:(option|sentence|caption))\s+([A-Z]|\d+)\s*[.:)]|\(([A-Z])\)|([A-Z])[).:])\s*")


def parse_choice(answer: str, options: Sequence[str]) -> int | None:
    """Index into ``options`` that ``answer`` means, or None when it cannot be told.

    Accepts "C", "(C)", "C. the red one", "Answer: C", "Best answer: C", "The answer is C.", and an option's text,
    alone or inside a sentence that names no other option. Options may carry their own "A. ", "(A) ", "Option 1: ",
    "Sentence A: " or "Caption A: " in front; answers may name them so. What stands in <think> is no answer.
    """
    text = _MARKUP.sub("", _THOUGHT.sub("", answer)).strip()
    texts = [_plain(_unlabelled(option, i)) for i, option in enumerate(options)]
    text = _lettered(text, options)
    said = _plain(text)
    if bare := _BARE.fullmatch(text):
        return _one({_index(bare[1])}, options)
    if said and said in texts:
        return _one({i for i, option in enumerate(texts) if option == said}, options)
    claims = list(_CLAIM.finditer(text))
    if any(_EITHER.match(text, claim.start("letter")) for claim in claims) or (not claims and _EITHER.search(text)):
        return None
    for letters in (_HEAD.match(text), *claims), _BRACKET.finditer(text):
        indices = {_index(found["letter"]) for found in letters if found}
        if indices:
            return _one(indices, options)
    if named := _named(text, texts):
        return _one(named, options)
    return _one({_index(found[1]) for found in _ALONE.finditer(text)}, options)


def _lettered(text: str, options: Sequence[str]) -> str:
    """The answer with every label of a list like "Option 1: …", "Option 2: …" as its option's letter: "(B)"."""
    for i, option in enumerate(options):
        label = _LABEL.match(option)
        if label and label[1]:
            word, mark = re.escape(label[1]), re.escape(label[2])
            text = re.sub(rf"\b(?i:{word})\s+{mark}\b", f"({chr(ord('A') + i)})", text)
            if label[2].isdigit() and re.fullmatch(rf"[(\[]?{mark}[)\].:]*", text):
                return chr(ord("A") + i)
    return text


def _index(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


def _one(indices: set[int], options: Sequence[str]) -> int | None:
    """The only index, if there is just one and such an option exists."""
    index = next(iter(indices)) if len(indices) == 1 else None
    return index if index is not None and index < len(options) else None


def _plain(text: str) -> str:
    """Lower case, words only."""
    return " ".join(re.findall(r"\w+", text.casefold().replace("'", "").replace("’", "")))


def _unlabelled(option: str, index: int) -> str:
    """The option's text without a label in front; a letter is one only where it is the option's own."""
    label, letter = _LABEL.match(option), chr(ord("A") + index)
    if label and (label[1] or (label[3] or label[4]) == letter):
        return option[label.end() :]
    return option


def _named(text: str, texts: Sequence[str]) -> set[int]:
    """The option that is the first clause ("Yes, it does"), else those inside; of "red" and "red circle" the longer."""
    clause, said = _plain(re.split(r"[.,;:!\n]", text)[0]), f" {_plain(text)} "
    held = {clause} if clause in texts else {option for option in texts if f" {option} " in said}
    found = {i for i, option in enumerate(texts) if option and option in held}
    return {i for i in found if not any(texts[i] != other and f" {texts[i]} " in f" {other} " for other in held)}
