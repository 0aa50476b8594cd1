"""What pretraining reads: the packed rows of all languages, mixed as the settings say, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.training.batches import Feed
from pipeline.training.counter import derive
from pipeline.training.mixture import DEFAULT_BLOCK, Mixture, slot_counts
from pipeline.training.objectives.masked import objective
from pipeline.training.packed_rows import PackedRows
from pipeline.training.phases import Phased, first_steps
from pipeline.training.unimax import weights_unimax

if TYPE_CHECKING:
    from stages.pretrain import Config


def feed_of(config: Config, rows: Mapping[str, PackedRows], vocab_size: int, seed: int) -> Phased:
    """The feed of a run; one phase where none are named.

    Raises:
        ConfigError: the phases or weights do not fit the steps or the languages.
    """
    phases = [(phase.share, phase.alpha, phase.mask_rate) for phase in config.phases] or [(1.0, None, None)]
    try:
        starts = first_steps([share for share, _, _ in phases], config.steps)
    except ValueError as error:
        raise ConfigError(f"pretrain.{error}") from None
    feeds = []
    for number, (_, alpha, rate) in enumerate(phases):
        # The first phase has the seeds of a run without phases.
        own = seed if number == 0 else derive(seed, "phase", number)
        stop = [*starts[1:], config.steps][number]
        mixture = _mixture(
            config, config.alpha if alpha is None else alpha, rows, (stop - starts[number]) * config.global_batch, derive(own, "mixture")
        )
        mlm = objective(round((config.mask_rate if rate is None else rate) * 1_000_000))
        feeds.append(Feed(rows, mixture, mlm, vocab_size, derive(own, "masks") >> 1, config.global_batch, trim=True))
    return Phased(tuple(feeds), tuple(starts))


def _mixture(config: Config, alpha: float, rows: Mapping[str, PackedRows], budget: int, seed: int) -> Mixture:
    sizes = {lang: len(own) for lang, own in rows.items()}
    if config.sampling == "alpha":
        return Mixture.by_alpha(sizes, alpha, seed)
    if config.sampling == "unimax":
        weights = weights_unimax(sizes, budget, config.max_epochs)
    else:
        missing = sorted(set(sizes) - set(config.language_weights))
        if missing:
            raise ConfigError(f"pretrain.language_weights: {', '.join(missing[:5])} has text but no weight; give every language one")
        weights = {lang: max(1, round(config.language_weights[lang] * 1_000_000)) for lang in sizes}
    return Mixture(rows=sizes, slots=slot_counts(weights, DEFAULT_BLOCK), seed=seed)


def planned_tokens(feed: Phased, steps: int) -> dict[str, int]:
    """Tokens of each language that the plan of `steps` steps holds, were every row of a language as long as its mean."""
    planned: dict[str, int] = {}
    for number, (part, start) in enumerate(zip(feed.feeds, feed.starts, strict=True)):
        samples = ([*feed.starts[1:], steps][number] - start) * part.global_batch
        for lang, own in part.rows.items():
            tokens = int(own.row_lengths().sum())
            planned[lang] = planned.get(lang, 0) + samples * part.mixture.slots[lang] * tokens // (part.mixture.block * len(own))
    return dict(sorted(planned.items()))
