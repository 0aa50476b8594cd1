"""Which number format to train in: "auto" becomes "bf16" or "fp32" by a measurement of a few milliseconds.

bfloat16 is about twice as fast as float32 on a CPU with AVX512-BF16 and slower on one without it, so nothing
can be assumed from the kind of machine: one square product is timed in both. On a GPU the format is taken
where the hardware has it. float16 is never taken unasked: it needs loss scaling (`loss_scale`), and is for GPUs without bfloat16. The answer is resolved once, at step 0, written to the checkpoint and kept on resume.
"""

from __future__ import annotations

import time

import torch

from pipeline.errors import ConfigError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")

_SIZE = 768  # a side of the product: XLM-R base's width, 0.9 GFLOP
_REPEATS = 5  # the best counts, so that a neighbour's burst does not decide
_MARGIN = 1.2  # below this gain the float32 arithmetic is worth more


def resolve_precision(requested: str, device: torch.device | None = None) -> str:
    """ "fp32", "bf16" or "fp16" for a request of "auto" or of one of them.

    Args:
        requested: an explicit format is passed through unless the device cannot do it.
        device: where training runs; default: the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: the request is not one of the four, or the GPU has no bfloat16.
    """
    if requested not in PRECISIONS:
        raise ConfigError(f"precision: {requested!r} is not known; allowed: {', '.join(PRECISIONS)}")
    if requested in ("fp32", "fp16"):
        return requested
    kind = device.type if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        if requested == "bf16":
            raise ConfigError("precision: bf16 is asked for and this GPU does not have it; set precision to fp16, fp32 or auto")
        return "fp32"
    if requested == "bf16":
        return "bf16"
    return "bf16" if bf16_gain() > _MARGIN else "fp32"


def bf16_gain(size: int = _SIZE, repeats: int = _REPEATS) -> float:
    """How many times faster a size × size × size product is in bfloat16 than in float32 on this CPU, as threads are set now."""
    return time_matmul(torch.float32, size, repeats) / time_matmul(torch.bfloat16, size, repeats)


def time_matmul(dtype: torch.dtype, size: int, repeats: int) -> float:
    """Seconds of the fastest of `repeats` products of two size × size matrices on the CPU, after one to warm up."""
    left = torch.full((size, size), 0.5, dtype=dtype)
    right = torch.full((size, size), 0.25, dtype=dtype)
    best = float("inf")
    for attempt in range(repeats + 1):
        started = time.perf_counter()
        torch.mm(left, right)
        elapsed = time.perf_counter() - started
        if attempt:
            best = min(best, elapsed)
    return best
