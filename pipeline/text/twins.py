"""Words and letters that tell close relatives apart where models toss a coin: Bosnian and Croatian, Indonesian and Malay, the two scripts of Chinese.

`twins.tsv` beside this file holds a language a line: its group and the words that, of the group, it alone uses in standard spelling; `*` ends a stem that stands for
all words beginning so. They are common knowledge (tačka/točka, hiljada/tisuća; karena/kerana, universitas/universiti), written down before any text was looked at;
those that stood about as often in the wrong language were then taken out on one half of the sentences of SIB-200, never the half on which accuracy is stated.

Simplified characters are those of GB 2312 that Big5 lacks, traditional ones the other way round.

    texts -> their heads as one array of code points -> compiled: a walk through the letters of each word, or a mark for each character -> votes of each text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

_MAX_CHARACTERS = 4_000
"""Only the head of a text is looked at."""
_SPACE = 1
_POINTS = 0x10000
"""Code points above the basic plane are letters of no word here."""


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of a group as a tree of letters."""

    langs: tuple[str, ...]
    symbol: Any
    """Of each code point: 0 a letter of no word, 1 white space, else the number of a letter, uint8."""
    child: Any
    """The node that a letter leads to, shape (nodes, symbols), int16; 0 where none does, as nothing leads to the root."""
    whole: Any
    """The language of the word that ends at a node, int8; -1 where none does."""
    stem: Any
    """The same for what may go on."""


@cache
def _words(group: str) -> _Words:
    """The words of a group in `twins.tsv`."""
    langs: list[str] = []
    symbol = np.zeros(_POINTS, np.uint8)
    symbol[[point for point in range(_POINTS) if chr(point).isspace()]] = _SPACE
    children: list[dict[int, int]] = [{}]
    ends: dict[int, tuple[int, bool]] = {}
    symbols = _SPACE + 1
    for line in Path(__file__).with_name("twins.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        named, code, words = line.split("\t")
        if named != group:
            continue
        langs.append(code)
        for word in words.split():
            node = 0
            for letter in map(ord, word.rstrip("*")):
                if symbol[letter] == 0:
                    symbol[letter] = symbols
                    symbols += 1
                known = children[node].get(int(symbol[letter]))
                if known is None:
                    known = len(children)
                    children[node][int(symbol[letter])] = known
                    children.append({})
                node = known
            ends[node] = (len(langs) - 1, word.endswith("*"))
    child = np.zeros((len(children), symbols), np.int16)
    whole, stem = np.full(len(children), -1, np.int8), np.full(len(children), -1, np.int8)
    for node, of_node in enumerate(children):
        for number, following in of_node.items():
            child[node, number] = following
    for node, (lang, goes_on) in ends.items():
        (stem if goes_on else whole)[node] = lang
    return _Words(tuple(langs), symbol, child, whole, stem)


def by_words(group: str, texts: Sequence[str]) -> list[str | None]:
    """The language of the group with the most words of its own in each text; None where none has more than the others.

    A word counts once, for the longest entry that it is or begins with.
    """
    known = _words(group)
    winners = _vote(
        *_points([text[:_MAX_CHARACTERS].lower() for text in texts]), known.symbol, known.child, known.whole, known.stem, len(known.langs)
    )
    return [known.langs[winner] if winner >= 0 else None for winner in winners.tolist()]


def _points(heads: Sequence[str]) -> tuple[Any, Any]:
    """The code points of some texts in one array, and where each text begins and the last ends."""
    offsets = np.zeros(len(heads) + 1, np.int64)
    np.cumsum([len(head) for head in heads], out=offsets[1:])
    return np.frombuffer("".join(heads).encode("utf-32-le", "surrogatepass"), np.uint32), offsets


@cache
def _writings() -> Any:
    """Of each code point: 1 where simplified writing alone has it, -1 where traditional writing alone does, else 0; int8."""
    of_point = np.zeros(_POINTS, np.int8)
    for point in range(0x4E00, 0xA000):
        of_point[point] = _encodes(chr(point), "gb2312") - _encodes(chr(point), "big5")
    return of_point


def _encodes(character: str, codec: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def chinese(texts: Sequence[str]) -> list[str | None]:
    """`zh-Hans` or `zh-Hant` for each text, whichever has more distinct characters of its own; None where neither has."""
    balances = _balance(*_points([text[:_MAX_CHARACTERS] for text in texts]), _writings())
    return [None if balance == 0 else "zh-Hans" if balance > 0 else "zh-Hant" for balance in balances.tolist()]


@njit(cache=True)
def _vote(points: Any, offsets: Any, symbol: Any, child: Any, whole: Any, stem: Any, langs: Any) -> Any:
    """The language with the most votes in each text, -1 for a draw."""
    winners = np.full(len(offsets) - 1, -1, np.int8)
    votes = np.zeros(langs, np.int64)
    for t in range(len(offsets) - 1):
        votes[:] = 0
        at, end = offsets[t], offsets[t + 1]
        while at < end:
            node, found = 0, -1
            while at < end:
                number = symbol[points[at]] if points[at] < _POINTS else 0
                if number == _SPACE:
                    break
                node = child[node, number]
                at += 1
                if node == 0:
                    break
                if stem[node] >= 0:
                    found = stem[node]
            if node > 0 and whole[node] >= 0:
                found = whole[node]
            if found >= 0:
                votes[found] += 1
            while at < end and (points[at] >= _POINTS or symbol[points[at]] != _SPACE):  # what is left of the word
                at += 1
            at += 1
        most = votes.max()
        if most > 0 and (votes == most).sum() == 1:
            winners[t] = votes.argmax()
    return winners


@njit(cache=True)
def _balance(points: Any, offsets: Any, of_point: Any) -> Any:
    """Distinct characters of simplified writing less those of traditional writing, of each text."""
    balances = np.zeros(len(offsets) - 1, np.int64)
    seen_in = np.full(_POINTS, -1, np.int32)
    for t in range(len(balances)):
        for at in range(offsets[t], offsets[t + 1]):
            point = points[at]
            if point < _POINTS and of_point[point] != 0 and seen_in[point] != t:
                seen_in[point] = t
                balances[t] += of_point[point]
    return balances
