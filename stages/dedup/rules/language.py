"""language: the text is, with confidence, in another language than its label says.

Unit: confidence in 1/10,000. Source: FineWeb2 (Penedo et al. 2025) and cc_net (Wenzek et al. 2020), which keep what identification agrees with; here only what it confidently contradicts goes.
Direction: more confidence in another language is worse.

A language that no identification model knows cannot be checked and is never condemned; varieties that the models know under a wider name agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.text.identify import agrees, supported
from stages.dedup.rules import Bounds, Columns, Mask

READS = ("characters", "identified", "identified_score")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`wrong_language`, `uncertain_language`."""
    bounds = Bounds(columns["lang"], settings)
    long_enough = columns["characters"] >= bounds.count("min_characters")
    sure = columns["identified_score"] >= bounds.share("min_score")
    unsure = columns["identified_score"] < bounds.share("min_own_score")
    wrong, uncertain = np.zeros(len(sure), np.bool_), np.zeros(len(sure), np.bool_)
    for row in np.flatnonzero(long_enough & (sure | unsure)):
        declared, found = columns["lang"][row], columns["identified"][row]
        if declared in supported() and found != "und":
            is_own = agrees(declared, found)
            wrong[row], uncertain[row] = sure[row] and not is_own, unsure[row] and is_own
    return [("wrong_language", wrong), ("uncertain_language", uncertain)]
