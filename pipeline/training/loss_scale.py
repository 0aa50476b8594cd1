"""Loss scaling for float16, whose smallest number is 6e-8 (Micikevicius et al. 2018, Mixed Precision Training, section 3.2).

    loss × scale -> backward in float16 -> gradient / scale in float32 -> finite: the update is made
                                                                       -> not:    half the scale, and the same step is made again

Departure: a step whose gradient overflows is made again with the same batch and dropout, where others skip it, so no text is left out and the
schedule and Adam's count of updates stay those of the step. The scale is a power of 2, so it changes no digit of a gradient that float16 can hold.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 2.0**16
MOST = 2.0**24
LEAST = 1.0
WINDOW = 1000
"""Steps without an overflow after which the scale is doubled."""


@dataclass
class LossScale:
    """The factor, the same on every rank: it follows from the summed gradients alone."""

    value: float = FIRST
    """A power of 2."""
    clean: int = 0
    """Steps since it last changed."""

    def made(self) -> None:
        """An update was made."""
        self.clean += 1
        if self.clean >= WINDOW:
            self.value, self.clean = min(2 * self.value, MOST), 0

    def lowered(self) -> bool:
        """The gradient overflowed: half the factor; False where it is at its least, so that the gradient itself is at fault."""
        if self.value <= LEAST:
            return False
        self.value, self.clean = self.value / 2, 0
        return True
