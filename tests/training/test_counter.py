"""The counter generator: pure, well mixed, and a true shuffle at every size."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.counter import MAX_SIZE, bits, derive, permute

GOLDEN_KEY = 0xFA5A18C81AED6232
GOLDEN_BITS = [0x8D8F865316461D36, 0x2A2CDA7088B2554C, 0x14E0B97D78974386]
GOLDEN_PERMUTATION = [9, 1, 0, 6, 7, 8, 5, 3, 2, 4]

ROOT = Path(__file__).resolve().parents[2]


def test_the_numbers_are_those_of_every_earlier_run() -> None:
    # Golden: a change here changes every mask and every order of every resumed training.
    assert derive(7, "rows", "sw") == GOLDEN_KEY
    assert [int(word) for word in bits(1, 2, np.arange(3))] == GOLDEN_BITS
    assert permute(np.arange(10), 10, 3).tolist() == GOLDEN_PERMUTATION


def test_keys_tell_apart_words_numbers_and_where_a_word_ends() -> None:
    keys = [
        derive(1, "ab", "c"),
        derive(1, "a", "bc"),
        derive(1, "abc"),
        derive(1, 1),
        derive(1, "1"),
        derive(2, "abc"),
        derive(1),
        derive(-1),
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 1 << 64 for key in keys)


def test_keys_do_not_depend_on_the_hash_seed() -> None:
    code = "from pipeline.training.counter import derive, bits; print(derive(5, 'x', 3), int(bits(derive(5), 1, 9)))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(answers) == 1


def test_counters_broadcast_and_each_number_stands_alone() -> None:
    rows, places = np.array([5, 2**40, 7]), np.arange(4)
    together = bits(99, 1, rows[:, None], places)
    assert together.shape == (3, 4)
    assert together.dtype == np.uint64
    assert [[int(bits(99, 1, int(row), int(place))) for place in places] for row in rows] == together.tolist()


def test_keys_as_an_array_give_what_each_key_gives() -> None:
    keys = np.array([3, 2**63 + 11], dtype=np.uint64)
    assert bits(keys, 4, 8).tolist() == [int(bits(int(key), 4, 8)) for key in keys]


def test_keys_streams_and_the_order_of_counters_matter() -> None:
    counters = np.arange(1000)
    words = [bits(1, 0, counters), bits(2, 0, counters), bits(1, 1, counters), bits(1, 0, counters, 0), bits(1, 0, 0, counters)]
    assert len(np.unique(np.concatenate(words))) == sum(map(len, words)) - 1  # (0, 0) is in the last two


def test_key_stream_and_counter_do_not_stand_in_for_one_another() -> None:
    small = range(12)
    words = [int(bits(key, stream, counter)) for key in small for stream in small for counter in small]
    assert len(set(words)) == len(words)


def test_every_bit_is_set_half_the_time_and_flips_with_every_bit_of_the_counter() -> None:
    counters = np.arange(20_000, dtype=np.uint64)
    words = bits(42, 0, counters)

    def shares(numbers: np.ndarray) -> np.ndarray:
        return np.array([((numbers >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)])

    tolerance = 5 * 0.5 / math.sqrt(len(counters))
    assert np.abs(shares(words) - 0.5).max() < tolerance
    for bit in range(0, 64, 7):
        assert np.abs(shares(words ^ bits(42, 0, counters ^ np.uint64(1 << bit))) - 0.5).max() < tolerance


@given(size=st.integers(1, MAX_SIZE), key=st.integers(0, 2**64 - 1), data=st.data())
@settings(max_examples=150, deadline=None)
def test_permute_is_the_network_written_out(size: int, key: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    left_size = math.isqrt(size - 1) + 1
    right_size = -(-size // left_size)
    value = size
    first = True
    while first or value >= size:
        left, right = divmod(index if first else value, right_size)
        first = False
        for number in range(0, 16, 2):
            left = (left + int(bits(key, number, right)) % left_size) % left_size
            right = (right + int(bits(key, number + 1, left)) % right_size) % right_size
        value = left * right_size + right
    assert permute(np.array([index]), size, key).tolist() == [value]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 63, 64, 65, 255, 256, 257, 1000, 4095, 65_535, 65_536, 65_537])
def test_permute_hits_every_index_once(size: int) -> None:
    for key in (0, 1, 2**64 - 1):
        assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@given(size=st.integers(1, 300), key=st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_permute_is_a_bijection_for_any_size_and_key(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_permute_of_several_sizes_and_keys_is_that_of_each() -> None:
    sizes, keys = np.array([1, 5, 1000, 2**40]), np.array([9, 8, 7, 6], dtype=np.uint64)
    index = np.array([0, 4, 999, 2**39])
    expected = [int(permute(np.array([i]), int(n), int(k))[0]) for i, n, k in zip(index, sizes, keys, strict=True)]
    assert permute(index, sizes, keys).tolist() == expected
    assert permute(index[None, :], sizes, keys).shape == (1, 4)


def test_permute_works_at_the_largest_size() -> None:
    moved = permute(np.array([0, 1, MAX_SIZE - 1]), MAX_SIZE, 5)
    assert len(set(moved.tolist())) == 3
    assert moved.min() >= 0
    assert moved.max() < MAX_SIZE


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_over_many_keys_every_permutation_is_equally_frequent(size: int) -> None:
    keys = bits(7, 0, np.arange(24_000))
    moved = permute(np.broadcast_to(np.arange(size), (len(keys), size)), size, keys[:, None])
    _, counts = np.unique(moved, axis=0, return_counts=True)
    degrees = math.factorial(size) - 1
    assert len(counts) == degrees + 1
    expected = len(keys) / len(counts)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


def test_a_permutation_leaves_no_trace_of_the_order_before() -> None:
    size = 10_000
    moved = permute(np.arange(size), size, 12345)
    assert abs(np.corrcoef(np.arange(size), moved)[0, 1]) < 5 / math.sqrt(size)
    assert abs(np.corrcoef(moved[:-1], moved[1:])[0, 1]) < 5 / math.sqrt(size)
    assert (moved == np.arange(size)).sum() < 10  # about one fixed point is expected


@pytest.mark.parametrize(("index", "size"), [([3], 3), ([-1], 3), ([0], 0), ([0], MAX_SIZE + 1)])
def test_indices_and_sizes_out_of_range_are_refused(index: list[int], size: int) -> None:
    with pytest.raises(ValueError, match="permute"):
        permute(np.array(index), size, 1)


def test_an_empty_index_stays_empty() -> None:
    assert permute(np.zeros((0, 2), dtype=np.int64), 5, 1).shape == (0, 2)
