"""Taking off what numbers a paragraph, in any script: "1.", "(2)", "a)", "(iv)", "१.", "٣-", "第三条", "Article 3.", "11.1.-".

The paragraph's first characters are mapped to classes, and one pattern over the classes says how much goes:

    (12) Text   ->   (99)_aaaa   9 number, k Chinese numeral, a letter, m combining mark, _ white space, others as they are

Numbers that are text stay: "1.5 million", "24-hour", "1948. In that year", "30 days", and initials ("J. Smith"). So do words that
count ("First, ..."), whose list would be endless. Numbers are those of Python's Unicode tables.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_LOOK_AHEAD = 48
_CHINESE = frozenset("〇零一二三四五六七八九十百")
_ROMAN = re.compile(r"[ivxlc]{2,7}|[IVXLC]{2,7}")
_MARKS = "".join(map(re.escape, ".)]:、．。)）】:"))
_DASH = "‐‑–—-"
_CLASSES = re.compile(
    rf"""
      [(\[（【] _* (?: 9{{1,3}}m* [ºª°]? | k{{1,5}} | (?:am*){{1,12}} ) _* [)\]）】] (?: _* [{_MARKS}{_DASH}]+ (?=_|[^9]|$) )?
    | 9{{1,3}} (?: [.{_DASH}] 9{{1,3}} )* [ºª°]?
      (?: _* [{_MARKS}]+ [ºª°]? [{_DASH}]* | _+ [{_DASH}]+ (?=_|$) | [{_DASH}]+ (?=[^a9]|$) | [ºª°] ) (?!9)
    | k{{1,5}} [、．.)）]
    | 第 _* [9k]{{1,5}} _* . (?: [_:：、] | $ )
    | am* [)）]
    | (?P<letter>am*) \. (?=_|$)
    | (?P<roman>a{{2,7}}) [.)] (?=_|$)
    | (?: (?:am*)+ [._]* ){{1,2}} (?<=_) 9{{1,3}} (?: [.{_DASH}] 9{{1,3}} )* _* [{_MARKS}{_DASH}]+ (?!9)
    """,
    re.VERBOSE,
)


def without_enumerator(paragraph: str) -> str:
    """The paragraph without leading enumerators, up to three of them; "" if no letter is left."""
    for _ in range(3):
        paragraph = paragraph.strip()
        match = _CLASSES.match(_classes(paragraph[:_LOOK_AHEAD]))
        if match is None or not _is_enumerator(match, paragraph):
            break
        paragraph = paragraph[match.end() :]
    return paragraph.strip() if any(unicodedata.category(character)[0] == "L" for character in paragraph) else ""


def without_heading(paragraph: str, headings: Sequence[str]) -> str:
    """The paragraph without a leading copy of one of the headings, provided that a number or more than a word is in it."""
    for heading in sorted(headings, key=len, reverse=True):
        behind = paragraph[len(heading) :]
        same = heading != "" and paragraph[: len(heading)].casefold() == heading.casefold()
        if same and not behind[:1].isalnum() and any(unicodedata.category(character)[0] == "N" for character in heading):
            return behind
    return paragraph


def _is_enumerator(match: re.Match[str], paragraph: str) -> bool:
    if match["roman"] is not None:
        return _ROMAN.fullmatch(paragraph[slice(*match.span("roman"))]) is not None
    if match["letter"] is not None:
        return not paragraph[0].isupper() or paragraph[0] in "IVX"
    return True


def _classes(text: str) -> str:
    """One class letter for each character of `text`."""
    return "".join(map(_class, text))


def _class(character: str) -> str:
    if character in _CHINESE:
        return "k"
    if character in "第ºª°":
        return character
    if character.isspace():
        return "_"
    kind = unicodedata.category(character)
    if kind[0] == "N":
        return "9"
    if kind[0] == "L":
        return "a"
    return "m" if kind[0] == "M" else character
