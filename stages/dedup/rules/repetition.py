"""repetition: repeated lines and 2-grams, and text that is not letters (Gopher, Rae et al. 2021, table A1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import ten_thousandths

MIN_WORDS_FOR_2GRAMS = 20


def reason(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """`duplicate_lines`, `repeated_2gram`, `not_letters`, `symbols`, or None."""
    if row["duplicate_line_share"] > ten_thousandths(settings["max_duplicate_line_share"]):
        return "duplicate_lines"
    if row["duplicate_line_characters_share"] > ten_thousandths(settings["max_duplicate_line_characters_share"]):
        return "duplicate_lines"
    if row["words"] >= MIN_WORDS_FOR_2GRAMS and row["top_2gram_share"] > ten_thousandths(settings["max_top_2gram_share"]):
        return "repeated_2gram"
    if row["letters_share"] < ten_thousandths(settings["min_letters_share"]):
        return "not_letters"
    if row["symbol_word_ratio"] > ten_thousandths(settings["max_symbol_word_ratio"]):
        return "symbols"
    return None
