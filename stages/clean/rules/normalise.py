"""normalise: NFC, control characters, white space and line ends, by `pipeline.text.normalise`, after which the vocabulary needs no normaliser."""

from __future__ import annotations

from typing import Any

from pipeline.text import normalise
from pipeline.text.languages import Language


def apply(text: str, language: Language | None) -> str:
    """The normalised text; the same for every language."""
    return normalise.normalise(text)


def settled(data: Any, offsets: Any) -> Any:
    """Which texts of a batch (UTF-8, and where each begins and the last ends) it leaves as they are; bool, shape (texts,)."""
    from pipeline.text import settled

    return settled.normalised(data, offsets)
