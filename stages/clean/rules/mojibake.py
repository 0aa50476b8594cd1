"""mojibake: UTF-8 that was once decoded in another encoding (`cafÃ©`, `â€œ`) becomes what was written; unit: the line.

Source: ftfy 6.3 (Speer 2019), `fix_encoding` alone: none of its changes of quotes, ligatures, widths or line ends. A line goes through it only where ftfy's own
heuristic of unlikely neighbours finds something, so that a line which only could be read otherwise stays. Direction: repairs; removes nothing but what stood for one character.
"""

from __future__ import annotations

import re

import ftfy
from ftfy import badness

from pipeline.text.languages import Language


def _for_re2(pattern: str) -> str:
    """A verbose pattern of `re` as RE2 takes it: no white space or comments outside classes, `\\s` and `\\w` of Unicode, `^` at every line."""
    found: list[str] = []
    in_class = False
    rest = iter(re.findall(r"\\.|#[^\n]*|.", pattern, re.DOTALL))
    for part in rest:
        if part.startswith("\\"):
            found.append({r"\s": r"[\s\p{Z}]", r"\w": r"[\pL\pN_]"}.get(part, part))
        elif in_class:
            if len(part) > 1:
                raise AssertionError("a class of ftfy's pattern holds a number sign: the comment's end cannot be told")
            in_class = part != "]"
            found.append(part)
        elif not part.isspace() and not part.startswith("#"):
            in_class = part == "["
            found.append(part)
    return "(?m)" + "".join(found)


TOUCHES = _for_re2(badness.BADNESS_RE.pattern)
_CONFIG = ftfy.TextFixerConfig()


def apply(text: str, language: Language | None) -> str:
    """The text with its broken lines repaired; the same for every language."""
    return "\n".join([ftfy.fix_encoding(line, _CONFIG) if badness.is_bad(line) else line for line in text.split("\n")])
