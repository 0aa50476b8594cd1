"""Properties of code points as arrays, for the compiled code in `kernels`: class bits, lower case, script.

`unicodedata` of the running Python is the source, so a Python minor that knows newer characters may measure them differently. A table covers the
planes that hold assigned characters (up to U+323AF, and the variation selectors folded into the marks); whatever lies beyond is a symbol.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

import numpy as np

from pipeline.text.characters import LONG_WORD_SCRIPTS, SHORT_WORD_SCRIPTS
from pipeline.text.sentences import TERMINALS

SPACE, LETTER, MARK, DIGIT, SHORT, LONG, SYMBOL, TERMINAL = (1 << bit for bit in range(8))
POINTS = 0x323B0
"""Code points that the tables cover."""

ETHIOPIC_WORDSPACE = 0x1361
"""The two dots that part words in older Amharic and Tigrinya typesetting, where no space does."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@cache
def classes() -> Bytes:
    """Class bits by code point, uint8, shape (POINTS,): white space, letter, combining mark, decimal digit, unspaced script of short or long words, symbol
    (punctuation, symbols, controls, unassigned), end of a sentence."""
    found = np.zeros(POINTS, np.uint8)
    for point in range(POINTS):
        kind = unicodedata.category(chr(point))
        if kind[0] == "L":
            found[point] = LETTER
        elif kind[0] == "M":
            found[point] = MARK
        elif kind == "Nd":
            found[point] = DIGIT
        elif kind[0] in "PSC":
            found[point] = SYMBOL
        if chr(point).isspace():
            found[point] = SPACE
    for script, bit in ((SHORT_WORD_SCRIPTS, SHORT), (LONG_WORD_SCRIPTS, LONG)):
        for first, last in _ranges(script):
            found[first : min(last, POINTS - 1) + 1] |= bit
    for character in TERMINALS:
        found[ord(character)] |= TERMINAL
    found[ETHIOPIC_WORDSPACE] |= SPACE
    found[[0x200C, 0x200D]] = MARK  # the joiners are letters' business in Persian and Indic scripts: they part no word
    return found


def _ranges(fragment: str) -> list[tuple[int, int]]:
    """The ranges of a fragment of a character class, as `characters` has them."""
    return [(ord(first), ord(last or first)) for first, last in re.findall(r"(.)(?:-(.))?", fragment, re.DOTALL)]


@cache
def lowered() -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The lower case of each code point, uint32, shape (POINTS,), where it is one code point; else the code point itself."""
    found = np.arange(POINTS, dtype=np.uint32)
    for point in range(POINTS):
        small = chr(point).lower()
        if len(small) == 1 and ord(small) < POINTS:
            found[point] = ord(small)
    return found


# ISO 15924 code -> how the names of its characters begin; a script that is not here is named as Unicode names it.
_NAMES = {
    "Arab": ("ARABIC",), "Armn": ("ARMENIAN",), "Beng": ("BENGALI",), "Cans": ("CANADIAN SYLLABICS",), "Cher": ("CHEROKEE",), "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",), "Ethi": ("ETHIOPIC",), "Geor": ("GEORGIAN",), "Grek": ("GREEK",), "Gujr": ("GUJARATI",), "Guru": ("GURMUKHI",),
    "Hang": ("HANGUL",), "Hani": ("CJK",), "Hans": ("CJK",), "Hant": ("CJK",), "Hebr": ("HEBREW",), "Jpan": ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA"),
    "Kore": ("HANGUL", "CJK"), "Khmr": ("KHMER",), "Knda": ("KANNADA",), "Laoo": ("LAO",), "Latn": ("LATIN", "FULLWIDTH LATIN"), "Mlym": ("MALAYALAM",), "Mong": ("MONGOLIAN",),
    "Mymr": ("MYANMAR",), "Nkoo": ("NKO",), "Olck": ("OL CHIKI",), "Orya": ("ORIYA",), "Sinh": ("SINHALA",), "Syrc": ("SYRIAC",), "Taml": ("TAMIL",), "Telu": ("TELUGU",),
    "Tfng": ("TIFINAGH",), "Thaa": ("THAANA",), "Thai": ("THAI",), "Tibt": ("TIBETAN",), "Vaii": ("VAI",), "Yiii": ("YI",), "Mtei": ("MEETEI MAYEK",), "Bali": ("BALINESE",),
    "Java": ("JAVANESE",), "Lisu": ("LISU",), "Adlm": ("ADLAM",), "Copt": ("COPTIC",), "Hmnp": ("NYIAKENG",), "Tavt": ("TAI VIET",), "Talu": ("NEW TAI LUE",), "Lana": ("TAI THAM",),
    "Bugi": ("BUGINESE",), "Sund": ("SUNDANESE",), "Cakm": ("CHAKMA",), "Rohg": ("HANIFI",), "Osge": ("OSAGE",), "Bopo": ("BOPOMOFO",), "Limb": ("LIMBU",), "Gran": ("GRANTHA",),
}  # fmt: skip


@cache
def script_ids() -> tuple[Bytes, tuple[str, ...]]:
    """The script of each letter as an index into the returned names, uint8, shape (POINTS,); 0 for all that is no letter of a named script.

    The script is read off the character's name (LATIN SMALL LETTER A), as `unicodedata` has no property for it.
    """
    names = ("", *sorted({name for group in _NAMES.values() for name in group}, key=lambda name: (-len(name), name)))
    first_words: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        first_words.setdefault(name.split(" ")[0], []).append(number)
    found = np.zeros(POINTS, np.uint8)
    bits = classes()
    for point in np.flatnonzero(bits & LETTER):
        name = unicodedata.name(chr(point), "")
        for number in first_words.get(name.split(" ")[0].split("-")[0], ()):
            if name.startswith(names[number]):
                found[point] = number
                break
    return found, names


def scripts_of(code: str) -> tuple[int, ...]:
    """The indices of `script_ids` that belong to a script (ISO 15924); none where the script is not in the table."""
    _, names = script_ids()
    return tuple(names.index(name) for name in _NAMES.get(code, ()))


def known_scripts() -> tuple[str, ...]:
    """The scripts (ISO 15924) that `scripts_of` knows, sorted."""
    return tuple(sorted(_NAMES))
