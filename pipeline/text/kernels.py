"""Compiled passes over batches of UTF-8 text: what the quality rules measure, and MinHash signatures. Whole numbers only.

    data (all texts, UTF-8), offsets -> per text: code points -> units, words, lines, paragraphs (64-bit hash and length of each)
        -> counts; repeated lines and paragraphs; the most frequent 2- to 4-gram; repeated 5- to 10-grams     (`measure_batch`)

An n-gram's hash is taken from prefix sums of its units' hashes in constant time; equal hashes count as equal text (64 bits, within one text).
numba compiles each function at its first use in a process, or loads it from its cache beside this file (in the user's cache folder where that cannot be written).

Words are runs between white space. In a text whose language has no spaces the units are characters with their marks (other scripts: words), and an n-gram takes
2 (Han, Kana, Yi) or 4 (Thai, Khmer, Burmese, Tibetan, …) of them for a word, so that it spans about as much text in any script; how many words there are is estimated by
`_sixtieths`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.artifacts.documents import MEASURES
from pipeline.text.tables import DIGIT, LETTER, LONG, MARK, POINTS, SHORT, SPACE, SYMBOL, TERMINAL

SHORT_LINE = 30
"""Characters up to which a line is short (FineWeb)."""
LETTERS_A_WORD_SHORT, LETTERS_A_WORD_LONG = 2, 4

_MEASURES = len(MEASURES)
_P = np.uint64(0x100000001B3)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SEED = np.uint64(0xCBF29CE484222325)


@njit(cache=True, inline="always")
def _mix(h: Any) -> Any:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the input moves every bit of the output."""
    h = uint64(h)
    h ^= h >> uint64(30)
    h *= uint64(0xBF58476D1CE4E5B9)
    h ^= h >> uint64(27)
    h *= uint64(0x94D049BB133111EB)
    return h ^ (h >> uint64(31))


