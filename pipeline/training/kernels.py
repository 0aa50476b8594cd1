"""The batch reader's inner loops, compiled: draws, the plan of samples, rows gathered from mapped token ids, masks.

    sample numbers ──plan──▶ (language, row) ──measure──▶ lengths ──gather──▶ ids, segments, positions ──hide──▶ ids as the model sees them, predictions

They give what `counter.bits` and the definitions in `mixture`, `batches` and `objectives.masked` say, number for number; the tests write those out slowly and compare.
numpy goes over every token a dozen times and takes about 100 ns for it; these go once and take about 10.

All of them lie in one file since numba keeps compiled code by the file that it stands in, and would not see a change in another that it calls.

Token ids and indexes stay where they are mapped: a `Directory` (see `pipeline.training.packed_rows`) has their addresses, so that one call reads rows of a hundred
languages without copying an index. Every offset is checked against its array before it is followed.

Legend: N samples, L languages, K shards of all languages, B rows of a micro-batch, T places, M predictions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba import uint64 as numba_uint64
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray as numba_carray

from pipeline.text.packing import BOS, EOS, FIRST_POSITION, PAD

uint64: Any = numba_uint64
carray: Any = numba_carray

GOLDEN = 0x9E3779B97F4A7C15  # as in `counter`
COUNTER_FACTOR = 0xD1342543DE82EF95
ROUNDS = 16  # chi-square over all 120 permutations of 5 elements, 24,000 keys, 119 degrees of freedom: 8 rounds 669, 12 165, 16 128

NEVER = (1 << 64) - 1  # the hash of what may not be chosen

WORDS, SPANS, WEIGHTS = range(3)
"""How `hide_in_order` chooses."""

FRACTION, TABLE_BITS, PLACE_BITS = 32, 12, 20
"""Bits behind the point of a logarithm, of the index into its table, and of a place in a row."""

FINE, NO_ROW, NO_SPAN, TOO_LONG, NO_SHARD, OUTSIDE, STRUCTURE_ID, UNKNOWN_ID = range(8)
"""What `measure` and `gather` found: all well, or the first fault."""

OFFSETS, SHARDS, STARTS, LENGTHS = range(4)
"""Columns of a directory's addresses: row offsets (int32), and of spans the shard (uint32), start (uint64) and length (uint32)."""


def _as_pointer(context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), generate


_pointer: Any = intrinsic(_as_pointer)


@njit(cache=True, inline="always")
def _mix(word: Any) -> Any:
    word = uint64(word)
    word = (word ^ (word >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> uint64(27))) * uint64(0x94D049BB133111EB)
    return word ^ (word >> uint64(31))


@njit(cache=True, inline="always")
def _begin(key: Any, stream: int) -> Any:
    """The state before the first counter."""
    return _mix(uint64(key) + uint64(GOLDEN) * uint64(stream + 1))


@njit(cache=True, inline="always")
def _count(counter: Any) -> Any:
    """What a counter adds to the state."""
    return _mix(uint64(counter) * uint64(COUNTER_FACTOR) + uint64(GOLDEN))


@njit(cache=True)
def _permuted(index: Any, size: Any, key: Any) -> Any:
    """`counter.permute` of one index. The floating root is only a guess, integers decide."""
    value, size = uint64(index), uint64(size)
    left_size: Any = uint64(np.sqrt(np.float64(size)))
    if left_size * left_size > size:
        left_size -= uint64(1)
    if left_size * left_size < size:
        left_size += uint64(1)
    right_size = (size + left_size - uint64(1)) // left_size
    while True:
        left, right = value // right_size, value % right_size
        for number in range(0, ROUNDS, 2):
            left = (left + _mix(_begin(key, number) + _count(right)) % left_size) % left_size
            right = (right + _mix(_begin(key, number + 1) + _count(left)) % right_size) % right_size
        value = left * right_size + right
        if value < size:
            return value


