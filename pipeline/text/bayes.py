"""py3langid's model run by compiled code, a batch at a time, in whole numbers: the same labels many times faster, and the same on every machine.

    text -> NFC, lower case where all is upper -> UTF-8 -> a walk through an automaton over bytes, which names features -> how often each
        -> sum over features of log(1 + count) * weight, plus the prior, for each of 142 classes -> best class
        -> probability: a softmax at the temperature sqrt(bytes), in 1/10,000

The model is the naive Bayes classifier in the wheel of py3langid (Lui and Baldwin 2012, retrained by its maintainers). Its weights are float16 that are all
multiples of 2^-9, so int16 holds them exactly; logarithms of counts are rounded to 2^-20. It is read at first use (half a second, 70 MB) and once a process.

Departure from the library: a text with no feature of the model is nobody's language there too, but its first class is given with 1/142; here it is -1.
"""

from __future__ import annotations

import io
import lzma
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, uint64

from pipeline.errors import IntegrityError

Ints = np.ndarray[Any, np.dtype[np.int64]]

_WEIGHT_BITS, _LOG_BITS = 9, 20
_SCORE_BITS = _WEIGHT_BITS + _LOG_BITS
_EXP_BITS = 30
_MAX_EXPONENT = 24
"""exp(-24) is below half of 2^-30."""
_SUMS = 6
_LANES = 16
_BLOCK = 1 << 18
"""Bytes of the texts between whose two steps a feature a byte is kept."""
_LOGS = 1 << 12
"""Counts up to this have a logarithm of their own; the few beyond it are taken for it."""


@dataclass(frozen=True, slots=True)
class Model:
    """The arrays of the model."""

    classes: tuple[str, ...]
    """Label of each class; two labels stand twice, for two scripts of one language."""
    first: Ints
    """The first class with the label of each class, shape (classes,)."""
    next_move: Any
    """Next state by row of transitions and byte, uint32, shape (rows * 256,)."""
    row: Any
    """Row of transitions of each state, uint16."""
    feature: Any
    """Feature that ends at each state, int32; -1 where none does."""
    weights: Any
    """2^9 times the weight of each feature for each class, int16, shape (features, classes and some columns of nothing up to a whole number of cache lines)."""
    prior: Ints
    """2^29 times the prior of each class, shape (classes,)."""


@cache
def model() -> Model:
    """The model in the installed wheel.

    Raises:
        IntegrityError: it has another layout than the one known here.
    """
    import py3langid

    path = Path(py3langid.__file__).parent / "data" / "model.npz.xz"
    with lzma.open(path) as stream, np.load(io.BytesIO(stream.read()), allow_pickle=False) as arrays:
        missing = {"ptc", "pc", "classes", "nextmove", "nextmove_row", "out_feat"} - set(arrays.files)
        if missing:
            raise IntegrityError(f"{path}: the model of py3langid lacks {', '.join(sorted(missing))}; install py3langid 0.4.")
        scaled = np.rint(arrays["ptc"].astype(np.float32) * (1 << _WEIGHT_BITS))
        if np.abs(scaled).max() > np.iinfo(np.int16).max:
            raise IntegrityError(f"{path}: the weights of py3langid's model do not fit; install py3langid 0.4.")
        classes = tuple(str(label) for label in arrays["classes"])
        return Model(
            classes,
            np.array([classes.index(label) for label in classes], np.int64),
            arrays["nextmove"],
            arrays["nextmove_row"],
            arrays["out_feat"],
            _padded(scaled.astype(np.int16)),
            np.rint(arrays["pc"].astype(np.float64) * (1 << _SCORE_BITS)).astype(np.int64),
        )


def _padded(weights: Any) -> Any:
    """Rows that begin with a cache line where there are many classes: twice as fast, as each row is a jump in memory."""
    columns = weights.shape[1]
    return np.pad(weights, ((0, 0), (0, -columns % 32))) if columns > 32 else np.ascontiguousarray(weights)


@cache
def _tables() -> tuple[Ints, Ints]:
    """log(1 + count) at 2^20 by count, and exp(-k / 1024) at 2^30 by k."""
    logs = np.array([round(math.log1p(count) * (1 << _LOG_BITS)) for count in range(_LOGS)], np.int64)
    powers = np.array([round(math.exp(-k / 1024) * (1 << _EXP_BITS)) for k in range(_MAX_EXPONENT * 1024 + 2)], np.int64)
    return logs, powers


@cache
def _counts() -> Any:
    """How often each feature stands in the text at work: all zeros between texts, kept as fresh memory is dear. Compiled code holds the interpreter's lock, so threads do not meet here."""
    return np.zeros(len(model().weights), np.int32)


def encode(text: str) -> bytes:
    """The bytes that the model reads of a text."""
    return unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode("utf-8", "surrogatepass")


def classify(texts: Sequence[str], among: tuple[str, ...] | None = None) -> tuple[list[str | None], list[int]]:
    """The most probable label of each text, and its probability in 1/10,000; None and 0 for a text without a feature of the model.

    Args:
        texts: any strings.
        among: labels among which to choose, None for all; probabilities are then among these, and it is several times faster.
    """
    known = _restricted(among)
    encoded = [encode(text) for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(each) for each in encoded], out=offsets[1:])
    best, probability = _classify(
        np.frombuffer(b"".join(encoded), np.uint8), offsets, known.next_move, known.row, known.feature, known.weights.reshape(-1), _counts(), known.prior, known.first, *_tables()
    )  # fmt: skip
    return [known.classes[each] if each >= 0 else None for each in best.tolist()], probability.tolist()


