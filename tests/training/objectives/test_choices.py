"""Words, spans and rare tokens: the masks are those of the definitions written out one token at a time, and have the shares that they are to have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training import kernels
from pipeline.training.counter import bits, derive
from pipeline.training.objectives import translation
from pipeline.training.objectives.choices import Choice, Spans, WholeWords, by_frequency, log_table
from pipeline.training.objectives.masked import mask, masked_count, objective
from tests.training.objectives.test_masked import MASK, VOCAB, batch, chosen_by_row

BEGINS = np.random.default_rng(0).random(VOCAB) < 0.4
COUNTS = np.random.default_rng(1).zipf(1.3, VOCAB).clip(0, 10**9)


def words_of(ids: list[int], used: int) -> list[list[int]]:
    """The places of each word of a row, none of more than ten."""
    words: list[list[int]] = []
    for place in range(used):
        if ids[place] <= 2:
            continue
        if ids[place - 1] <= 2 or BEGINS[ids[place]] or len(words[-1]) == 10:
            words.append([])
        words[-1].append(place)
    return words


def spans_of(ids: list[int], used: int, key: int, sample: int) -> list[list[int]]:
    """The span that begins at each place of a row."""
    found = []
    for place in range(used):
        if ids[place] <= 2:
            continue
        share = int(bits(key, 3, sample, place)) / 2**64
        length = next(n for n in range(1, 11) if n == 10 or share < (1 - 0.8**n) / (1 - 0.8**10))
        end = next(at for at in range(place, used) if ids[at] <= 2)
        found.append(list(range(place, min(place + length, end))))
    return found


def in_order(candidates: list[list[int]], count: int, rank: Callable[[int], float]) -> list[int]:
    """The places hidden where candidates are taken by the rank of their first place until there are `count`."""
    chosen: list[int] = []
    for candidate in sorted(candidates, key=lambda places: rank(places[0])):
        if candidate[0] not in chosen:
            chosen += [place for place in candidate if place not in chosen]
    return sorted(chosen[:count])


@given(
    seed=st.integers(0, 2**32),
    rate=st.integers(1, 1_000_000),
    length=st.integers(5, 200),
    kind=st.sampled_from(["words", "spans", "frequency"]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_hidden_is_what_the_definition_says(seed: int, rate: int, length: int, kind: str) -> None:
    ids, lengths = batch(seed, rows=3, length=length)
    samples, key = [seed, 2**40 + 7, 0], derive(seed, "mlm")
    choice: Choice = {"words": WholeWords(BEGINS), "spans": Spans(), "frequency": by_frequency(COUNTS, 0.5)}[kind]
    masked = mask(ids, lengths, np.array(samples), seed=seed, vocab_size=VOCAB, rate_millionths=rate, choice=choice)
    inputs = ids.tolist()
    for row, chosen in enumerate(chosen_by_row(masked, *ids.shape)):
        own, used, sample = ids[row].tolist(), int(lengths[row]), samples[row]
        draw = {place: int(bits(key, 0, sample, place)) for place in range(used)}
        singles = [[place] for place in range(used) if own[place] > 2]
        if kind == "words":
            candidates, rank = words_of(own, used), draw.__getitem__
        elif kind == "spans":
            candidates, rank = spans_of(own, used, key, sample), draw.__getitem__
        else:
            candidates = singles

            def rank(place: int, draw: dict[int, int] = draw, own: list[int] = own) -> float:  # type: ignore[misc]
                return -math.log((draw[place] + 0.5) / 2**64) * max(1, int(COUNTS[own[place]])) ** 0.5

        count = int(masked_count(len(singles), 0, rate_millionths=rate))
        places = in_order(candidates, count, rank)
        assert [place for place, _ in chosen] == places
        assert all(label == own[place] for place, label in chosen)
        for place in places:
            tenth = int(bits(key, 1, sample, place)) % 10
            if tenth < 9:
                inputs[row][place] = MASK if tenth < 8 else 4 + int(bits(key, 2, sample, place)) % (MASK - 4)
    assert masked.input_ids_BT.tolist() == inputs


@pytest.mark.parametrize("choice", [WholeWords(BEGINS), Spans(), by_frequency(COUNTS, 0.5)])
def test_a_row_has_the_same_masks_whatever_the_batch_and_the_counts_that_were_promised(choice: Choice) -> None:
    ids, lengths = batch(3)
    samples = np.array([10**12, 5, 6, 7, 8, 0])
    made = objective(150_000, choice)
    together = made.apply(ids, lengths, samples, seed=1, vocab_size=VOCAB)
    order = np.array([4, 0, 5])
    alone = translation.objective(150_000, choice).apply(
        ids[order, : lengths.max()], lengths[order], samples[order], seed=1, vocab_size=VOCAB
    )
    everything = chosen_by_row(together, *ids.shape)
    assert chosen_by_row(alone, 3, int(lengths.max())) == [everything[row] for row in order]
    special = ((ids <= 2) & (ids != 1)).sum(axis=1)
    assert [len(row) for row in everything] == made.counts(lengths, special).tolist()
    plain = mask(ids, lengths, samples, seed=1, vocab_size=VOCAB)
    assert plain.masked_index_M.shape == together.masked_index_M.shape and chosen_by_row(plain, *ids.shape) != everything


def long_rows(rows: int = 400, length: int = 258) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(5).integers(4, MASK, (rows, length))
    ids[:, 0], ids[:, -1] = 0, 2
    return ids, np.full(rows, length)


def test_all_words_that_are_hidden_but_one_of_a_row_are_hidden_whole() -> None:
    ids, lengths = long_rows()
    masked = mask(ids, lengths, np.arange(len(ids)), seed=2, vocab_size=VOCAB, choice=WholeWords(BEGINS))
    sizes: Counter[int] = Counter()
    for row, chosen in enumerate(chosen_by_row(masked, *ids.shape)):
        places = {place for place, _ in chosen}
        touched = [word for word in words_of(ids[row].tolist(), 258) if places & set(word)]
        cut = [word for word in touched if not places >= set(word)]
        assert len(cut) <= 1 and all(places >= {word[0]} for word in touched)
        sizes.update(len(word) for word in touched)
    assert max(sizes) == 10, "longer ones come in parts"


def test_spans_have_the_lengths_of_a_geometric_distribution_and_every_place_its_share() -> None:
    lengths = [len(span) for sample in range(40) for span in spans_of([0, *[9] * 600, 2], 602, 3, sample)[:590]]
    assert abs(np.mean(lengths) - 3.797) < 5 * np.std(lengths) / math.sqrt(len(lengths))  # as published: 3.8
    ids, used = long_rows(rows=2000)
    hidden = chosen_by_row(mask(ids, used, np.arange(2000), seed=4, vocab_size=VOCAB, choice=Spans()), *ids.shape)
    runs = [sum(place - 1 not in {p for p, _ in row} for place, _ in row) for row in hidden]
    assert 2.5 < 38 / np.mean(runs) < 4.5, "runs of several tokens, and not single ones"
    share = np.bincount([place for row in hidden for place, _ in row], minlength=258)[12:-12] / 2000
    assert abs(share - share.mean()).max() < 5 * math.sqrt(0.15 * 0.85 / 2000)


def test_a_token_that_is_a_hundred_times_rarer_is_chosen_ten_times_as_often() -> None:
    counts = np.zeros(VOCAB, np.int64)
    counts[4], counts[5] = 100, 10_000
    ids = np.tile([4, 5], (3000, 129))
    ids[:, 0], ids[:, -1] = 0, 2
    masked = mask(ids, np.full(3000, 258), np.arange(3000), seed=0, vocab_size=VOCAB, rate_millionths=1, choice=by_frequency(counts, 0.5))
    rare = float((masked.labels_M == 4).sum()) / 3000  # one of each row, so its probability is its weight
    assert abs(rare - 10 / 11) < 5 * math.sqrt(10 / 11 / 11 / 3000)


def test_logarithms_are_exact_to_the_26th_bit_behind_the_point() -> None:
    drawn = np.random.default_rng(0).integers(1, 2**63, 5000).tolist()
    words = np.array([*range(1, 5000), *drawn, *(2**n for n in range(64)), 2**64 - 1], np.uint64)
    found = kernels.log2(words, log_table())
    exact = np.array([math.log2(int(word)) for word in words])
    assert np.abs(found / 2.0**32 - exact).max() < 2.0**-26
    assert set(found[words == 1].tolist()) == {0} and found[-1] < 64 << 32


def test_a_table_of_another_vocabulary_and_an_impossible_exponent_are_refused() -> None:
    ids, lengths = batch(1)
    for choice in (WholeWords(BEGINS[:-1]), by_frequency(COUNTS[:-1], 1.0)):
        with pytest.raises(ValueError, match=f"a table of {VOCAB - 1} ids for a vocabulary of {VOCAB}"):
            mask(ids, lengths, np.arange(6), seed=0, vocab_size=VOCAB, choice=choice)
    for alpha in (0.0, 1.5):
        with pytest.raises(ValueError, match="frequency_alpha is"):
            by_frequency(COUNTS, alpha)
