"""normalise: NFC, control characters, white space and line ends, by `pipeline.text.normalise`, after which the vocabulary needs no normaliser."""

from __future__ import annotations

from pipeline.text import normalise
from pipeline.text.languages import Language


def apply(text: str, language: Language | None) -> str:
    """The normalised text; the same for every language."""
    return normalise.normalise(text)
