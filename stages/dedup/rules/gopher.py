"""gopher: quality by counts of words and lines.

Unit: words of the document, and shares in 1/10,000 of its words or lines. Source: Gopher (Rae et al. 2021, appendix A.1.1). Direction: `min_` bounds drop what has less, `max_` bounds what has
more; see `GopherRule`.

The mean length of words says nothing where words are estimated, so in scripts without spaces it is not judged; stop words are judged where `clean` has a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.text.languages import lookup
from stages.dedup.rules import Bounds, Columns, Mask

READS = (
    "non_symbol_words", "mean_word_length", "symbol_word_ratio", "bullet_line_share", "ellipsis_line_share", "words_with_letters_share", "stop_words",
)  # fmt: skip


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`gopher_short`, `gopher_long`, `gopher_short_words`, `gopher_long_words`, `gopher_symbols`, `gopher_bullets`, `gopher_ellipses`, `gopher_few_letters`,
    `gopher_stop_words`."""
    bounds = Bounds(columns["lang"], settings)
    words, length = columns["non_symbol_words"], columns["mean_word_length"]
    codes = {lang: _is_spaced(lang) for lang in set(columns["lang"].tolist())}
    spaced = np.array([codes[lang] for lang in columns["lang"].tolist()], np.bool_)
    return [
        ("gopher_short", words < bounds.count("min_words")),
        ("gopher_long", words > bounds.count("max_words")),
        ("gopher_short_words", spaced & (length < bounds.share("min_mean_word_length"))),
        ("gopher_long_words", spaced & (length > bounds.share("max_mean_word_length"))),
        ("gopher_symbols", columns["symbol_word_ratio"] > bounds.share("max_symbol_word_ratio")),
        ("gopher_bullets", columns["bullet_line_share"] > bounds.share("max_bullet_line_share")),
        ("gopher_ellipses", columns["ellipsis_line_share"] > bounds.share("max_ellipsis_line_share")),
        ("gopher_few_letters", columns["words_with_letters_share"] < bounds.share("min_words_with_letters_share")),
        ("gopher_stop_words", (columns["stop_words"] >= 0) & (columns["stop_words"] < bounds.count("min_stop_words"))),
    ]


@cache
def _is_spaced(lang: str) -> bool:
    try:
        return lookup(lang).spaced
    except ConfigError:
        return True
