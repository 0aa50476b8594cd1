"""Character classes as fragments for `re`, which has none of Unicode's: `re.compile(f"[{MARKS}]")`.

Python's `\\w` knows letters and digits but no combining marks, so on its own it tears the vowels off Hindi or Thai.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain

SHORT_WORD_SCRIPTS = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua000-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U00018d8f\U0001aff0-\U0001b2ff\U00020000-\U000323af"
)
"""Han, Kana, Bopomofo, Yi, Tangut: no spaces, words of one to four characters."""

LONG_WORD_SCRIPTS = (
    "\u0e01-\u0e3a\u0e40-\u0e5b\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f"
    "\ua980-\ua9ff\uaa60-\uaa7f"
)
"""Thai, Lao, Tibetan, Burmese and Shan, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese: no spaces between words,
but words of several letters with their signs."""


def _marks() -> str:
    """Combining marks (categories Mn, Mc, Me) as ranges; they lie below U+20000 or among the variation selectors."""
    points = [p for p in chain(range(0x300, 0x20000), range(0xE0100, 0xE01F0)) if unicodedata.category(chr(p))[0] == "M"]
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(re.escape(chr(first)) + "-" + re.escape(chr(last)) for first, last in ranges)


MARKS = _marks()
"""All combining marks of the running Python's Unicode tables, with the joiners left out."""

UNSPACED = SHORT_WORD_SCRIPTS + LONG_WORD_SCRIPTS
"""All scripts above: where none of these stands, spaces separate words."""