@njit(cache=True)
def permute(index_N: Any, size_N: Any, key_N: Any) -> Any:
    """[N] int64: where each index of [0, size) goes."""
    moved = np.empty(len(index_N), np.int64)
    for n in range(len(index_N)):
        moved[n] = _permuted(index_N[n], size_N[n], key_N[n])
    return moved


@njit(cache=True)
def plan(start: int, stop: int, block: int, block_key: Any, slot_ends_L: Any, slots_L: Any, rows_L: Any, keys_L: Any) -> Any:
    """Language [N] int32, row [N] and epoch [N] of samples start … stop − 1; see `mixture`."""
    size = stop - start
    language_N, row_N, epoch_N = np.empty(size, np.int32), np.empty(size, np.int64), np.empty(size, np.int64)
    for n in range(size):
        number, place = (start + n) // block, (start + n) % block
        slot = np.int64(_permuted(place, block, _mix(_begin(block_key, 0) + _count(number))))
        language, beyond = 0, len(slot_ends_L) - 1
        while language < beyond:
            middle = (language + beyond) >> 1
            if slot_ends_L[middle] > slot:
                beyond = middle
            else:
                language = middle + 1
        use = number * slots_L[language] + slot - (slot_ends_L[language] - slots_L[language])
        epoch, position = use // rows_L[language], use % rows_L[language]
        language_N[n], epoch_N[n] = language, epoch
        row_N[n] = _permuted(position, rows_L[language], _mix(_begin(keys_L[language], 0) + _count(epoch)))
    return language_N, row_N, epoch_N


@njit(cache=True)
def measure(address_L4: Any, rows_L: Any, spans_L: Any, length: int, language_B: Any, row_B: Any) -> Any:
    """Fault, the row it is in; [B] tokens of each row with `<s>` and `</s>`, [B] how many of these two there are."""
    lengths_B, special_B = np.zeros(len(row_B), np.int64), np.zeros(len(row_B), np.int64)
    for b in range(len(row_B)):
        lang, row = language_B[b], row_B[b]
        if row < 0 or row >= rows_L[lang]:
            return NO_ROW, b, lengths_B, special_B
        offsets = carray(_pointer(address_L4[lang, OFFSETS]), (rows_L[lang] + 1,), np.int32)
        span_length = carray(_pointer(address_L4[lang, LENGTHS]), (spans_L[lang],), np.uint32)
        first, last = np.int64(offsets[row]), np.int64(offsets[row + 1])
        if first < 0 or last <= first or last > spans_L[lang]:
            return NO_SPAN, b, lengths_B, special_B
        tokens = np.int64(1)
        for span in range(first, last):
            tokens += np.int64(span_length[span]) + 1
        lengths_B[b], special_B[b] = tokens, last - first + 1
        if tokens > length:
            return TOO_LONG, b, lengths_B, special_B
    return FINE, 0, lengths_B, special_B


