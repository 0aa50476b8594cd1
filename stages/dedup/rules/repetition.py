"""repetition: repeated lines, paragraphs and n-grams, and text that is not letters.

Unit: shares in 1/10,000 of the document's characters (of its lines or paragraphs where the name says so). Source: Gopher (Rae et al. 2021, table A1). Direction: more is worse, but for
letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Bounds, Columns, Mask

_LINES = ("duplicate_line_share", "duplicate_line_characters_share", "duplicate_paragraph_share", "duplicate_paragraph_characters_share")
_NGRAMS = (*(f"top_{n}gram_share" for n in range(2, 5)), *(f"duplicate_{n}gram_share" for n in range(5, 11)))
READS = (*_LINES, *_NGRAMS, "words", "letters_share", "symbol_word_ratio")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`duplicate_lines`, `duplicate_paragraphs`, `repeated_2gram` … `repeated_10gram`, `not_letters`, `symbols`."""
    bounds = Bounds(columns["lang"], settings)
    long_enough = columns["words"] >= bounds.count("min_words_for_ngrams")
    found = [(f"duplicate_{'lines' if 'line' in name else 'paragraphs'}", columns[name] > bounds.share(f"max_{name}")) for name in _LINES]
    for kind, by_length in (("top", bounds.shares("max_top_ngram_shares")), ("duplicate", bounds.shares("max_duplicate_ngram_shares"))):
        found += [(f"repeated_{n}gram", long_enough & (columns[f"{kind}_{n}gram_share"] > share)) for n, share in by_length]
    found.append(("not_letters", columns["letters_share"] < bounds.share("min_letters_share")))
    found.append(("symbols", columns["symbol_word_ratio"] > bounds.share("max_symbol_word_ratio")))
    return found
