"""Random numbers without state: each is a pure function of a key and of counters.

    seed, words ──derive──▶ key (64 bits) ──bits(key, stream, counters…)──▶ one uint64 a counter
                                          └─permute(index, size, key)────▶ a shuffled index

A generator with state must be saved, restored and advanced; here the random number of sample 1,234,567 is asked for
directly, so resuming, another world size and another micro-batch give the same numbers for free.

The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014,
with the constants of Stafford's variant 13). It is a bijection of 64-bit words, so within one (key, stream) distinct last
counters never collide. Not for cryptography.

Only unsigned integers take part: the same bits on every machine. `kernels` has the same in compiled loops.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from pipeline.training import kernels

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: spreads small integers over all 64 bits
_COUNTER_FACTOR = 0xD1342543DE82EF95  # odd, so a bijection: sets counters apart from keys
_MASK = (1 << 64) - 1
MAX_SIZE = 1 << 62


def derive(seed: int, *words: str | int) -> int:
    """A 64-bit key for one purpose, named by words: `derive(seed, "rows", "sw")`.

    blake2b over the seed and the words, each with its type and length, so that ("ab", "c") and ("a", "bc"), or 1 and
    "1", give different keys.
    """
    digest = hashlib.blake2b(digest_size=8)
    for word in (seed, *words):
        kind, payload = (b"s", word.encode("utf-8")) if isinstance(word, str) else (b"i", str(int(word)).encode("ascii"))
        digest.update(kind + len(payload).to_bytes(8, "little") + payload)
    return int.from_bytes(digest.digest(), "little")


def bits(key: int | U64, stream: int, *counters: int | npt.NDArray[np.integer]) -> U64:
    """64 random bits for each tuple of counters; arrays broadcast together.

    key: 64-bit key, or an array of them. stream: small number that separates the uses of one key.
    counters: non-negative integers, for example a sample index [B, 1] and a position [1, T], which give [B, T].
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant; numpy warns of it for single numbers
        state = _mix(_u64(key) + np.uint64((_GOLDEN * (stream + 1)) & _MASK))
        for counter in counters:
            # The counter is mixed by itself first, so that neither keys nor counters in arithmetic progression overlap; and
            # otherwise than the key, since the sum would not know which was which: (key 1, counter 2) as (key 2, counter 1).
            state = _mix(state + _mix(_u64(counter) * np.uint64(_COUNTER_FACTOR) + np.uint64(_GOLDEN)))
    return state


def permute(index: npt.NDArray[np.integer], size: int | npt.NDArray[np.integer], key: int | U64) -> I64:
    """Where each index of [0, size) goes under the bijection chosen by the key: a shuffle in O(1) memory.

    A Feistel network over Z_a × Z_b with modular addition and a·b ≥ size (Black and Rogaway, "Ciphers with arbitrary
    finite domains", 2002); the few results past the end are sent through again until they lie inside. a and b are
    about √size, so at most one in √size is.

    index: any shape; size and key: one number, or arrays that broadcast to index. Returns int64 of index's shape.

    Raises:
        ValueError: a size outside 1..2^62, or an index outside [0, size).
    """
    value = np.asarray(index)
    sizes = np.asarray(size)
    if value.size == 0:
        return np.zeros(value.shape, dtype=np.int64)
    if int(sizes.min()) < 1 or int(sizes.max()) > MAX_SIZE:
        raise ValueError(f"permute: size is {int(sizes.min())}..{int(sizes.max())}; it must lie in 1..2^62")
    if int(value.min()) < 0 or bool((value >= sizes).any()):
        raise ValueError(f"permute: an index in {int(value.min())}..{int(value.max())} is outside [0, size)")
    shape = value.shape
    sizes_N, keys_N = (np.ascontiguousarray(np.broadcast_to(_u64(given), shape)).reshape(-1) for given in (sizes, key))
    return kernels.permute(_u64(value).reshape(-1), sizes_N, keys_N).reshape(shape)


def _mix(word: U64) -> U64:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _u64(value: int | npt.NDArray[np.integer]) -> U64:
    if isinstance(value, int):
        return np.asarray(value & _MASK, dtype=np.uint64)
    return np.asarray(value).astype(np.uint64)