@njit(cache=True)
def gather(
    address_L4: Any,
    rows_L: Any,
    spans_L: Any,
    first_shard_L1: Any,
    shard_address_K: Any,
    shard_tokens_K: Any,
    kind: Any,
    language_B: Any,
    row_B: Any,
    spans_a_text_L: Any,
    restart: bool,
    vocab_size: int,
    ids_BT: Any,
    segments_BT: Any,
    positions_BT: Any,
) -> Any:
    """Fills ids, segments and positions of rows that `measure` found fine, padding included; gives fault, row, and what was found there.

    `kind` is an array of the ids' type. Shards of language l are first_shard_L1[l] … first_shard_L1[l + 1] − 1 of all.
    """
    for b in range(len(row_B)):
        lang, row = language_B[b], row_B[b]
        offsets = carray(_pointer(address_L4[lang, OFFSETS]), (rows_L[lang] + 1,), np.int32)
        span_shard = carray(_pointer(address_L4[lang, SHARDS]), (spans_L[lang],), np.uint32)
        span_start = carray(_pointer(address_L4[lang, STARTS]), (spans_L[lang],), np.uint64)
        span_length = carray(_pointer(address_L4[lang, LENGTHS]), (spans_L[lang],), np.uint32)
        first_shard = first_shard_L1[lang]
        num_shards = first_shard_L1[lang + 1] - first_shard
        ids, segments, positions = ids_BT[b], segments_BT[b], positions_BT[b]
        ids[0], segments[0], positions[0] = BOS, 0, FIRST_POSITION
        at, position, first = np.int64(1), np.int64(FIRST_POSITION + 1), np.int64(offsets[row])
        for span in range(first, np.int64(offsets[row + 1])):
            shard, start, size = np.int64(span_shard[span]), np.int64(span_start[span]), np.int64(span_length[span])
            if shard >= num_shards:
                return NO_SHARD, b, shard
            shard += first_shard
            if start < 0 or size < 1 or start > shard_tokens_K[shard] or size > shard_tokens_K[shard] - start:
                return OUTSIDE, b, span - first
            tokens = carray(_pointer(shard_address_K[shard] + start * kind.itemsize), (size,), kind.dtype)
            segment = (span - first) // spans_a_text_L[lang]
            if restart and span > first:
                position = np.int64(FIRST_POSITION)
            least, most = np.int64(tokens[0]), np.int64(tokens[0])
            # Views of the span's own places: an index from 0 needs no test for a negative one, so these loops become vector instructions.
            ids_N, segments_N, positions_N = ids[at : at + size], segments[at : at + size + 1], positions[at : at + size + 1]
            for n in range(size):
                token = np.int64(tokens[n])
                least, most = min(least, token), max(most, token)
                ids_N[n] = token
            for n in range(size + 1):
                segments_N[n] = segment
                positions_N[n] = position + n
            if least <= EOS:
                return STRUCTURE_ID, b, least
            if most >= vocab_size - 1:
                return UNKNOWN_ID, b, most
            at += size
            ids[at] = EOS
            at += 1
            position += size + 1
        ids[at:], segments[at:], positions[at:] = PAD, -1, PAD
    return FINE, 0, 0


@njit(cache=True, inline="always")
def _wanted(maskable: Any, rate_millionths: Any) -> Any:
    """Predictions of a row with so many ordinary tokens: `objectives.masked.masked_count`."""
    count: Any = (maskable * rate_millionths + 500_000) // 1_000_000
    if count < 1:
        count = np.int64(1)
    return count if count < maskable else maskable


@njit(cache=True, inline="always")
def _seen(
    token: Any, acted_by: Any, replaced_by: Any, counted: Any, tenths_masked: Any, tenths_changed: Any, vocab_size: Any
) -> Any:  # fmt: skip
    """What the model sees of a chosen token."""
    first_ordinary = np.int64(EOS + 2)  # behind <unk>
    tenth = np.int64(_mix(acted_by + counted) % uint64(10))
    if tenth < tenths_masked:
        return np.int64(vocab_size - 1)
    if tenth < tenths_changed:
        return first_ordinary + np.int64(_mix(replaced_by + counted) % uint64(vocab_size - 1 - first_ordinary))
    return np.int64(token)