@cache
def _restricted(among: tuple[str, ...] | None) -> Model:
    """The model with some of its classes alone, which are few enough to stay in the processor's cache."""
    whole = model()
    if among is None:
        return whole
    kept = [number for number, label in enumerate(whole.classes) if label in among]
    classes = tuple(whole.classes[number] for number in kept)
    return replace(
        whole,
        classes=classes,
        first=np.array([classes.index(label) for label in classes], np.int64),
        weights=_padded(whole.weights[:, kept]),
        prior=whole.prior[kept],
    )


@njit(cache=True)
def _root(n: Any) -> Any:
    """The whole square root."""
    if n < 2:
        return n
    x = np.int64(math.sqrt(n))
    while x * x > n:
        x -= 1
    while (x + 1) * (x + 1) <= n:
        x += 1
    return x


@njit(cache=True)
def _classify(
    data: Any, offsets: Any, next_move: Any, row: Any, feature: Any, weights: Any, counts: Any, prior: Any, first: Any, logs: Any, powers: Any
) -> Any:  # fmt: skip
    texts = len(offsets) - 1
    best = np.full(texts, -1, np.int64)
    probability = np.zeros(texts, np.int64)
    begins = 0
    while begins < texts:  # a block of texts at a time, so that what is between the two steps stays small; a text is never cut
        ends = begins + 1
        while ends < texts and offsets[ends + 1] - offsets[begins] <= _BLOCK:
            ends += 1
        found = np.empty(offsets[ends] - offsets[begins], np.int32)
        _walk(data, offsets[begins : ends + 1], next_move, row, feature, found)
        _choose(offsets[begins : ends + 1], found, counts, weights, prior, first, logs, powers, best[begins:ends], probability[begins:ends])
        begins = ends
    return best, probability


@njit(cache=True)
def _walk(data: Any, offsets: Any, next_move: Any, row: Any, feature: Any, found: Any) -> None:
    """The feature that ends at each byte of some texts, into `found`.

    A step waits for memory (the table has 39 MB) and the next one of the same text needs its result: so sixteen texts walk in turn, which is four times faster.
    """
    texts, start = len(offsets) - 1, uint64(offsets[0])
    state, at, end = np.zeros(_LANES, np.uint64), np.zeros(_LANES, np.uint64), np.zeros(_LANES, np.uint64)
    upcoming, active = 0, 0
    while True:
        while active < _LANES and upcoming < texts:
            if offsets[upcoming] < offsets[upcoming + 1]:
                state[active], at[active], end[active] = 0, offsets[upcoming], offsets[upcoming + 1]
                active += 1
            upcoming += 1
        if active == 0:
            return
        steps = end[0] - at[0]
        for lane in range(1, active):
            steps = min(steps, end[lane] - at[lane])
        for _ in range(steps):
            for lane in range(active):
                reached = uint64(next_move[(uint64(row[state[lane]]) << uint64(8)) + uint64(data[at[lane]])])
                found[at[lane] - start] = feature[reached]
                state[lane] = reached
                at[lane] += uint64(1)
        going = 0
        for lane in range(active):
            if at[lane] < end[lane]:
                state[going], at[going], end[going] = state[lane], at[lane], end[lane]
                going += 1
        active = going


@njit(cache=True)
def _choose(
    offsets: Any, found: Any, counts: Any, weights: Any, prior: Any, first: Any, logs: Any, powers: Any, best: Any, probability: Any
) -> None:  # fmt: skip
    """The best class of each text and its probability, from the features at its bytes; `counts` is all zeros before and after."""
    classes = len(prior)
    width = uint64(len(weights) // len(counts))
    longest = 0
    for t in range(len(best)):
        longest = max(longest, offsets[t + 1] - offsets[t])
    seen = np.empty(min(longest, len(counts)), np.int64)
    sums = np.empty((_SUMS, width), np.int32)  # of the weights of features that stand there so many times: 32 bits add faster than 64
    used = np.empty(_SUMS, np.int64)
    scores = np.empty(classes, np.int64)
    parts = np.empty(classes, np.int64)
    for t in range(len(best)):
        distinct = 0
        for at in range(offsets[t] - offsets[0], offsets[t + 1] - offsets[0]):
            each = found[at]
            if each >= 0:
                if counts[each] == 0:
                    seen[distinct] = each
                    distinct += 1
                counts[each] += 1
        if distinct == 0:
            continue
        scores[:] = prior
        sums[:] = 0
        used[:] = 0
        for i in range(distinct):
            each = seen[i]
            count = counts[each]
            counts[each] = 0
            begins = uint64(each) * width
            if count < _SUMS and used[count] < 60_000:  # 60,000 weights of 15 bits fill 31
                sum_of_count = sums[count]
                for c in range(width):
                    sum_of_count[c] += weights[begins + c]
                used[count] += 1
            else:
                weight = logs[min(count, len(logs) - 1)]
                for c in range(classes):
                    scores[c] += weights[begins + c] * weight
        for count in range(1, _SUMS):
            if used[count] > 0:
                sum_of_count = sums[count]
                for c in range(classes):
                    scores[c] += sum_of_count[c] * logs[count]
        top = scores.max()
        root = _root((offsets[t + 1] - offsets[t]) << 32)
        negligible = (_MAX_EXPONENT * root) << 13  # a division each is dear, and few classes come near the best
        total = 0
        parts[:] = 0
        for c in range(classes):
            behind = top - scores[c]
            if behind < negligible:
                exponent = (behind << 7) // root  # 2^20 times the difference over sqrt(bytes)
                step = exponent >> 10
                power = powers[step] - (((powers[step] - powers[step + 1]) * (exponent & 1023)) >> 10)
                parts[first[c]] += power
                total += power
        winner = 0
        for c in range(classes):
            if parts[c] > parts[winner]:
                winner = c
        best[t] = winner
        probability[t] = (parts[winner] * 20_000 + total) // (2 * total)
