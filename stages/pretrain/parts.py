"""The phases of a run with what they take from it filled in; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stages.pretrain import Config, MaskRates, TrainingPhase


@dataclass(frozen=True)
class Part:
    """A phase as it is trained."""

    share: float
    """Of all steps."""
    alpha: float
    """Exponent of the sampling over languages."""
    mask_rate: tuple[float, float]
    """Share of tokens that is predicted in the first step and in the last."""
    objectives: Mapping[str, float]
    """And their weights."""
    on_embeddings: bool
    """Whether `contrast` trains the word embeddings alone."""


def parts_of(config: Config) -> tuple[Part, ...]:
    """The phases; one where none are named."""
    return tuple(_part(config, phase) for phase in config.phases or (TrainingPhase(share=1.0),))


def _part(config: Config, phase: TrainingPhase) -> Part:
    rate = config.mask_rate if phase.mask_rate is None else phase.mask_rate
    return Part(
        phase.share,
        config.alpha if phase.alpha is None else phase.alpha,
        (rate.start, rate.end) if isinstance(rate, MaskRates) else (rate, rate),
        config.objectives if phase.objectives is None else phase.objectives,
        (phase.contrast_on or config.contrast_on) == "embeddings",
    )


def names_of(config: Config) -> tuple[str, ...]:
    """The objectives of all phases, sorted."""
    return tuple(sorted({name for part in parts_of(config) for name in part.objectives}))