@njit(cache=True)
def hide(
    ids_BT: Any, lengths_B: Any, sample_B: Any, key: Any, rate_millionths: int, per_row: int, tenths_masked: int, tenths_changed: int,
    vocab_size: int,
) -> Any:  # fmt: skip
    """Ids as the model sees them [B, T], flat places [M], labels [M] and weights [M]; see `objectives.masked`."""
    rows, places = ids_BT.shape
    seen_BT = np.empty((rows, places), np.int64)
    index_M, labels_M = np.zeros(rows * per_row, np.int64), np.zeros(rows * per_row, np.int64)
    weights_M = np.zeros(rows * per_row, np.float32)
    counted_T = np.empty(places, np.uint64)
    for t in range(places):
        counted_T[t] = _count(t)
    bits = 1  # of a hash that choose its bucket, so that a bucket holds about two
    while bits < 16 and 2 << bits < places:
        bits += 1
    shift = uint64(64 - bits)
    buckets = np.zeros(1 << bits, np.int64)
    hashes_T, tied = np.empty(places, np.uint64), np.empty(places + 1, np.uint64)
    chosen_T = np.empty(places + 1, np.int64)
    choice, action, replacement = _begin(key, 0), _begin(key, 1), _begin(key, 2)
    for b in range(rows):
        sample = _count(sample_B[b])
        chosen_by, acted_by, replaced_by = _mix(choice + sample), _mix(action + sample), _mix(replacement + sample)
        ids_T, seen_T = ids_BT[b], seen_BT[b]
        seen_T[:] = ids_T
        used = np.int64(lengths_B[b]) if lengths_B[b] < places else np.int64(places)
        maskable = np.int64(0)
        for t in range(used):
            ordinary = ids_T[t] > EOS
            maskable += np.int64(ordinary)
            hashes_T[t] = _mix(chosen_by + counted_T[t]) if ordinary else uint64(NEVER)
        count = _wanted(maskable, rate_millionths)
        if count == 0:
            continue
        # The count-th smallest hash lies in the bucket in which the sum passes count: only that one is put in order.
        buckets[:] = 0
        for t in range(used):
            buckets[hashes_T[t] >> shift] += 1
        bucket, below = uint64(0), np.int64(0)
        while below + buckets[bucket] < count:
            below += buckets[bucket]
            bucket += uint64(1)
        size: Any = 0
        for t in range(used):
            tied[size] = hashes_T[t]
            size += np.int64((hashes_T[t] >> shift) == bucket)
        for n in range(1, size):
            held, at = tied[n], n
            while at > 0 and tied[at - 1] > held:
                tied[at] = tied[at - 1]
                at -= 1
            tied[at] = held
        threshold = tied[count - below - 1]
        # Written whether chosen or not, so that nothing is left to the branch predictor.
        found: Any = 0
        for t in range(used):
            chosen_T[found] = t
            found += np.int64(hashes_T[t] <= threshold)
        first = b * per_row
        for k in range(count):
            t = chosen_T[k]
            seen_T[t] = _seen(ids_T[t], acted_by, replaced_by, counted_T[t], tenths_masked, tenths_changed, vocab_size)
            index_M[first + k], labels_M[first + k], weights_M[first + k] = b * places + t, ids_T[t], 1.0
    return seen_BT, index_M, labels_M, weights_M


