"""TLM: sides in both orders, positions that restart, and masks as in MLM, against rows written by hand."""

from __future__ import annotations

import numpy as np

from pipeline.training.objectives.masked import mask
from pipeline.training.packed_rows import PackedRows
from tests.training.pairs import pair_packing, token_feed
from tests.training.test_batches import VOCAB


def by_hand(rows: PackedRows, row: int) -> list[list[list[int]]]:
    """The pairs of a row as packed, each side with its `</s>`."""
    spans = [
        [*rows.shards[0][int(rows.span_start[s]) : int(rows.span_start[s]) + int(rows.span_length[s])].tolist(), 2]
        for s in range(rows.row_offsets[row], rows.row_offsets[row + 1])
    ]
    return [spans[k : k + 2] for k in range(0, len(spans), 2)]


def test_each_pair_comes_whole_in_either_order_with_positions_anew_at_each_side() -> None:
    feed = token_feed("tlm")
    turned = straight = several = 0
    for step in range(12):
        for batch in feed.micro_batches(step, 0, 1, 8):
            plan = feed.mixture.samples(step * 8, step * 8 + 8)
            true_BT = batch.input_ids_BT.copy()
            used = batch.weights_M > 0
            true_BT.reshape(-1)[batch.masked_index_M[used]] = batch.labels_M[used]
            for b in range(8):
                sides = by_hand(feed.rows[feed.mixture.languages[plan.language_N[b]]], int(plan.row_N[b]))
                several += len(sides) > 1
                at, positions, segments = 1, [2], [0]
                assert true_BT[b, 0] == 0
                for number, (first, second) in enumerate(sides):
                    size = len(first) + len(second)
                    here = true_BT[b, at : at + size].tolist()
                    assert here in (first + second, second + first)
                    turned += here != first + second
                    straight += here == first + second
                    lengths = [len(first), len(second)] if here == first + second else [len(second), len(first)]
                    for length in lengths:
                        begin = 3 if at == 1 and len(positions) == 1 else 2
                        positions += range(begin, begin + length)
                    segments += [number] * size
                    at += size
                assert batch.positions_BT[b].tolist() == positions + [1] * (batch.positions_BT.shape[1] - at)
                assert batch.segments_BT[b, :at].tolist() == segments, "both sides of a pair are one text"
                assert batch.attention_BT[b].sum() == at
    assert several and turned > 30 and straight > 30 and abs(turned - straight) < 0.3 * (turned + straight)


def test_masks_are_those_of_mlm_on_the_rows_as_turned_and_the_weight_is_known_before() -> None:
    feed = token_feed("tlm")
    (batch,) = feed.micro_batches(2, 0, 1, 8)
    used = batch.weights_M > 0
    true_BT = batch.input_ids_BT.copy()
    true_BT.reshape(-1)[batch.masked_index_M[used]] = batch.labels_M[used]
    again = mask(true_BT, batch.attention_BT.sum(axis=1), batch.samples_B, seed=feed.seed, vocab_size=VOCAB)
    assert np.array_equal(again.input_ids_BT, batch.input_ids_BT) and np.array_equal(again.masked_index_M, batch.masked_index_M)
    assert feed.weight(2) == batch.weights_M.sum()


def test_the_order_of_a_row_depends_on_its_sample_alone() -> None:
    feed = token_feed("tlm")
    (whole,) = feed.micro_batches(1, 0, 1, 8)
    parts = [batch for rank in range(4) for batch in feed.micro_batches(1, rank, 4, 1)]
    for b, part in enumerate(parts):
        width = part.input_ids_BT.shape[1]
        assert np.array_equal(part.input_ids_BT[0], whole.input_ids_BT[b, :width])
    assert len(pair_packing(3)[0].row_offsets) > 3
