"""c4: too few sentences, or program code.

Unit: counts of the document, see `C4Rule`. Source: C4 (Raffel et al. 2020, section 2.2). Direction: fewer sentences and more brackets are worse; in scripts whose sentences
usually end in no mark (Thai, Lao, Tibetan, …) sentences are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.rules import Bounds, Columns, Mask
from stages.dedup.scripts import has_sentence_ends

READS = ("sentences", "curly_brackets")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`c4_few_sentences`, `c4_curly_brackets`."""
    bounds = Bounds(columns["lang"], settings)
    return [
        ("c4_few_sentences", has_sentence_ends(columns["lang"]) & (columns["sentences"] < bounds.count("min_sentences"))),
        ("c4_curly_brackets", columns["curly_brackets"] > bounds.count("max_curly_brackets")),
    ]
