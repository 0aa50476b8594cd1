"""Which objectives a run has, over all its phases; loads no torch."""

from __future__ import annotations

from stages.pretrain import Config


def names_of(config: Config) -> tuple[str, ...]:
    """The objectives of all phases, sorted."""
    phases = [phase.objectives for phase in config.phases if phase.objectives is not None]
    inherits = not config.phases or len(phases) < len(config.phases)
    return tuple(sorted({name for weights in [*phases, *([config.objectives] if inherits else [])] for name in weights}))
