"""normalise: NFC, control characters, white space and line ends, by `pipeline.text.normalise`, after which the vocabulary needs no normaliser.

Unit: the text. Source: Unicode Standard Annex 15 and the table in that module. Direction: one spelling for what looks the same; nothing visible goes. It stands last, since the
rules before it may leave spaces and empty lines behind.
"""

from __future__ import annotations

from pipeline.text import normalise
from pipeline.text.languages import Language

TOUCHES = normalise.touches()


def apply(text: str, language: Language | None) -> str:
    """The normalised text; the same for every language."""
    return normalise.normalise(text)
