"""What the script of a language means for the rules: whether its sentences end in a mark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.text.languages import Language, lookup
from pipeline.text.sentences import NO_SENTENCE_END
from stages.dedup.rules import Mask

Langs = np.ndarray[Any, np.dtype[Any]]


def has_sentence_ends(langs: Langs) -> Mask:
    """Whether sentences of each row's language usually end in a mark; true where the language is not known."""
    return _by_language(langs, lambda language: language.script not in NO_SENTENCE_END)


def _by_language(langs: Langs, holds: Callable[[Language], bool]) -> Mask:
    rows = langs.tolist()
    known = {lang: _of(lang, holds) for lang in set(rows)}
    return np.array([known[lang] for lang in rows], np.bool_)


def _of(lang: str, holds: Callable[[Language], bool]) -> bool:
    try:
        return holds(lookup(lang))
    except ConfigError:
        return True
