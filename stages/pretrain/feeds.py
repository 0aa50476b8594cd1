"""What pretraining reads: the packed rows of all languages, mixed as the settings say, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.model.language_embeddings import Langs, table_of
from pipeline.training.batches import Feed
from pipeline.training.counter import derive
from pipeline.training.mixing import Mixed, StepFeed
from pipeline.training.mixture import DEFAULT_BLOCK, Mixture, slot_counts, weights_alpha
from pipeline.training.objectives import ON_PAIRS, causal
from pipeline.training.objectives.choices import Choice
from pipeline.training.objectives.contrast import PairFeed, sides_of
from pipeline.training.objectives.masked import MaskedLanguageModel, Scheduled
from pipeline.training.objectives.next_sentence import NextFeed
from pipeline.training.packed_rows import PackedRows
from pipeline.training.phases import Phased, first_steps
from pipeline.training.unimax import weights_unimax
from stages.pretrain.parts import Part, parts_of

if TYPE_CHECKING:
    from stages.pretrain import Config


def feed_of(
    config: Config,
    rows: Mapping[str, PackedRows],
    vocab_size: int,
    seed: int,
    pairs: Mapping[str, PackedRows] | None = None,
    choice: Choice | None = None,
    langs: Langs | None = None,
) -> Phased:
    """The feed of a run; one phase where none are named. pairs: packed translation pairs, by pair of languages. choice: see `hidden.choice_of`.

    langs: rows of the language embeddings, where the model has them.

    Raises:
        ConfigError: the phases or weights do not fit the steps or the languages, or an objective on pairs finds none.
    """
    parts = parts_of(config)
    try:
        starts = first_steps([part.share for part in parts], config.steps)
    except ValueError as error:
        raise ConfigError(f"pretrain.{error}") from None
    feeds: list[StepFeed] = []
    names = []
    for number, part in enumerate(parts):
        # The first phase has the seeds of a run without phases.
        own = seed if number == 0 else derive(seed, "phase", number)
        steps = [*starts[1:], config.steps][number] - starts[number]
        block = block_of(steps, len(part.objectives))
        slots = slot_counts({name: max(1, round(weight * 1_000_000)) for name, weight in part.objectives.items()}, block)
        of_each = {
            name: _feed(config, part, name, rows, pairs or {}, vocab_size, own, -(-steps * share // block), choice, langs)
            for name, share in slots.items()
        }
        # One alone takes its steps in order, as a run without mixing does.
        feeds.append(Mixed(of_each, slots, derive(own, "objectives")) if len(of_each) > 1 else of_each[next(iter(of_each))])
        names.append(next(iter(of_each)))
    return Phased(tuple(feeds), tuple(starts), tuple(names))


def _feed(
    config: Config,
    part: Part,
    name: str,
    rows: Mapping[str, PackedRows],
    pairs: Mapping[str, PackedRows],
    vocab_size: int,
    seed: int,
    steps: int,
    choice: Choice | None,
    langs: Langs | None,
) -> StepFeed:
    """The feed of one objective in a phase in which it has so many steps."""
    budget = steps * config.global_batch
    if name in ON_PAIRS and not pairs:
        raise ConfigError(
            f"pretrain.objectives: {name} reads translation pairs, and there are none to train on; ingest bitext or leave it out"
        )
    within, hidden = config.attention == "documents", _hidden(part, steps, choice)
    langs_L2 = table_of(langs, sorted(pairs if name in ON_PAIRS else rows))
    if name == "mlm":
        mixture = _mixture(config, part.alpha, rows, budget, derive(seed, "mixture"))
        masks = derive(seed, "masks") >> 1
        return Feed(rows, mixture, hidden, vocab_size, masks, config.global_batch, trim=True, within_documents=within, langs_L2=langs_L2)
    own, masks = derive(seed, name, "mixture"), derive(seed, name, "masks") >> 1
    if name == "clm":
        mixture = _mixture(config, part.alpha, rows, budget, own)
        return Feed(
            rows, mixture, causal.objective(), vocab_size, masks, config.global_batch, trim=True, within_documents=within, langs_L2=langs_L2
        )
    if name == "nsp":
        return NextFeed(rows, _mixture(config, part.alpha, rows, budget, own), masks, config.global_batch, langs_L2)
    if name == "tlm":
        mixture = _pair_mixture(part.alpha, {lang: len(packed) for lang, packed in pairs.items()}, budget, own)
        return Feed(
            pairs, mixture, hidden, vocab_size, masks, config.global_batch, trim=True, within_documents=within, swap=True,
            first_language=len(rows), langs_L2=langs_L2,
        )  # fmt: skip
    sides = {lang: sides_of(packed) for lang, packed in pairs.items()}
    mixture = _pair_mixture(part.alpha, {lang: len(own_sides) // 2 for lang, own_sides in sides.items()}, budget, own)
    try:
        return PairFeed(
            sides, mixture, vocab_size, config.global_batch, config.contrast_temperature,
            part.on_embeddings, first_language=len(rows), langs_L2=langs_L2,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"pretrain.global_batch: {error}") from None


def _hidden(part: Part, steps: int, choice: Choice | None) -> MaskedLanguageModel | Scheduled:
    """What `mlm` and `tlm` predict in a phase in which they have so many steps."""
    start, end = (round(rate * 1_000_000) for rate in part.mask_rate)
    return MaskedLanguageModel(start, choice) if start == end else Scheduled(start, end, steps, choice)


def _pair_mixture(alpha: float, sizes: Mapping[str, int], budget: int, seed: int) -> Mixture:
    """Pairs of languages ∝ n^alpha; groups, caps and weights are of single languages."""
    return Mixture.by_alpha(sizes, alpha, seed, block=block_of(budget, len(sizes)))


def _mixture(config: Config, alpha: float, rows: Mapping[str, PackedRows], budget: int, seed: int) -> Mixture:
    """The plan of a phase of `budget` samples."""
    sizes = {lang: len(own) for lang, own in rows.items()}
    if config.sampling == "alpha" and not config.groups and alpha == 1:
        return Mixture.by_alpha(sizes, alpha, seed)  # whole epochs of the corpus
    if config.sampling == "alpha":
        weights = weights_alpha(sizes, alpha)
    elif config.sampling == "unimax":
        weights = weights_unimax(sizes, budget, config.max_epochs)
    else:
        missing = sorted(set(sizes) - set(config.language_weights))
        if missing:
            raise ConfigError(f"pretrain.language_weights: {', '.join(missing[:5])} has text but no weight; give every language one")
        weights = {lang: max(1, round(config.language_weights[lang] * 1_000_000)) for lang in sizes}
    return Mixture(rows=sizes, slots=slot_counts(_by_group(config, weights), block_of(budget, len(sizes))), seed=seed)


def block_of(budget: int, languages: int) -> int:
    """Slots of a block: equal blocks of at most `DEFAULT_BLOCK` that end with the phase, so that the shares are met over it and not only in the long run."""
    return max(languages, -(-budget // -(-budget // DEFAULT_BLOCK)))


def _by_group(config: Config, weights: Mapping[str, int]) -> dict[str, int]:
    """The weights with each group's scaled to its share; what is in no group shares the rest."""
    if not config.groups:
        return dict(weights)
    group_of = {lang: name for name, group in config.groups.items() for lang in group.languages}
    shares = {name: Fraction(str(group.share)) for name, group in config.groups.items()}
    shares[""] = max(Fraction(0), Fraction(1) - sum(shares.values(), Fraction(0)))
    sums: dict[str, int] = {}
    for lang, weight in weights.items():
        sums[group_of.get(lang, "")] = sums.get(group_of.get(lang, ""), 0) + weight
    if "" in sums and not shares[""]:
        left = sorted(lang for lang in weights if lang not in group_of)
        raise ConfigError(
            f"pretrain.groups: the shares sum to 1 and {', '.join(left[:5])} is in no group; lower a share or put it into one"
        )
    # A group without text leaves its share to the others in proportion; a millionth of a millionth is fine enough.
    return {
        lang: max(1, int(shares[group_of.get(lang, "")] * weight / sums[group_of.get(lang, "")] * 10**12))
        for lang, weight in weights.items()
    }


def planned_tokens(feed: Phased, steps: int) -> dict[str, int]:
    """Tokens of each language, or pair of languages, that the plan of `steps` steps holds, were every row of a language as long as its mean."""
    planned: dict[str, int] = {}
    for number, (part, start) in enumerate(zip(feed.feeds, feed.starts, strict=True)):
        here = [*feed.starts[1:], steps][number] - start
        shares = (
            [(own, Fraction(part.slots[name], sum(part.slots.values()))) for name, own in part.feeds.items()]
            if isinstance(part, Mixed)
            else [(part, Fraction(1))]
        )
        for own_feed, share in shares:
            assert isinstance(own_feed, (Feed, PairFeed, NextFeed))
            packed, rows_a_sample = (own_feed.sides, 2) if isinstance(own_feed, PairFeed) else (own_feed.rows, 1)
            samples = int(here * share * own_feed.global_batch)
            for lang, own in packed.items():
                tokens = int(own.row_lengths().sum()) * rows_a_sample
                mixture = own_feed.mixture
                planned[lang] = planned.get(lang, 0) + samples * mixture.slots[lang] * tokens // (mixture.block * len(own))
    return dict(sorted(planned.items()))
