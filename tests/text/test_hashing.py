"""Stable hashes."""

import os
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.hashing import document_id, hash64, hash128, partition, share_below

U64 = st.integers(0, 2**64 - 1)


def test_hashes_are_blake2b_and_keys_and_kinds_of_input_matter_as_said() -> None:
    assert hash128(b"x", "k") == blake2b(b"x", digest_size=16, key=b"k").digest()
    assert hash64("é", "k") == hash64("é".encode(), "k") != hash64("é", "l")
    hash64("\ud800", "k")


def test_a_document_id_is_the_digest_of_source_offset_and_ordinal() -> None:
    source = bytes(range(32))
    assert document_id(source, 258, 1) == blake2b(source + bytes([0] * 6 + [1, 2]) + bytes([0] * 7 + [1]), digest_size=16).digest()
    assert len({document_id(source, offset, ordinal) for offset in range(20) for ordinal in range(20)}) == 400
    with pytest.raises(ValueError, match="32"):
        document_id(source.hex().encode(), 0, 0)


@settings(deadline=None)
@given(U64, st.integers(1, 5_000))
def test_a_partition_is_in_range_and_follows_hash_order(value: int, partitions: int) -> None:
    assert 0 <= partition(value, partitions) < partitions
    assert partition(0, partitions) == 0 and partition(2**64 - 1, partitions) == partitions - 1
    assert partition(value // 2, partitions) <= partition(value, partitions)


@settings(deadline=None)
@given(U64, st.integers(0, 1_000_000))
def test_a_share_grows_and_none_and_all_are_exact(value: int, share: int) -> None:
    assert not share_below(value, 0) and share_below(value, 1_000_000)
    assert share_below(value, share) <= share_below(value, min(1_000_000, share + 1))


def test_a_share_is_about_that_share() -> None:
    chosen = sum(share_below(hash64(str(number), "split"), 100_000) for number in range(20_000))
    assert abs(chosen - 2_000) < 200


def test_nothing_depends_on_the_hash_seed_or_locale() -> None:
    program = (
        "from pipeline.text.hashing import *; from pipeline.text.words import count_words; "
        "from pipeline.text.measures import measure; "
        "print(hash64('x','k'), measure('ÀB 1 i I', 'tr'), list(count_words(['b a 我们 b'])))"
    )
    root = Path(__file__).parents[2]
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, cwd=root, env={**os.environ, "PYTHONUTF8": "1", **extra}
        ).stdout
        for extra in ({"PYTHONHASHSEED": "1", "LC_ALL": "C"}, {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo"})
    }
    assert len(seen) == 1
