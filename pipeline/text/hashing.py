"""Hashes that are the same on every machine: keys, ids and partitions.

All are BLAKE2b (RFC 7693) cut to 64 or 128 bits. A key name separates uses, so that, say, the partition of a document says
nothing about whether it is held out. Integers are unsigned and big-endian, so their high bits are the first bytes.
"""

from __future__ import annotations

from hashlib import blake2b


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