@njit(cache=True, inline="always")
def _point(data: Any, at: int) -> Any:
    """The code point that begins at a byte of valid UTF-8, and its length in bytes."""
    first = data[at]
    if first < 0x80:
        return np.int64(first), 1
    if first < 0xE0:
        return (np.int64(first & 0x1F) << 6) | np.int64(data[at + 1] & 0x3F), 2
    if first < 0xF0:
        return (np.int64(first & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | np.int64(data[at + 2] & 0x3F), 3
    return (
        (np.int64(first & 0x07) << 18)
        | (np.int64(data[at + 1] & 0x3F) << 12)
        | (np.int64(data[at + 2] & 0x3F) << 6)
        | np.int64(data[at + 3] & 0x3F)
    ), 4


@njit(cache=True, inline="always")
def _up(part: int, whole: int) -> int:
    """Ten-thousandths, rounded up: what is held against a maximum passes exactly where the true share does."""
    return (part * 10_000 + whole - 1) // whole if whole > 0 else 0


@njit(cache=True, inline="always")
def _down(part: int, whole: int) -> int:
    """Ten-thousandths, rounded down: for what is held against a minimum."""
    return part * 10_000 // whole if whole > 0 else 0


@njit(cache=True, inline="always")
def _sixtieths(point: int, short: bool) -> int:
    """What a letter of a script without spaces is of a word, in 1/60; `measures` says how far the sums are from those of a segmenter."""
    if short:
        return 36  # Han, Kana, Yi: 5 letters make 3 words
    if point < 0x0F00:
        return 20  # Thai, Lao: 3 make one
    if point < 0x1000:
        return 12  # Tibetan: 5
    if point < 0x10A0:
        return 25  # Burmese: 2.4
    return 18  # Khmer and others: 3.3


@njit(cache=True)
def _repeated(hashes: Any, lengths: Any, count: int, keys: Any, stamps: Any, stamp: int) -> Any:
    """How many of the elements stood before, and their length together."""
    mask = len(keys) - 1
    elements, characters = 0, 0
    for i in range(count):
        h = hashes[i]
        slot = np.int64(_mix(h) & uint64(mask))
        while stamps[slot] == stamp and keys[slot] != h:
            slot = (slot + 1) & mask
        if stamps[slot] == stamp:
            elements += 1
            characters += lengths[i]
        else:
            stamps[slot] = stamp
            keys[slot] = h
    return elements, characters


@njit(cache=True, inline="always")
def _power(n: int) -> Any:
    power = uint64(1)
    for _ in range(n):
        power *= uint64(_BASE)
    return power


@njit(cache=True)
def _top(prefix: Any, lengths: Any, units: int, n: int, joint: int, keys: Any, stamps: Any, counts: Any, places: Any, stamp: int) -> int:
    """Characters of all occurrences of the most frequent n-gram; of equally frequent ones the first counts."""
    mask = len(keys) - 1
    power = _power(n)
    best, place = 0, 0
    for i in range(units - n + 1):
        h = prefix[i + n] - prefix[i] * power
        slot = np.int64(_mix(h) & uint64(mask))
        while stamps[slot] == stamp and keys[slot] != h:
            slot = (slot + 1) & mask
        if stamps[slot] == stamp:
            counts[slot] += 1
        else:
            stamps[slot] = stamp
            keys[slot] = h
            counts[slot] = 1
            places[slot] = i
        if counts[slot] > best or (counts[slot] == best and places[slot] < place):
            best, place = counts[slot], places[slot]
    if best == 0:
        return 0
    return (lengths[place + n] - lengths[place] + (n - 1) * joint) * best


@njit(cache=True)
def _all_repeated(prefix: Any, lengths: Any, units: int, n: int, keys: Any, stamps: Any, stamp: int) -> int:
    """Characters of the n-grams that stood before, none counted in two of them."""
    mask = len(keys) - 1
    power = _power(n)
    found, i = 0, 0
    while i < units - n + 1:
        h = prefix[i + n] - prefix[i] * power
        slot = np.int64(_mix(h) & uint64(mask))
        while stamps[slot] == stamp and keys[slot] != h:
            slot = (slot + 1) & mask
        if stamps[slot] == stamp:
            found += lengths[i + n] - lengths[i]
            i += n
        else:
            stamps[slot] = stamp
            keys[slot] = h
            i += 1
    return found


@njit(cache=True)
def measure_batch(
    data: Any, offsets: Any, spaced: Any, script_rows: Any, stop_rows: Any, classes: Any, scripts: Any, wanted: Any, stops: Any, stop_offsets: Any
) -> Any:  # fmt: skip
    """Measure a batch of texts.

    Args:
        data: UTF-8 of all texts, uint8.
        offsets: where each text begins, and where the last ends, int64, shape (texts + 1,).
        spaced: whether spaces separate words, bool, shape (texts,).
        script_rows: which row of `wanted` is the script of the text's language, int64, shape (texts,); -1 where it is not known.
        stop_rows: which span of `stops` is for the text's language, int64, shape (texts,); -1 where there is none.
        classes, scripts: `tables.classes()` and `tables.script_ids()[0]`.
        wanted: which script indices belong to a script, bool, shape (scripts, 256).
        stops, stop_offsets: sorted `word_hash`es of stop words, and where each language's begin.

    Returns:
        int64, shape (texts, len(MEASURES)), in the order of `pipeline.artifacts.documents.MEASURES`; -1 where there is nothing to measure against (script, stop words).
    """
    texts = len(offsets) - 1
    out = np.zeros((texts, _MEASURES), np.int64)
    longest = 0
    for t in range(texts):
        longest = max(longest, offsets[t + 1] - offsets[t])
    room = longest + 2
    slots = 16
    while slots < 2 * room:
        slots *= 2
    word_hashes = np.empty(room, np.uint64)
    line_hashes = np.empty(room, np.uint64)
    line_lengths = np.empty(room, np.int64)
    paragraph_hashes = np.empty(room, np.uint64)
    paragraph_lengths = np.empty(room, np.int64)
    prefix = np.zeros(room + 1, np.uint64)
    lengths = np.zeros(room + 1, np.int64)
    all_keys = np.empty(slots, np.uint64)
    all_stamps = np.zeros(slots, np.int64)
    all_counts = np.empty(slots, np.int64)
    all_places = np.empty(slots, np.int64)
    stamp = 0
    for t in range(texts):
        at, end = offsets[t], offsets[t + 1]
        by_words = spaced[t]
        characters = words = non_symbol = non_symbol_characters = with_letters = longest_word = 0
        solid = letters = digits = in_script = plain_letters = short_letters = long_letters = sixtieths = other_runs = 0
        lines = all_line_characters = bullets = ellipsis_lines = short_lines = punctuated = newlines = 0
        paragraphs = sentences = braces = hashes_signs = dots = 0
        units = 0
        unit_hash, unit_length, unit_open = uint64(_SEED), 0, False
        run_alnum = False
        word_hash, word_length, word_letter, word_solid = uint64(_SEED), 0, False, False
        line_hash, line_length, line_first, line_terminal, line_dots = uint64(_SEED), 0, np.int64(-1), False, 0
        paragraph_hash, paragraph_length, blank = uint64(_SEED), 0, 0
        terminal_before = False
        run_of_dots = 0
        script_row = script_rows[t]
        while at <= end:
            if at < end:
                point, size = _point(data, at)
                bits = classes[point] if point < POINTS else SYMBOL
                characters += 1
            else:
                point, size, bits = 10, 1, SPACE  # the end of the text closes everything that is open
            is_space = (bits & SPACE) != 0
            # -- words, and units of unspaced scripts
            if is_space:
                if word_length:
                    words += 1
                    word_hashes[words - 1] = word_hash
                    if word_solid:
                        non_symbol += 1
                        non_symbol_characters += word_length
                    if word_letter:
                        with_letters += 1
                    longest_word = max(longest_word, word_length)
                    if by_words:
                        prefix[words] = prefix[words - 1] * uint64(_BASE) + _mix(word_hash)
                        lengths[words] = lengths[words - 1] + word_length
                    word_hash, word_length, word_letter, word_solid = uint64(_SEED), 0, False, False
            else:
                solid += 1
                for b in range(size):
                    word_hash = (word_hash ^ uint64(data[at + b])) * uint64(_P)
                word_length += 1
                if bits & LETTER:
                    letters += 1
                    word_letter = True
                    if script_row >= 0:
                        plain_letters += 1
                        if wanted[script_row, scripts[point]]:
                            in_script += 1
                elif bits & MARK:
                    letters += 1
                elif bits & DIGIT:
                    digits += 1
                if not bits & SYMBOL:
                    word_solid = True
            if not by_words:
                unspaced = (bits & (SHORT | LONG)) != 0
                if bits & SHORT and not bits & MARK:
                    short_letters += 1
                    sixtieths += _sixtieths(point, True)
                elif bits & LONG and not bits & MARK:
                    long_letters += 1
                    sixtieths += _sixtieths(point, False)
                joins = (bits & MARK) != 0 and unit_open  # a mark belongs to the character before it
                solid_unit = (not is_space) and (not bits & SYMBOL)
                if unit_open and not joins and (not solid_unit or unspaced or run_alnum is False):
                    units += 1
                    prefix[units] = prefix[units - 1] * uint64(_BASE) + _mix(unit_hash)
                    lengths[units] = lengths[units - 1] + unit_length
                    if run_alnum:
                        other_runs += 1
                    unit_hash, unit_length, unit_open = uint64(_SEED), 0, False
                if solid_unit:
                    if not unit_open:
                        unit_open = True
                        run_alnum = not unspaced
                    for b in range(size):
                        unit_hash = (unit_hash ^ uint64(data[at + b])) * uint64(_P)
                    unit_length += 1
            # -- sentences
            if terminal_before and (is_space or (bits & TERMINAL) == 0):
                sentences += 1
                terminal_before = False
            if bits & TERMINAL:
                wide = point >= 0x3000
                next_space = at + size >= end or data[at + size] == 32 or data[at + size] == 10
                terminal_before = wide or next_space
            # -- marks that rules look at
            if point == 123:
                braces += 1
            elif point == 35:
                hashes_signs += 1
            if point == 46:
                run_of_dots += 1
                if run_of_dots == 3:
                    dots += 1
                    run_of_dots = 0
            else:
                run_of_dots = 0
                if point == 0x2026:
                    dots += 1
            # -- lines and paragraphs
            if point == 10:
                if at < end:
                    newlines += 1
                if line_length:
                    line_hashes[lines] = line_hash
                    line_lengths[lines] = line_length
                    lines += 1
                    all_line_characters += line_length
                    if line_first == 0x2022 or line_first == 45:
                        bullets += 1
                    if line_dots >= 3:
                        ellipsis_lines += 1
                    if line_length <= SHORT_LINE:
                        short_lines += 1
                    if line_terminal:
                        punctuated += 1
                    line_hash, line_length, line_first, line_terminal, line_dots = uint64(_SEED), 0, np.int64(-1), False, 0
                    blank = 1
                else:
                    blank += 1
                if paragraph_length and (blank >= 2 or at >= end):
                    paragraph_hashes[paragraphs] = paragraph_hash
                    paragraph_lengths[paragraphs] = paragraph_length
                    paragraphs += 1
                    paragraph_hash, paragraph_length = uint64(_SEED), 0
            else:
                if paragraph_length and blank == 1:
                    paragraph_hash = (paragraph_hash ^ uint64(10)) * uint64(_P)
                    paragraph_length += 1
                blank = 0
                for b in range(size):
                    byte = uint64(data[at + b])
                    line_hash = (line_hash ^ byte) * uint64(_P)
                    paragraph_hash = (paragraph_hash ^ byte) * uint64(_P)
                line_length += 1
                paragraph_length += 1
                if not is_space:
                    if line_first < 0:
                        line_first = point
                    if point == 0x2026:
                        line_dots = 3
                    elif point == 46:
                        line_dots += 1
                    else:
                        line_dots = 0
                    # A closing quote or bracket behind a full stop leaves the sentence ended.
                    if bits & TERMINAL:
                        line_terminal = True
                    elif not bits & SYMBOL:
                        line_terminal = False
            at += size
        text_words = words
        if by_words:
            units = words
            factor = 1
        else:
            text_words = max((sixtieths + 30) // 60, 1 if sixtieths else 0) + other_runs
            factor = LETTERS_A_WORD_SHORT if short_letters >= long_letters else LETTERS_A_WORD_LONG
            non_symbol, non_symbol_characters, with_letters = text_words, solid, text_words
            longest_word = 0
            for u in range(units):
                longest_word = max(longest_word, lengths[u + 1] - lengths[u])
        row = out[t]
        row[0], row[1], row[2], row[3], row[4], row[5] = characters, text_words, non_symbol, lines, sentences, braces
        row[6] = -1
        if stop_rows[t] >= 0:
            first, last = stop_offsets[stop_rows[t]], stop_offsets[stop_rows[t] + 1]
            present = 0
            for s in range(first, last):
                for w in range(words):
                    if word_hashes[w] == stops[s]:
                        present += 1
                        break
            row[6] = present
        # A table twice as large as the text's units: small texts stay in the processor's first cache.
        small = 16
        while small < 2 * (max(units, lines) + 2):
            small *= 2
        keys, stamps, counts, places = all_keys[:small], all_stamps[:small], all_counts[:small], all_places[:small]
        stamp += 1
        repeated, repeated_characters = _repeated(line_hashes, line_lengths, lines, keys, stamps, stamp)
        row[7], row[8] = _up(repeated, lines), _up(repeated_characters, characters)
        stamp += 1
        repeated, repeated_characters = _repeated(paragraph_hashes, paragraph_lengths, paragraphs, keys, stamps, stamp)
        row[9], row[10] = _up(repeated, paragraphs), _up(repeated_characters, characters)
        joint = 1 if by_words else 0
        for n in range(2, 5):
            stamp += 1
            top = _top(prefix, lengths, units, n * factor, joint, keys, stamps, counts, places, stamp)
            row[9 + n] = min(10_000, _up(top, characters)) if not by_words else _up(top, characters)
        for n in range(5, 11):
            stamp += 1
            row[9 + n] = _up(_all_repeated(prefix, lengths, units, n * factor, keys, stamps, stamp), characters)
        row[20] = _down(letters, solid)
        row[21] = _up(digits, solid)
        row[22] = _down(in_script, plain_letters) if script_row >= 0 and plain_letters > 0 else -1
        row[23] = _down(with_letters, text_words)
        row[24] = _up(max(hashes_signs, dots), text_words)
        row[25] = _down(non_symbol_characters, non_symbol)
        row[26] = longest_word
        row[27], row[28] = _up(bullets, lines), _up(ellipsis_lines, lines)
        row[29], row[30] = _up(short_lines, lines), _down(punctuated, lines)
        row[31] = _up(newlines, text_words)
    return out


@njit(cache=True)
def word_hash(data: Any) -> Any:
    """The hash that `measure_batch` gives a word of these bytes (UTF-8, uint8)."""
    h = uint64(_SEED)
    for byte in data:
        h = (h ^ uint64(byte)) * uint64(_P)
    return h
