"""script: too few of a document's letters are of the script of its language.

Unit: letters, in 1/10,000 of all letters; -1 where the script is not known, which is not condemned. Source: OpusFilter's character score (Aulamo et al. 2020; .75 there, for
pairs). Direction: less is worse. A bare code of a language that the table knows in several scripts (`sr`, `uz`, `kk`) is not judged, since corpora write it for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from pipeline.text.languages import known
from stages.dedup.rules import Bounds, Columns, Mask

READS = ("characters", "script_share")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`wrong_script`."""
    share = columns["script_share"]
    bounds = Bounds(columns["lang"], settings)
    few = (share >= 0) & (share < bounds.share("min_script_share")) & (columns["characters"] >= bounds.count("min_characters"))
    ambiguous = np.fromiter((lang in _in_several_scripts() for lang in columns["lang"].tolist()), np.bool_, len(few))
    return [("wrong_script", few & ~ambiguous)]


@cache
def _in_several_scripts() -> frozenset[str]:
    """Bare codes of languages that stand in the table in more than one script."""
    scripts = Counter(language.code.partition("-")[0] for language in known())
    return frozenset(code for code, count in scripts.items() if count > 1)
