"""UniMax: as uniform over languages as epochs allow (Chung et al. 2023, arXiv 2304.09151, algorithm 1).

    budget of rows, languages from the smallest up: each gets an equal share of what is left, but no more than `max_epochs` times what it has

A small language is not repeated without end, as a low α would; what it cannot take goes to the others. In whole numbers, so that machines agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


def weights_unimax(sizes: Mapping[str, int], budget: int, max_epochs: float) -> dict[str, int]:
    """Weights ∝ the rows that each language gets of `budget` rows, in the order of the language codes.

    sizes: rows of each language, at least 1. max_epochs: most times that a language is gone through (the paper: 1, 5 or 10). Where all languages together cannot
    fill the budget, each has its most epochs and their proportions hold for the whole of it.

    Raises:
        ValueError: no language, a size or budget below 1, or max_epochs not above 0.
    """
    if not sizes or min(sizes.values()) < 1 or budget < 1:
        raise ValueError(
            f"weights_unimax: {len(sizes)} languages and a budget of {budget} rows; at least one of each is needed, and a row a language"
        )
    if not max_epochs > 0:
        raise ValueError(f"weights_unimax: max_epochs is {max_epochs}; it must be above 0")
    epochs = Fraction(str(max_epochs))
    left = Fraction(budget)
    shares: dict[str, Fraction] = {}
    for taken, language in enumerate(sorted(sizes, key=lambda code: (sizes[code], code))):
        shares[language] = min(left / (len(sizes) - taken), sizes[language] * epochs)
        left -= shares[language]
    # A millionth of a row is fine enough: slots of a block are shared out from these.
    return {language: max(1, int(shares[language] * 1_000_000)) for language in sorted(shares)}