@njit(cache=True)
def hide_in_order(
    ids_BT: Any, lengths_B: Any, sample_B: Any, key: Any, rate_millionths: int, per_row: int, tenths_masked: int, tenths_changed: int,
    vocab_size: int, kind: int, begins_V: Any, most: int, ends_L: Any, cost_V: Any, log_table: Any,
) -> Any:  # fmt: skip
    """As `hide`, of tokens chosen as `kind` says; see `objectives.choices`.

    Each place that may come first has a rank and a reach: the places that are hidden with it. They are taken in the order of their ranks, until the row has its
    number. begins_V and most are for WORDS, ends_L for SPANS, cost_V and log_table for WEIGHTS.
    """
    rows, places = ids_BT.shape
    seen_BT = np.empty((rows, places), np.int64)
    index_M, labels_M = np.zeros(rows * per_row, np.int64), np.zeros(rows * per_row, np.int64)
    weights_M = np.zeros(rows * per_row, np.float32)
    counted_T = np.empty(places, np.uint64)
    for t in range(places):
        counted_T[t] = _count(t)
    rank_N, place_N = np.empty(places, np.uint64), np.empty(places, np.int64)
    reach_T, is_chosen_T = np.empty(places, np.int64), np.empty(places, np.bool_)
    choice, action, replacement, size_stream = _begin(key, 0), _begin(key, 1), _begin(key, 2), _begin(key, 3)
    for b in range(rows):
        sample = _count(sample_B[b])
        chosen_by, acted_by, replaced_by, sized_by = (
            _mix(choice + sample),
            _mix(action + sample),
            _mix(replacement + sample),
            _mix(size_stream + sample),
        )
        ids_T, seen_T = ids_BT[b], seen_BT[b]
        seen_T[:] = ids_T
        used = np.int64(lengths_B[b]) if lengths_B[b] < places else np.int64(places)
        maskable, firsts, end = np.int64(0), np.int64(0), np.int64(used)
        # From the right, so that the end of the text is known at each place.
        for t in range(used - 1, -1, -1):
            is_chosen_T[t] = False
            if ids_T[t] <= EOS:
                end = np.int64(t)
                continue
            maskable += 1
            reach_T[t] = 1
            if kind == WORDS:
                if ids_T[t - 1] > EOS and not begins_V[ids_T[t]] and t > 0:
                    continue
                begin = np.int64(t)
                while begin < end:  # a word, in parts of at most `most`
                    reach_T[begin] = min(most, end - begin)
                    rank_N[firsts], place_N[firsts] = _mix(chosen_by + counted_T[begin]), begin
                    firsts += 1
                    begin += most
                end = np.int64(t)
                continue
            if kind == SPANS:
                drawn, size = _mix(sized_by + counted_T[t]), np.int64(1)
                for length_end in ends_L:
                    size += np.int64(drawn >= length_end)
                reach_T[t] = min(size, end - t)
                rank_N[firsts] = _mix(chosen_by + counted_T[t])
            else:
                surprise = np.int64(64 << FRACTION) - _log2(_mix(chosen_by + counted_T[t]) | uint64(1), log_table)
                rank_N[firsts] = uint64(((_log2(uint64(surprise), log_table) + cost_V[ids_T[t]]) << PLACE_BITS) + t)
            place_N[firsts] = t
            firsts += 1
        count = _wanted(maskable, rate_millionths)
        if count == 0:
            continue
        left = count
        for n in np.argsort(rank_N[:firsts]):
            t = place_N[n]
            if is_chosen_T[t]:
                continue
            for place in range(t, t + reach_T[t]):
                if left > 0 and not is_chosen_T[place]:
                    is_chosen_T[place] = True
                    left -= 1
            if left == 0:
                break
        at = b * per_row
        for t in range(used):
            if is_chosen_T[t]:
                seen_T[t] = _seen(ids_T[t], acted_by, replaced_by, counted_T[t], tenths_masked, tenths_changed, vocab_size)
                index_M[at], labels_M[at], weights_M[at] = b * places + t, ids_T[t], 1.0
                at += 1
    return seen_BT, index_M, labels_M, weights_M


@njit(cache=True, inline="always")
def _log2(word: Any, table: Any) -> Any:
    """log₂ of a whole number of at least 1, with `FRACTION` bits behind the point, integers only; `table` has that of 1 + i / 2^TABLE_BITS."""
    high, exponent = uint64(word), np.int64(0)
    for step in (32, 16, 8, 4, 2, 1):
        if high >> uint64(step):
            high >>= uint64(step)
            exponent += step
    mantissa = uint64(word) << uint64(63 - exponent)
    index = np.int64((mantissa >> uint64(63 - TABLE_BITS)) & uint64((1 << TABLE_BITS) - 1))
    rest = np.int64((mantissa >> uint64(43 - TABLE_BITS)) & uint64((1 << 20) - 1))
    return (exponent << FRACTION) + table[index] + (((table[index + 1] - table[index]) * rest) >> 20)


@njit(cache=True)
def log2(word_N: Any, table: Any) -> Any:
    """[N] int64: `_log2` of each."""
    found = np.empty(len(word_N), np.int64)
    for n in range(len(word_N)):
        found[n] = _log2(word_N[n], table)
    return found


@njit(cache=True)
def add_counts(tokens: Any, start_S: Any, length_S: Any, counts_V: Any) -> bool:
    """Adds the ids of spans of a shard to the counts by id; False where a span lies outside the shard or an id outside the counts."""
    for span in range(len(start_S)):
        start, size = np.int64(start_S[span]), np.int64(length_S[span])
        if start < 0 or start > len(tokens) or size > len(tokens) - start:
            return False
        for n in range(start, start + size):
            token = np.int64(tokens[n])
            if token >= len(counts_V):
                return False
            counts_V[token] += 1
    return True
