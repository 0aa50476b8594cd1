"""language: the text is, with confidence, in another language than its label says.

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
    """`wrong_language`."""
    bounds = Bounds(columns["lang"], settings)
    judged = (columns["characters"] >= bounds.count("min_characters")) & (columns["identified_score"] >= bounds.share("min_score"))
    wrong = np.zeros(len(judged), np.bool_)
    for row in np.flatnonzero(judged):
        declared, found = columns["lang"][row], columns["identified"][row]
        wrong[row] = declared in supported() and found != "und" and not agrees(declared, found)
    return [("wrong_language", wrong)]
