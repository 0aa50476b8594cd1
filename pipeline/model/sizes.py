"""Named encoder sizes and their parameter counts; imports nothing heavy, so a plan may read it.

A size is the shape of the encoder only. How many ids there are comes from the vocabulary and how many
positions from the packing; the figures kept here are those of the published models, so that a size can be
counted and compared without either. Shapes: XLM-R paper (arXiv 1911.02116), table 7.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError

POSITION_OFFSET = 2
"""The first token of a row has position 2: padding id + 1, as in fairseq's RoBERTa."""


@dataclass(frozen=True)
class ModelSize:
    """The shape of one encoder; `vocab_size` is None where nothing was published under that name."""

    layers: int
    """Transformer layers."""
    hidden: int
    """Width of a token's vector."""
    heads: int
    """Attention heads; divides `hidden`."""
    intermediate: int
    """Width inside the feed-forward block."""
    max_positions: int
    """Rows of the position table: the longest row in tokens + 2."""
    vocab_size: int | None
    """Ids of the published model, everything counted."""


SIZES: dict[str, ModelSize] = {
    "tiny": ModelSize(2, 64, 2, 256, 514, None),  # tests
    "mini": ModelSize(4, 256, 4, 1024, 514, None),  # minutes on two cores
    "small": ModelSize(6, 512, 8, 2048, 514, None),
    "xlm-15": ModelSize(12, 1024, 8, 4096, 514, 95_000),
    "xlm-100": ModelSize(16, 1280, 16, 5120, 514, 200_000),
    "xlm-r-base": ModelSize(12, 768, 12, 3072, 514, 250_002),
    "xlm-r-large": ModelSize(24, 1024, 16, 4096, 514, 250_002),
}


def named_size(name: str) -> ModelSize:
    """The size called `name`.

    Raises:
        ConfigError: no such size; the message lists those there are.
    """
    if name not in SIZES:
        raise ConfigError(f"model: {name!r} is not a known size; allowed: {', '.join(SIZES)}")
    return SIZES[name]


ARCHITECTURES = ("xlm-r", "xlm", "modernbert", "eurobert")
"""Kinds of encoder that can be trained, by the names of the settings."""

GATED = frozenset({"modernbert", "eurobert"})
"""Those whose feed-forward block has a gate, so three products instead of two."""


def count_parameters(
    size: ModelSize, vocab_size: int | None = None, max_positions: int | None = None, architecture: str = "xlm-r"
) -> int:  # fmt: skip
    """Trainable parameters of the masked language model of this size, tied embeddings counted once.

    Args:
        size: the shape.
        vocab_size: ids, everything counted; default: the published model's.
        max_positions: rows of XLM-R's position table, two more than tokens of the longest row; default: the size's own.
        architecture: one of `ARCHITECTURES`.

    Raises:
        ConfigError: neither the size nor the caller says how many ids there are.
    """
    ids = size.vocab_size if vocab_size is None else vocab_size
    if ids is None:
        raise ConfigError("model: this size has no published vocabulary; say how many ids there are (vocabulary.size)")
    positions = size.max_positions if max_positions is None else max_positions
    hidden, inner = size.hidden, size.intermediate
    norm = 2 * hidden
    products = 4 * hidden * hidden + (3 if architecture in GATED else 2) * hidden * inner
    if architecture == "modernbert":  # no biases but the output's; the first layer has one norm, and the head a product
        return ids * hidden + size.layers * (products + norm) + hidden + hidden * hidden + hidden + ids
    if architecture == "eurobert":
        return ids * hidden + size.layers * (products + norm) + hidden
    if architecture == "xlm":
        rows = ids + positions - POSITION_OFFSET
        return rows * hidden + norm + size.layers * (products + 5 * hidden + inner + 2 * norm) + ids
    embeddings = (ids + positions + 1) * hidden + norm  # one row of token types
    attention = 4 * (hidden * hidden + hidden) + norm
    feed_forward = 2 * hidden * inner + inner + hidden + norm
    head = hidden * hidden + hidden + norm + ids
    return embeddings + size.layers * (attention + feed_forward) + head
