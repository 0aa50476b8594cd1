"""Hashes that are the same on every machine: keys, partitions, n-grams and line fingerprints.

All are BLAKE2b (RFC 7693) cut to 64 or 128 bits. A key name separates uses, so that, say, the partition of a document says
nothing about whether it is held out. Integers are unsigned and big-endian, so their high bits are the first bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from pipeline.text.characters import LONG_WORD_SCRIPTS, MARKS, SHORT_WORD_SCRIPTS, UNSPACED

# A word is a run of letters, digits and their marks; one of an unspaced script stands for itself, with its marks.
_UNIT = re.compile(f"[{SHORT_WORD_SCRIPTS}]|[{LONG_WORD_SCRIPTS}][{MARKS}]*|(?:[^\\W_{UNSPACED}]|[{MARKS}\u200c\u200d])+")
_DIGIT = re.compile(r"\d")
_DROPPED_FROM_LINES = re.compile(f"[^\\w{MARKS} ]|_")


def hash64(data: bytes | str, key: str) -> int:
    """64 bits of the data's (a string's UTF-8) BLAKE2b under a key name of at most 64 bytes, 0 to 2^64 − 1."""
    return int.from_bytes(blake2b(_bytes(data), digest_size=8, key=key.encode()).digest(), "big")


def hash128(data: bytes | str, key: str) -> bytes:
    """16 bytes of the data's (a string's UTF-8) BLAKE2b under a key name of at most 64 bytes."""
    return blake2b(_bytes(data), digest_size=16, key=key.encode()).digest()


def _bytes(data: bytes | str) -> bytes:
    return data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data


def document_id(source_sha256: bytes, offset: int, ordinal: int) -> bytes:
    """16 bytes that name a document: BLAKE2b-128 of source sha256 ‖ decompressed offset ‖ ordinal, both as 8 bytes.

    Args:
        source_sha256: the 32-byte digest of the source file's bytes.
        offset: where the record begins, in decompressed bytes.
        ordinal: which document of that record it is, from 0.

    Raises:
        ValueError: the digest is not 32 bytes long.
    """
    if len(source_sha256) != 32:
        raise ValueError(f"source_sha256 has {len(source_sha256)} bytes; a sha256 digest has 32 (not its hexadecimal form)")
    return blake2b(source_sha256 + offset.to_bytes(8, "big") + ordinal.to_bytes(8, "big"), digest_size=16).digest()


def partition(hash64: int, partitions: int) -> int:
    """Which of `partitions` a 64-bit hash falls into, by its high bits: equal shares, in hash order."""
    return (hash64 * partitions) >> 64


def share_below(hash64: int, share_in_millionths: int) -> bool:
    """Whether a 64-bit hash falls into the first so many millionths of all hashes: none at 0, all at 1,000,000."""
    return hash64 * 1_000_000 < share_in_millionths << 64


def ngram_units(text: str) -> list[str]:
    """The units that n-grams are made of: lower-cased words without punctuation, marks kept; characters in unspaced scripts."""
    return [match.group() for match in _UNIT.finditer(text.lower())]


def _ngrams(text: str, n: int) -> Iterator[bytes]:
    units = [unit.encode("utf-8", "surrogatepass") for unit in ngram_units(text)]
    for start in range(len(units) - n + 1):
        yield b" ".join(units[start : start + n])


def word_ngram_hashes(text: str, n: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Distinct 64-bit hashes of all word n-grams, sorted: shape (distinct n-grams,), uint64; empty under n words.

    In scripts without spaces each character with its marks is a unit, so an n-gram there is n characters long. Two texts share a run of n
    words, case and punctuation aside, if and (but for 2^-64) only if their arrays share a value.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has at least 1 word")
    hashes = {int.from_bytes(blake2b(gram, digest_size=8, key=b"ngram").digest(), "big") for gram in _ngrams(text, n)}
    return np.array(sorted(hashes), dtype=np.uint64)


def line_fingerprint(line: str) -> int:
    """64 bits that are equal for lines that differ only in case, in which digits they have, and in punctuation.

    As cc_net's paragraph key (Wenzek et al. 2020), but combining marks stay, without which many Indic and Thai lines
    would be one. A line of nothing but punctuation has the fingerprint of the empty line.
    """
    kept = _DROPPED_FROM_LINES.sub("", _DIGIT.sub("0", line.lower()))
    return hash64(" ".join(kept.split()), key="line")
