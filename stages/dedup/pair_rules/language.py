"""language: a side is, with confidence, in the other side's language (it was not translated) or in a third one.

Unit: confidence in 1/10,000, and characters of a side. Source: OpusFilter's language filter (Aulamo et al. 2020), turned round: only what identification confidently
contradicts goes. Direction: more confidence in another language is worse.

A language that no identification model knows cannot be checked and is never condemned, nor is one taken for a near relative (`_CLOSE`), whose sentences models confuse:
on NTREX-128 they took 5.7% of Malay for Indonesian, 59% of Northern Sotho for Tswana, 1.7% of Bokmål for Danish (sides of at least 120 characters).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from pipeline.text.identify import agrees, supported
from stages.dedup.rules import Columns, Mask, ten_thousandths

READS = (
    "lang_a", "lang_b", "characters_a", "characters_b", "identified_a", "identified_b", "identified_score_a", "identified_score_b",
)  # fmt: skip
_CLOSE = (
    frozenset({"id", "ms"}),
    frozenset({"da", "nb", "nn"}),
    frozenset({"nso", "tn", "st"}),
    frozenset({"ss", "zu", "xh", "nd", "nr"}),
    frozenset({"bg", "mk"}),
    frozenset({"gl", "pt"}),
    frozenset({"cs", "sk"}),
)


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`untranslated`, `wrong_language`."""
    rows = len(columns["lang_a"])
    untranslated, wrong = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    least = min(settings["min_characters"], settings["min_characters_untranslated"])
    for side, other in ("ab", "ba"):
        characters = columns[f"characters_{side}"]
        judged = (characters >= least) & (columns[f"identified_score_{side}"] >= ten_thousandths(settings["min_score"]))
        langs, others, found = columns[f"lang_{side}"], columns[f"lang_{other}"], columns[f"identified_{side}"]
        for row in np.flatnonzero(judged):
            if not _differs(langs[row], found[row]):
                continue
            if agrees(others[row], found[row]):
                untranslated[row] |= characters[row] >= settings["min_characters_untranslated"]
            else:
                wrong[row] |= characters[row] >= settings["min_characters"]
    return [("untranslated", untranslated), ("wrong_language", wrong)]


@cache
def _differs(declared: str, found: str) -> bool:
    """Whether a text found to be in `found` cannot be in the language that it is declared to be in."""
    if found == "und" or declared not in supported() or agrees(declared, found):
        return False
    return not any(declared in close and found in close for close in _CLOSE)
