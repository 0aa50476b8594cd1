"""script: too few of a side's letters are in the script of its language; a language whose script is not known is not judged.

Unit: letters in the script, in 1/10,000 of a side's letters. Source: OpusFilter's character score (Aulamo et al. 2020). Direction: less is worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.text.languages import lookup
from stages.dedup.rules import Columns, Mask, ten_thousandths

READS = ("lang_a", "lang_b", "script_share_a", "script_share_b")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`wrong_script`."""
    least = ten_thousandths(settings["min_share"])
    found = np.zeros(len(columns["lang_a"]), np.bool_)
    for side in "ab":
        langs, share = columns[f"lang_{side}"].tolist(), columns[f"script_share_{side}"]
        bound = np.fromiter((least if _is_spaced(lang) else least // 2 for lang in langs), np.int64, len(langs))
        found |= (share >= 0) & (share < bound)
    return [("wrong_script", found)]


@cache
def _is_spaced(lang: str) -> bool:
    try:
        return lookup(lang).spaced
    except ConfigError:
        return True
