"""The one normaliser: every text goes through `normalise` before it is measured, counted or encoded.

The vocabulary has sentencepiece's identity normaliser, so what a model sees is exactly what comes out of here:

    1. removed    C0 and C1 controls but the white ones, U+007F, lone surrogates, noncharacters, BOM (U+FEFF), word joiner
                  (U+2060) and soft hyphen (U+00AD): invisible marks that only split one word into two spellings
    2. lines      CR LF, CR, VT, FF, NEL (U+0085), U+2028 and U+2029 become a line feed
    3. spaces     tabs, NBSP and every other Unicode space become a space, runs of them one; none at either end of a line
    4. blank      at most one empty line in a row, none at either end of the text
    5. stand-ins  U+2581 ▁ (sentencepiece's space) becomes "_", U+2585 ▅ (its border mark) U+2584 ▄
    6. NFC        canonical composition, Unicode TR15, by the running Python's tables

Kept, since a script or a reader needs them: zero-width space (U+200B, a word border in Khmer, Thai, Burmese), ZWJ and
ZWNJ (Indic, Persian, emoji), bidirectional controls, variation selectors, private use, U+FFFD (a trace of damage that
rules may count).
"""

from __future__ import annotations

import re
import unicodedata

_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u2060\ufeff\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]+")
# Apart, because one class with both halves is three times slower; and most texts stop at the search for its first member.
_REMOVED_ASTRAL = re.compile("[" + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(1, 17)) + "]+")
_LINE_END = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_SPACE = re.compile("[\t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Anything that one of the four above changes; the gate lets clean text pass with one scan.
_UNUSUAL = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\xa0\xad\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2060\u3000"
    "\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff\U0001fffe-\U0010ffff]"
)
_SPACES = re.compile(" {2,}")
_LINE_EDGE = re.compile(" ?\n ?")
_BLANK_LINES = re.compile("\n{3,}")


def changed_characters() -> list[int]:
    """Code points below U+323B0, other than space and line feed, that are removed or replaced wherever they stand (step 6 aside)."""
    every = "".join(map(chr, range(0x323B0)))
    return [0x2581, 0x2585, *(match.start() for match in _UNUSUAL.finditer(every))]


def normalise(text: str) -> str:
    """The text in the form described at the head of this file; `normalise(normalise(x)) == normalise(x)`."""
    if _UNUSUAL.search(text):
        text = _REMOVED_ASTRAL.sub("", _REMOVED.sub("", text))
        text = _SPACE.sub(" ", _LINE_END.sub("\n", text))
    if "  " in text:
        text = _SPACES.sub(" ", text)
    if " \n" in text or "\n " in text:
        text = _LINE_EDGE.sub("\n", text)
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    text = text.replace("\u2581", "_").replace("\u2585", "\u2584").strip(" \n")
    return unicodedata.normalize("NFC", text)
