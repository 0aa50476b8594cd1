"""navigation: menus go: bars of short parts (`Home | News | Contact`), and four or more short lines in a row of which none ends as a sentence; unit: the line.

A part or line is short that has at most three words; in scripts without spaces, at most twelve characters. A line in a script whose sentences usually have no end mark
(Thai, Lao, …) counts for no row, since there a short sentence looks the same. Source: the short-line heuristics of jusText (Pomikálek 2011), made narrow. Direction: what has
sentences stays; lists, tables and verse of short lines are lost, so it is off by default.
"""

from __future__ import annotations

import re

from pipeline.text.languages import Language
from stages.clean.lines import ends_as_sentence, has_sentence_ends, joined

ROW, PARTS = 4, 3
MAX_WORDS, MAX_CHARACTERS = 3, 12
_BAR = re.compile(r"\s[|»›•·→>/]+\s|\s?[|｜»›•]\s?")


def apply(text: str, language: Language | None) -> str:
    """The text without menus."""
    lines = text.split("\n")
    dropped: set[int] = set()
    row: list[int] = []
    for number, line in enumerate([*map(str.strip, lines), "."]):  # a sentence's end closes the last row
        if not line:
            continue
        if has_sentence_ends(language) and _is_short(line, language) and not ends_as_sentence(line, language):
            row.append(number)
            continue
        if len(row) >= ROW:
            dropped.update(row)
        row = []
        if _is_bar(line, language):
            dropped.add(number)
    return joined([line for number, line in enumerate(lines) if number not in dropped]) if dropped else text


def _is_short(part: str, language: Language | None) -> bool:
    if language is not None and not language.spaced:
        return len(part) <= MAX_CHARACTERS
    return len(part.split(maxsplit=MAX_WORDS)) <= MAX_WORDS


def _is_bar(line: str, language: Language | None) -> bool:
    parts = [part for part in _BAR.split(line) if part.strip()]
    return len(parts) >= PARTS and all(_is_short(part, language) and not ends_as_sentence(part, language) for part in parts)
