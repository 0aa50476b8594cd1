"""Dropout whose masks are a function of (seed, step, row): nothing to save, and the same for any number of ranks and any cut of the batch.

    key of a row (seed, sample index) x site in the model -> 64-bit key -> 32 bits for each pair of places -> 16 bits a place -> kept or not

The library draws from a generator with state, one number after the other: the masks of a row then depend on the rows before it, and on a CPU the
drawing takes longer than the layer. Here a place's bits are a hash (two rounds of Wellons' `lowbias32`, 32-bit integers only), computed for whole rows
by a compiled loop on the CPU and by tensor arithmetic elsewhere, to the same bits.

The probability is kept in 1/65,536. Shapes: B rows, N places of a row.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

UNIT = 1 << 16

_M1, _M2, _GOLDEN = 0x7FEB352D, 0x846CA68B, 0x9E3779B1
_LOW = 0xFFFFFFFF


class RowDropout:
    """The masks of one forward pass; a new site is asked for each time a layer drops, in a fixed order."""

    def __init__(self, keys_B: torch.Tensor | None, probability: float) -> None:
        """keys_B: int64 on the CPU, 64 random bits a row (`row_keys`); none, or probability 0, drops nothing."""
        self.threshold = round(probability * UNIT)
        self.keys_B = None if keys_B is None or not self.threshold else keys_B.cpu().numpy().astype(np.uint64)
        self.sites = 0

    @property
    def drops(self) -> bool:
        """Whether anything is dropped."""
        return self.keys_B is not None

    @property
    def scale(self) -> float:
        """By what the kept are multiplied, so that the mean stays."""
        return UNIT / (UNIT - self.threshold) if self.drops else 1.0

    def site(self) -> int:
        """A number for the next place in the model."""
        self.sites += 1
        return self.sites

    def keep(self, site: int, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """1 where a value of `shape` (rows first) stays and 0 where it goes, in `dtype`."""
        assert self.keys_B is not None
        keys_B = _site_keys(self.keys_B, site)
        per_row = int(np.prod(shape[1:]))
        if device.type != "cpu":
            return keep_on_device(keys_B, per_row, self.threshold, device).view(shape).to(dtype)
        if dtype == torch.bfloat16:
            kept_bf16 = np.empty((len(keys_B), per_row), np.int16)
            _fill(keys_B, self.threshold, kept_bf16, np.int16(0x3F80))
            return torch.from_numpy(kept_bf16).view(torch.bfloat16).view(shape)
        kept = np.empty((len(keys_B), per_row), np.float32)
        _fill(keys_B, self.threshold, kept, np.float32(1))
        return torch.from_numpy(kept).view(shape).to(dtype)


def _site_keys(keys_B: npt.NDArray[np.uint64], site: int) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser of key and site."""
    with np.errstate(over="ignore"):
        word = keys_B + np.uint64((0x9E3779B97F4A7C15 * site) & ((1 << 64) - 1))
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _fill(keys_B: npt.NDArray[np.uint64], threshold: int, kept: Any, one: Any) -> None:
    """Rows shared out over as many threads as torch uses."""
    threads = min(torch.get_num_threads(), len(keys_B))
    if threads == 1:
        _fill_rows(keys_B, threshold, kept, one, 0, len(keys_B))
        return
    edges = [len(keys_B) * number // threads for number in range(threads + 1)]
    jobs = [_pool(threads).submit(_fill_rows, keys_B, threshold, kept, one, start, stop) for start, stop in itertools.pairwise(edges)]
    for job in jobs:
        job.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dropout")


@njit(cache=True, nogil=True)
def _fill_rows(keys_B: Any, threshold: int, kept: Any, one: Any, start: int, stop: int) -> None:
    length = kept.shape[1]
    zero = one - one
    for row in range(start, stop):
        low, high = np.uint32(keys_B[row] & np.uint64(0xFFFFFFFF)), np.uint32(keys_B[row] >> np.uint64(32))
        bound = np.uint32(threshold)
        for pair in range((length + 1) // 2):
            # Arithmetic on 32-bit integers gives 64-bit ones here; each step is cut back.
            word = np.uint32(np.uint32(pair) * np.uint32(0x9E3779B1)) ^ low
            word = np.uint32(np.uint32(word ^ (word >> np.uint32(16))) * np.uint32(0x7FEB352D))
            word = np.uint32(np.uint32(word ^ (word >> np.uint32(15))) * np.uint32(0x846CA68B) + high)
            word = np.uint32(np.uint32(word ^ (word >> np.uint32(16))) * np.uint32(0x7FEB352D))
            word = np.uint32(np.uint32(word ^ (word >> np.uint32(15))) * np.uint32(0x846CA68B))
            word = np.uint32(word ^ (word >> np.uint32(16)))
            kept[row, 2 * pair] = one if (word & np.uint32(0xFFFF)) >= bound else zero
            if 2 * pair + 1 < length:
                kept[row, 2 * pair + 1] = one if (word >> np.uint32(16)) >= bound else zero


def keep_on_device(keys_B: npt.NDArray[np.uint64], per_row: int, threshold: int, device: torch.device) -> torch.Tensor:
    """[B, per_row] bool, True where kept, by tensor arithmetic: the reference of the compiled loop, and what a GPU computes."""
    low_B1 = torch.from_numpy((keys_B & np.uint64(_LOW)).astype(np.int64)).to(device).unsqueeze(1)
    high_B1 = torch.from_numpy((keys_B >> np.uint64(32)).astype(np.int64)).to(device).unsqueeze(1)
    pairs = torch.arange((per_row + 1) // 2, dtype=torch.int64, device=device)
    word = ((pairs * _GOLDEN) & _LOW) ^ low_B1
    word = ((word ^ (word >> 16)) * _M1) & _LOW
    word = ((word ^ (word >> 15)) * _M2 + high_B1) & _LOW
    word = ((word ^ (word >> 16)) * _M1) & _LOW
    word = ((word ^ (word >> 15)) * _M2) & _LOW
    word = word ^ (word >> 16)
    return (torch.stack((word & 0xFFFF, word >> 16), dim=2).flatten(1)[:, :per_row]) >= threshold
