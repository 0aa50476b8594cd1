"""Words and letters that tell close relatives apart where models toss a coin: Bosnian and Croatian, Indonesian and Malay, the two scripts of Chinese.

`twins.tsv` beside this file holds a language a line: its group and the words that, of the group, it alone uses in standard spelling; `*` ends a stem that stands for
all words beginning so. They are common knowledge (tačka/točka, hiljada/tisuća; karena/kerana, universitas/universiti), written down before any text was looked at;
those that stood about as often in the wrong language were then taken out on one half of the sentences of SIB-200, never the half on which accuracy is stated.

Simplified characters are those of GB 2312 that Big5 lacks, traditional ones the other way round.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_MAX_CHARACTERS = 4_000
"""Only the head of a text is looked at."""


@cache
def _words(group: str) -> dict[str, list[tuple[str, bool, str]]]:
    """The words of a group by their first three letters: word or stem, which of the two, language; the longest first."""
    found: dict[str, list[tuple[str, bool, str]]] = {}
    for line in Path(__file__).with_name("twins.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        named, code, words = line.split("\t")
        if named == group:
            for word in words.split():
                found.setdefault(word[:3], []).append((word.rstrip("*"), word.endswith("*"), code))
    for listed in found.values():
        listed.sort(key=lambda each: (-len(each[0]), each))
    return found


def by_words(group: str, text: str) -> str | None:
    """The language of the group with the most words of its own in a text; None where none has more than the others."""
    listed = _words(group)
    votes: list[str] = []
    for word in text[:_MAX_CHARACTERS].lower().split():
        if (start := word[:3]) in listed:
            votes += [code for known, is_stem, code in listed[start] if word == known or (is_stem and word.startswith(known))][:1]
    if not votes:
        return None
    counts = {code: votes.count(code) for code in votes}
    most = max(counts.values())
    best = [code for code, count in counts.items() if count == most]
    return best[0] if len(best) == 1 else None


@cache
def _ideographs() -> tuple[frozenset[str], frozenset[str]]:
    """Characters of simplified, and of traditional writing only."""
    characters = [chr(point) for point in range(0x4E00, 0xA000)]
    simplified, traditional = ({each for each in characters if _encodes(each, codec)} for codec in ("gb2312", "big5"))
    return frozenset(simplified - traditional), frozenset(traditional - simplified)


def _encodes(character: str, codec: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def chinese(text: str) -> str | None:
    """`zh-Hans` or `zh-Hant`, whichever has more distinct characters of its own; None where neither has."""
    simplified, traditional = _ideographs()
    balance = len(simplified.intersection(text[:_MAX_CHARACTERS])) - len(traditional.intersection(text[:_MAX_CHARACTERS]))
    return None if balance == 0 else "zh-Hans" if balance > 0 else "zh-Hant"
