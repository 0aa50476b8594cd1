"""Batches: the same rows and masks for every cut, every row once, and weights known before a token is read."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.packing import pack_sentences
from pipeline.training.batches import Feed, MicroBatch, attention_and_positions, cut, fill_up, held_out_batches
from pipeline.training.mixture import Mixture
from pipeline.training.objectives.masked import MaskedLanguageModel, mask
from pipeline.training.packed_rows import PackedRows

VOCAB = 700
LENGTH = 24
CUTS = [(1, 8, 1), (2, 4, 1), (2, 2, 2), (4, 2, 1), (8, 1, 1)]
"""(ranks, micro-batch, accumulation) of a global batch of 8."""


def packing(seed: int, documents: int = 12, length: int = LENGTH, folder: Path | None = None) -> tuple[PackedRows, list[list[int]]]:
    """A packing over three shards, one of them empty of spans, and its rows written out by hand."""
    random = np.random.default_rng(seed)
    texts = [random.integers(3, VOCAB - 1, int(random.integers(1, 60))).astype(np.uint16) for _ in range(documents)]
    sentences = [[len(text) // 2, len(text) - len(text) // 2] for text in texts]
    shard_of = np.arange(documents) % 2 * 2
    shards, starts = [], np.zeros(documents, dtype=np.int64)
    for shard in range(3):
        mine = np.flatnonzero(shard_of == shard)
        sizes = [len(texts[d]) for d in mine]
        starts[mine] = np.concatenate(([0], np.cumsum(sizes)))[: len(mine)]
        flat = np.concatenate([texts[d] for d in mine]) if len(mine) else np.zeros(0, np.uint16)
        if folder is not None and len(flat):
            np.save(folder / f"{seed}-{shard}.npy", flat)
            flat = np.load(folder / f"{seed}-{shard}.npy", mmap_mode="r")
        shards.append(flat)
    packed = pack_sentences(np.concatenate(sentences), np.repeat(np.arange(documents), 2), max_tokens=length)
    rows = PackedRows(
        tuple(shards),
        packed.row_offsets,
        shard_of[packed.span_document].astype(np.uint32),
        (starts[packed.span_document] + packed.span_start).astype(np.uint64),
        packed.span_length.astype(np.uint32),
        length,
    )
    written = []
    for row in range(packed.num_rows):
        ids = [0]
        for span in range(packed.row_offsets[row], packed.row_offsets[row + 1]):
            start = packed.span_start[span]
            ids += [*texts[packed.span_document[span]][start : start + packed.span_length[span]].tolist(), 2]
        written.append(ids)
    return rows, written


def feed(global_batch: int = 8, trim: bool = False, alpha: float = 0.3) -> Feed:
    rows = {language: packing(seed, documents)[0] for language, seed, documents in (("sw", 1, 4), ("en", 2, 30), ("zh-Hant", 3, 9))}
    mixture = Mixture.by_alpha({language: len(rows[language]) for language in rows}, alpha, seed=5, block=64)
    return Feed(rows, mixture, MaskedLanguageModel(), VOCAB, seed=6, global_batch=global_batch, trim=trim)


def by_sample(batches: list[MicroBatch]) -> dict[int, tuple[Any, ...]]:
    """All that a sample brings into training, whatever batch it came in."""
    found: dict[int, tuple[Any, ...]] = {}
    for batch in batches:
        rows, length = batch.input_ids_BT.shape
        index = batch.masked_index_M.reshape(rows, -1)
        weights, labels = batch.weights_M.reshape(rows, -1), batch.labels_M.reshape(rows, -1)
        for b in range(rows):
            used = batch.attention_BT[b]
            real = weights[b] > 0
            sample = int(batch.samples_B[b])
            assert sample not in found
            found[sample] = (
                int(batch.languages_B[b]),
                batch.input_ids_BT[b][used].tolist(),
                batch.positions_BT[b][used].tolist(),
                (index[b][real] - b * length).tolist(),
                labels[b][real].tolist(),
                weights[b][real].tolist(),
            )
    return found


def union(feed: Feed, step: int, world_size: int, micro_batch: int) -> dict[int, tuple[Any, ...]]:
    return by_sample([batch for rank in range(world_size) for batch in feed.micro_batches(step, rank, world_size, micro_batch)])


def test_a_gathered_row_is_the_documents_with_their_special_tokens(tmp_path: Path) -> None:
    rows, written = packing(7, documents=25, folder=tmp_path)
    order = np.random.default_rng(0).integers(0, len(rows), 40)  # any order, with repeats
    ids, lengths, segments = rows.gather(order)
    assert ids.dtype == np.int64
    assert ids.shape == (40, LENGTH)
    for b, row in enumerate(order):
        assert ids[b, : lengths[b]].tolist() == written[row]
        assert set(ids[b, lengths[b] :].tolist()) <= {1}
        expected, segment = [0], 0
        for token in written[row][1:]:
            expected.append(segment)
            segment += token == 2
        assert segments[b, : lengths[b]].tolist() == expected
        assert set(segments[b, lengths[b] :].tolist()) <= {-1}
    assert any(2 in row[:-1] for row in written), "no row crosses documents: the test would not see borders"
    assert isinstance(rows.shards[0], np.memmap)


def test_lengths_are_known_without_gathering() -> None:
    rows, written = packing(4)
    assert rows.row_lengths().tolist() == [len(row) for row in written]
    assert rows.num_special().tolist() == [row.count(2) + 1 for row in written]
    some = np.array([3, 0, 3])
    assert rows.row_lengths(some).tolist() == [len(written[row]) for row in some]


def test_no_rows_gather_to_an_empty_batch() -> None:
    ids, lengths, segments = packing(4)[0].gather(np.zeros(0, dtype=np.int64))
    assert ids.shape == segments.shape == (0, LENGTH)
    assert lengths.shape == (0,)


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("step", [0, 3, 10**6])
def test_every_cut_of_a_step_has_the_same_rows_and_the_same_masks(step: int, trim: bool) -> None:
    made = feed(trim=trim)
    whole = union(made, step, 1, 8)
    assert sorted(whole) == list(range(step * 8, step * 8 + 8))
    for ranks, micro, accumulation in CUTS:
        assert ranks * micro * accumulation == 8
        for rank in range(ranks):
            assert len(list(made.micro_batches(step, rank, ranks, micro))) == accumulation
        assert union(made, step, ranks, micro) == whole
    assert union(feed(trim=not trim), step, 2, 2) == whole


@pytest.mark.parametrize("ranks", range(1, 9))
def test_over_any_number_of_ranks_an_epoch_has_every_row_once(ranks: int) -> None:
    rows = {language: packing(seed, documents)[0] for language, seed, documents in (("en", 2, 20), ("sw", 1, 6))}
    total = sum(len(packed) for packed in rows.values())
    made = Feed(
        rows,
        Mixture.by_alpha({language: len(rows[language]) for language in rows}, 1, seed=1),
        MaskedLanguageModel(),
        VOCAB,
        0,
        global_batch=ranks,
    )
    seen: Counter[tuple[int, ...]] = Counter()
    for step in range(-(-total // ranks)):
        for rank in range(ranks):
            for batch in made.micro_batches(step, rank, ranks, 1):
                if batch.samples_B[0] < total:
                    labels = dict(zip(batch.masked_index_M.tolist(), batch.labels_M.tolist(), strict=True))
                    used = int(batch.attention_BT.sum())
                    ids = [
                        labels.get(place, token) if place else token for place, token in enumerate(batch.input_ids_BT[0, :used].tolist())
                    ]
                    seen[(int(batch.languages_B[0]), *ids)] += 1
    expected: Counter[tuple[int, ...]] = Counter()
    for number, language in enumerate(sorted(rows)):
        ids, lengths, _ = rows[language].gather(np.arange(len(rows[language])))
        expected.update((number, *row[:used].tolist()) for row, used in zip(ids, lengths, strict=True))
    assert seen == expected


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees() -> None:
    uninterrupted = feed()
    through = [list(uninterrupted.micro_batches(step, 1, 2, 2)) for step in range(6)]
    for step in (3, 4, 5):  # a new process makes the feed anew and begins in the middle
        for a, b in zip(feed().micro_batches(step, 1, 2, 2), through[step], strict=True):
            for field in dataclasses.fields(MicroBatch):
                assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name


def test_the_world_size_can_change_in_mid_run() -> None:
    straight = {step: union(feed(), step, 1, 8) for step in range(4)}
    resized = {step: union(feed(), step, 2 if step < 2 else 4, 2) for step in range(4)}
    assert resized == straight


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_weight_of_a_step_is_the_sum_of_its_micro_batches_weights(alpha: float) -> None:
    made = feed(alpha=alpha)
    for step in range(12):
        for ranks, micro, _ in CUTS[:3]:
            total = sum(float(b.weights_M.sum()) for rank in range(ranks) for b in made.micro_batches(step, rank, ranks, micro))
            assert made.weight(step) == total > 0


def test_masks_are_those_of_the_objective_on_the_gathered_rows() -> None:
    made = feed()
    plan = made.mixture.samples(16, 24)
    for batch in made.micro_batches(2, 0, 1, 4):
        for b, sample in enumerate(batch.samples_B.tolist()):
            language = made.mixture.languages[plan.language_N[sample - 16]]
            ids, lengths, _ = made.rows[language].gather(plan.row_N[sample - 16 : sample - 15])
            expected = mask(ids, lengths, np.array([sample]), seed=made.seed, vocab_size=VOCAB)
            assert np.array_equal(batch.input_ids_BT[b], expected.input_ids_BT[0])


def test_shapes_and_types_are_as_promised_and_static_unless_trimmed() -> None:
    wanted = {"segments_BT": np.int16, "attention_BT": np.bool_, "weights_M": np.float32, "languages_B": np.int32}
    static, trimmed = set(), set()
    for step in range(10):
        for batch in feed().micro_batches(step, 0, 1, 2):
            assert batch.is_causal is False and batch.within_documents is False and batch.langs_BT is None
            for field in dataclasses.fields(MicroBatch):
                if field.name not in ("is_causal", "within_documents", "langs_BT"):
                    assert getattr(batch, field.name).dtype == wanted.get(field.name, np.int64), field.name
            static.add((batch.input_ids_BT.shape, batch.labels_M.shape))
        for batch in feed(trim=True).micro_batches(step, 0, 1, 2):
            longest = int(batch.attention_BT.sum(axis=1).max())
            assert batch.input_ids_BT.shape[1] == min(LENGTH, -(-longest // 8) * 8)
            trimmed.add(batch.input_ids_BT.shape)
    assert len(static) == 1
    assert len(trimmed) > 1
    told = dataclasses.replace(feed(), langs_L2=np.zeros((len(feed().rows), 2), np.int64))
    assert {(b.langs_BT.dtype, b.langs_BT.shape) for b in told.micro_batches(0, 0, 1, 2) if b.langs_BT is not None} == {
        (np.dtype(np.int64), (2, LENGTH))
    }


def test_positions_begin_at_two_and_padding_has_position_one() -> None:
    attention, positions = attention_and_positions(np.array([3, 5]), 5)
    assert attention.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert positions.tolist() == [[2, 3, 4, 1, 1], [2, 3, 4, 5, 6]]


@given(ranks=st.integers(1, 8), micro=st.integers(1, 5), accumulation=st.integers(1, 4), step=st.integers(0, 10**9))
@settings(max_examples=100, deadline=None)
def test_a_cut_is_disjoint_and_complete(ranks: int, micro: int, accumulation: int, step: int) -> None:
    size = ranks * micro * accumulation
    parts = [part for rank in range(ranks) for part in cut(step, rank, ranks, micro, size)]
    assert [sample for start, stop in parts for sample in range(start, stop)] == list(range(step * size, (step + 1) * size))
    assert all(stop - start == micro for start, stop in parts)


@given(rows=st.integers(1, 60), ranks=st.integers(1, 8), micro=st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_filling_up_gives_every_row_once_and_all_ranks_equally_many_batches(rows: int, ranks: int, micro: int) -> None:
    by_rank = [list(fill_up(rows, rank, ranks, micro)) for rank in range(ranks)]
    assert len({len(batches) for batches in by_rank}) == 1
    real = [int(row) for batches in by_rank for index, is_real in batches for row in index[is_real]]
    assert sorted(real) == list(range(rows))
    assert all(int(index.min()) >= 0 and int(index.max()) < rows and len(index) == micro for batches in by_rank for index, _ in batches)


@pytest.mark.parametrize(("ranks", "micro"), [(1, 4), (2, 3), (3, 5), (8, 1)])
def test_held_out_batches_have_every_row_once_with_the_same_masks_for_any_cut(ranks: int, micro: int) -> None:
    rows = {language: packing(seed, 5)[0] for language, seed in (("sw", 1), ("en", 2))}
    batches = [b for rank in range(ranks) for b in held_out_batches(rows, vocab_size=VOCAB, rank=rank, world_size=ranks, micro_batch=micro)]
    assert held_out(batches) == held_out(list(held_out_batches(rows, vocab_size=VOCAB, rank=0, world_size=1, micro_batch=1)))
    assert sorted((language, row) for language, row, *_ in held_out(batches)) == [
        (number, row) for number, language in enumerate(sorted(rows)) for row in range(len(rows[language]))
    ]


def held_out(batches: list[MicroBatch]) -> list[tuple[Any, ...]]:
    found = []
    for batch in batches:
        rows, length = batch.input_ids_BT.shape
        index, weights = batch.masked_index_M.reshape(rows, -1), batch.weights_M.reshape(rows, -1)
        for b in range(rows):
            chosen = tuple((index[b][weights[b] > 0] - b * length).tolist())
            if batch.samples_B[b] < 0:
                assert chosen == ()
            else:
                found.append(
                    (
                        int(batch.languages_B[b]),
                        int(batch.samples_B[b]),
                        tuple(batch.input_ids_BT[b][batch.attention_BT[b]].tolist()),
                        chosen,
                    )
                )
    return sorted(found)


def test_another_language_leaves_the_held_out_masks_of_the_others_alone() -> None:
    rows = {language: packing(seed, 5)[0] for language, seed in (("sw", 1), ("en", 2))}
    alone = held_out(list(held_out_batches({"sw": rows["sw"]}, vocab_size=VOCAB, rank=0, world_size=1, micro_batch=2)))
    both = held_out(list(held_out_batches(rows, vocab_size=VOCAB, rank=0, world_size=1, micro_batch=2)))
    assert [rest for _, *rest in alone] == [rest for language, *rest in both if language == 1]


def broken(**changes: Any) -> PackedRows:
    rows = PackedRows(
        (np.array([4, 5, 6, 7], np.uint16),),
        np.array([0, 1]),
        np.array([0], np.uint32),
        np.array([0], np.uint64),
        np.array([4], np.uint32),
        8,
    )
    return dataclasses.replace(rows, **changes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (broken(row_offsets=np.array([0, 0])), "a row has no span"),
        (broken(length=5), "a row has 6 tokens, more than its 5"),
        (broken(span_start=np.array([1], np.uint64)), "a span lies outside its shard"),
        (broken(span_shard=np.array([1], np.uint32)), "a span lies in shard 1 of 1"),
        (broken(shards=(np.array([4, 2, 6, 7], np.uint16),)), "a document holds an id of 0..2"),
    ],
)
def test_a_damaged_packing_is_named_and_never_trained_on(rows: PackedRows, message: str) -> None:
    assert broken().gather(np.array([0]))[0].tolist() == [[0, 4, 5, 6, 7, 2, 1, 1]]
    with pytest.raises(ValueError, match=message):
        rows.gather(np.array([0]))


def test_rows_that_do_not_exist_are_refused() -> None:
    for row in (-1, 1):
        with pytest.raises(ValueError, match=r"there are 0\.\.0"):
            broken().gather(np.array([row]))


@pytest.mark.parametrize(("ranks", "micro"), [(3, 1), (2, 3), (1, 16)])
def test_a_cut_that_does_not_divide_the_global_batch_is_refused(ranks: int, micro: int) -> None:
    with pytest.raises(
        ValueError, match=f"world size {ranks} × micro-batch {micro} = {ranks * micro} does not divide the global batch of 8"
    ):
        list(feed().micro_batches(0, 0, ranks, micro))


def test_other_impossible_requests_are_refused() -> None:
    rows = {"sw": broken()}
    objective = MaskedLanguageModel()
    with pytest.raises(ValueError, match="rank is 2 of 2"):
        list(feed().micro_batches(0, 2, 2, 1))
    with pytest.raises(ValueError, match="step is -1"):
        list(feed().micro_batches(-1, 0, 2, 1))
    with pytest.raises(ValueError, match="1 rows of sw, the mixture was made for 2"):
        Feed(rows, Mixture.by_alpha({"sw": 2}, 1, 0), objective, VOCAB, 0, 1)
    with pytest.raises(ValueError, match=r"lengths \[8, 9\]"):
        Feed({"en": broken(length=9), **rows}, Mixture.by_alpha({"sw": 1, "en": 1}, 1, 0), objective, VOCAB, 0, 1)
    with pytest.raises(ValueError, match=r"a row holds id 7; the vocabulary has ids 0\.\.6 and <mask> 7"):
        list(Feed(rows, Mixture.by_alpha({"sw": 1}, 1, 0), objective, 8, 0, 1).micro_batches(0, 0, 1, 1))
    with pytest.raises(ValueError, match="no row to evaluate on"):
        list(held_out_batches({}, vocab_size=VOCAB, rank=0, world_size=1, micro_batch=1))
