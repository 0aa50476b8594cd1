"""Weights of languages in fixed point: n^(α−1), relative to the largest language, by integer arithmetic only.

The power is taken with `decimal` at 50 digits under its own context, which is correctly rounded and the same on every machine; a float's would not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal

BITS = 16
"""Bits after the point of a weight."""


def language_weights(characters: Mapping[str, int], alpha: float) -> dict[str, int]:
    """For each language with text, its count multiplier × 2^16, at least 1; 2^16 for the largest language.

    A language with n of the largest one's N characters gets (n / N)^(α−1), so that its weighted characters are ∝ n^α.
    """
    held = {lang: n for lang, n in sorted(characters.items()) if n > 0}
    if not held:
        return {}
    context = Context(prec=50, rounding=ROUND_HALF_EVEN)
    exponent = context.subtract(Decimal(repr(alpha)), Decimal(1))
    largest = Decimal(max(held.values()))
    weights = {}
    for lang, n in held.items():
        ratio = context.divide(Decimal(n), largest)
        weight = context.exp(context.multiply(exponent, context.ln(ratio)))
        weights[lang] = max(1, int(context.multiply(weight, Decimal(1 << BITS)).to_integral_value(ROUND_HALF_EVEN)))
    return weights


def weighted(count: int, weight: int) -> int:
    """A count times its weight, rounded half up; at least 1, so that no word is lost."""
    return max(1, (count * weight + (1 << (BITS - 1))) >> BITS)
