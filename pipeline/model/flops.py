"""Floating-point operations of training a masked language model: the useful ones, counted from its shape. Imports nothing heavy.

A product of m × k and k × n takes 2·m·k·n; a backward pass takes twice its forward pass; nothing computed a second time counts, nor padding. XLM-R's last layer goes on
after its attention, and the vocabulary is scored, at the places that are predicted only.
"""

from __future__ import annotations

from pipeline.model.sizes import GATED, ModelSize


def training_flops(
    size: ModelSize, vocab_size: int, *, tokens: float, squares: float, predicted: float | None, architecture: str = "xlm-r"
) -> float:  # fmt: skip
    """Operations of the forward and backward pass.

    Args:
        size: shape of the encoder.
        vocab_size: ids.
        tokens: real ones, padding not counted.
        squares: Σ length² over the texts that see themselves: rows, or documents where attention keeps to them.
        predicted: places with logits; None where all hidden states are asked for and no logits (contrast).
        architecture: one of `sizes.ARCHITECTURES`. Local attention counts as if it were whole.
    """
    width, block = size.hidden, (3 if architecture in GATED else 2) * size.hidden * size.intermediate
    attention = 4 * width * squares
    layer = 2 * (4 * width * width + block) * tokens + attention
    if predicted is None:
        return 3.0 * size.layers * layer
    last = layer if architecture != "xlm-r" else 2 * 3 * width * width * tokens + attention + 2 * (width * width + block) * predicted
    transform = width * width if architecture in ("xlm-r", "modernbert") else 0
    head = 2 * (transform + width * vocab_size) * predicted
    return 3.0 * ((size.layers - 1) * layer + last + head)
