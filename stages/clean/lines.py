"""Taking lines out of a text, for the rules that judge lines."""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.text.languages import Language
from pipeline.text.sentences import NO_SENTENCE_END, TERMINALS

_BLANK_LINES = re.compile("\n{3,}")
_CLOSING = "\"'”’»›」』）)]"


def without(text: str, is_dropped: Callable[[str], bool]) -> str:
    """The text without the lines of which this is true (each is given without white space at its ends); empty lines are not asked about."""
    lines = text.split("\n")
    kept = [line for line in lines if not (stripped := line.strip()) or not is_dropped(stripped)]
    return text if len(kept) == len(lines) else joined(kept)


def joined(kept: list[str]) -> str:
    """The lines that are left, with no more than one empty line between two."""
    return _BLANK_LINES.sub("\n\n", "\n".join(kept)).strip("\n")


def has_sentence_ends(language: Language | None) -> bool:
    """Whether sentences of the language usually end in a mark; taken for granted where the language is unknown."""
    return language is None or language.script not in NO_SENTENCE_END


def ends_as_sentence(line: str, language: Language | None) -> bool:
    """Whether a line ends in an end mark of any script, closing quotes and brackets aside; a semicolon only asks in Greek."""
    last = line.rstrip(_CLOSING)[-1:]
    if last in (";", ","):
        return last == ";" and language is not None and language.script == "Grek"
    return bool(last) and last in TERMINALS
