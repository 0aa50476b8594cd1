"""The held-out measures of the objectives beside MLM, each with the baseline that it has to beat.

    tlm       nats per masked token of the held-out pairs, their sides in the order stored       unigrams of the training pairs
    clm       nats per token of the held-out rows                                                 unigrams of the training rows
    nsp       nats of whether a segment goes on, one example a held-out row                        a guess
    contrast  nats of finding a translation among a group of held-out pairs                       a guess among the group

Sums by language, or pair of languages; `stages.pretrain.heldout` has the loops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from pipeline.model.language_embeddings import Langs
from pipeline.training.objectives import causal
from pipeline.training.packed_rows import PackedRows
from stages.pretrain.heldout import (
    contrast_baseline,
    held_out_contrast,
    held_out_loss,
    held_out_next,
    mean_over_languages,
    unigram_baselines,
)
from stages.pretrain.parts import names_of, parts_of

if TYPE_CHECKING:
    from stages.pretrain import Config

Sums = dict[str, tuple[float, int]]


def measure(
    module: nn.Module, config: Config, held: Mapping[str, PackedRows], held_pairs: Mapping[str, PackedRows], vocab_size: int, rank: int, world_size: int,
    langs: Langs | None = None,
) -> dict[str, Sums]:  # fmt: skip
    """Objective -> language -> (sum of nats, number) for those of the run that are not `mlm` and have held-out text; collective.

    `contrast` is measured on what the last phase that has it trains. langs: rows of the language embeddings, where the model has them.
    """
    found: dict[str, Sums] = {}
    within = config.attention == "documents"
    for name in names_of(config):
        if name == "clm" and held:
            found[name] = held_out_loss(
                module, held, vocab_size, rank, world_size, within_documents=within, objective=causal.objective(), langs=langs
            )
        elif name == "tlm" and held_pairs:
            found[name] = held_out_loss(
                module, held_pairs, vocab_size, rank, world_size, restart=True, within_documents=within, langs=langs
            )
        elif name == "nsp" and held:
            found[name] = held_out_next(module, held, rank, world_size, langs)
        elif name == "contrast" and held_pairs:
            found[name] = held_out_contrast(
                module,
                held_pairs,
                vocab_size,
                rank,
                world_size,
                temperature=config.contrast_temperature,
                on_embeddings=[part.on_embeddings for part in parts_of(config) if name in part.objectives][-1],
                langs=langs,
            )
    return found


def baselines(
    config: Config,
    train: Mapping[str, PackedRows],
    held: Mapping[str, PackedRows],
    pairs: Mapping[str, PackedRows],
    held_pairs: Mapping[str, PackedRows],
    vocab_size: int,
) -> dict[str, dict[str, float]]:
    """Objective -> language -> mean nats of its baseline, for what `measure` measures; unigrams are each language's own."""
    found: dict[str, dict[str, float]] = {}
    for name in names_of(config):
        if name == "clm" and held:
            found[name] = unigram_baselines(train, held, vocab_size, objective=causal.objective())["language_unigram"]
        elif name == "tlm" and held_pairs:
            found[name] = unigram_baselines(pairs, held_pairs, vocab_size, restart=True)["language_unigram"]
        elif name == "nsp" and held:
            found[name] = dict.fromkeys(held, math.log(2))
        elif name == "contrast" and held_pairs:
            found[name] = contrast_baseline(held_pairs, vocab_size)
    return found


def means(sums: Mapping[str, Mapping[str, tuple[float, int]]]) -> dict[str, dict[str, float]]:
    """Objective -> language -> mean nats, of languages with something to predict."""
    return {name: {lang: nats / count for lang, (nats, count) in sorted(own.items()) if count} for name, own in sums.items()}


def summary(losses: Mapping[str, Mapping[str, float]], against: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`tlm/loss`, `tlm/baseline` and so on: means in which each language weighs the same."""
    found = {}
    for name, by_lang in sorted(losses.items()):
        if by_lang:
            found[f"{name}/loss"] = mean_over_languages(by_lang)
            found[f"{name}/baseline"] = mean_over_languages({lang: against[name][lang] for lang in by_lang})
    return found
