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
from stages.dedup.rules import Columns, Mask, ten_thousandths

READS = ("characters", "identified", "identified_score")


def reasons(columns: Columns, settings: Mapping[str, Any]) -> list[tuple[str, Mask]]:
    """`wrong_language`."""
    judged = (columns["characters"] >= settings["min_characters"]) & (columns["identified_score"] >= ten_thousandths(settings["min_score"]))
    wrong = np.zeros(len(judged), np.bool_)
    for row in np.flatnonzero(judged):
        declared, found = columns["lang"][row], columns["identified"][row]
        wrong[row] = declared in supported() and found != "und" and not agrees(declared, found)
    return [("wrong_language", wrong)]
