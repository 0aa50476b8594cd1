"""Cutting a text into sentences, for packing whole ones: by line, then after terminal punctuation of any script.

    text -> lines -> after . ! ? … and their kin when white space follows; after 。！？ and other full stops of unspaced scripts at once

It cuts no text away: the sentences joined by what stood between them give the text back but for white space. A wrong cut (an abbreviation) costs
nothing but a `▁` that stands there anyway; a missed one only makes a longer sentence, which packing cuts where a row ends.
"""

from __future__ import annotations

import re

# Latin and Greek, Armenian, Arabic and Urdu, Devanagari, Ethiopic, Khmer, Burmese, Tibetan, Mongolian, Javanese, and others.
_SPACED = ".!?…;؛؟۔।॥።፧፨។៕၊။།༎᠃᠉։՞՜"
_UNSPACED = "。！？｡"
_CLOSING = "\"'”’»」』）)\\]"

_SPACED_CLOSED = re.compile(f"([{_SPACED}][{_CLOSING}]*)\\s+")
TERMINALS = _SPACED + _UNSPACED
"""Characters that end a sentence, of any script."""
NO_SENTENCE_END = frozenset({"Lana", "Laoo", "Talu", "Tavt", "Thai", "Tibt"})
"""Scripts (ISO 15924) in which many sentences end in a space alone, in Tibetan those whose last letter stands for the shad too: that a line lacks an end mark says nothing there."""
_UNSPACED_CLOSED = re.compile(f"([{_UNSPACED}]+[{_CLOSING}]*)(?=\\S)")


def split_sentences(text: str) -> list[str]:
    """Sentences of a normalised text in order, none empty, stripped of white space at both ends."""
    # Both marks are looked for in the whole text at once: white space that an end mark takes may hold line ends, which only part what is parted anyway.
    marked = _UNSPACED_CLOSED.sub("\\1\n", _SPACED_CLOSED.sub("\\1\n", text))
    return [sentence for part in marked.split("\n") if (sentence := part.strip())]
