"""Next-sentence prediction: examples against the rows they are cut from, the head against the library's, and what is saved and exported."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.model.export import restore_weights, without_heads
from pipeline.training.loop import tensors_of
from pipeline.training.objectives.next_sentence import NextFeed, example, longest_span, next_loss, next_nats
from pipeline.training.packed_rows import PackedRows
from stages.pretrain.heldout import held_out_next
from tests.training.pairs import LENGTH, feed, module, texts, with_heads
from tests.training.test_batches import VOCAB


def packed(*rows: list[list[int]]) -> PackedRows:
    """Rows of spans in one shard."""
    spans = [span for row in rows for span in row]
    starts = np.cumsum([0, *(len(span) for span in spans)])[:-1].astype(np.uint64)
    flat = np.array([token for span in spans for token in span], np.uint16)
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int32)
    return PackedRows((flat,), offsets, np.zeros(len(spans), np.uint32), starts, np.array([len(span) for span in spans], np.uint32), 12)


ROWS = packed([[4, 5], [6, 7, 8, 9, 10]], [[20, 21, 22, 23]], [[30]])


def next_feed(**changes: object) -> NextFeed:
    (found,) = feed(objectives={"nsp": 1.0}, phases=[], **changes).feeds
    assert isinstance(found, NextFeed)
    return found


def fields(batch: object) -> dict[str, torch.Tensor]:
    made = tensors_of(batch, torch.device("cpu"))
    return made | {"is_full": made["attention_BT"].all()}


def test_an_example_is_the_longest_span_cut_in_its_middle_or_with_the_end_of_another_row() -> None:
    assert longest_span(ROWS, 0).tolist() == [6, 7, 8, 9, 10]
    assert [(ids.tolist(), label) for ids, label in (example(ROWS, 0, 1), example(ROWS, 0, 0), example(ROWS, 0, 2))] == [
        ([0, 6, 7, 8, 2, 9, 10, 2], 1),
        ([0, 6, 7, 8, 2, 22, 23, 2], 0),  # the next row
        ([0, 6, 7, 8, 2, 30, 2], 0),  # the one behind it
    ]
    assert example(ROWS, 2, 1)[1] == 0, "one token has no continuation"
    assert example(packed([[6, 7]]), 0, 0)[1] == 1, "there is no other row"


def test_what_does_not_fit_is_cut_from_the_second_segment() -> None:
    long = packed([list(range(4, 14))], [list(range(20, 30))])  # 10 tokens and two special ones fill a row, three do not fit
    ids, label = example(long, 0, 1)
    assert label == 1 and ids.tolist() == [0, 4, 5, 6, 7, 8, 2, 9, 10, 11, 12, 2] and len(ids) == long.length


def test_examples_are_the_same_in_any_cut_and_half_of_them_go_on() -> None:
    one = next_feed(global_batch=8)
    whole = {int(g): (tuple(ids[ids != 1]), int(label)) for step in range(60) for batch in one.micro_batches(step, 0, 1, 8)
             for g, ids, label in zip(batch.samples_B, batch.input_ids_BT, batch.next_B, strict=True)}  # fmt: skip
    parts = {int(g): (tuple(ids[ids != 1]), int(label)) for step in range(60) for rank in range(2) for batch in one.micro_batches(step, rank, 2, 2)
             for g, ids, label in zip(batch.samples_B, batch.input_ids_BT, batch.next_B, strict=True)}  # fmt: skip
    assert whole == parts and len(whole) == 480
    assert 0.4 < sum(label for _, label in whole.values()) / 480 < 0.6
    assert all(len(ids) <= LENGTH for ids, _ in whole.values())


def test_nats_and_gradients_are_those_of_the_librarys_hidden_states_under_the_head() -> None:
    (batch,) = next_feed().micro_batches(0, 0, 1, 8)
    ours, theirs = with_heads(), with_heads()
    loss = next_loss(ours, fields(batch))
    loss.backward()
    hidden = theirs.trained.model.roberta(
        torch.from_numpy(batch.input_ids_BT), attention_mask=torch.from_numpy(batch.attention_BT), position_ids=torch.from_numpy(batch.positions_BT)
    ).last_hidden_state[:, 0]  # fmt: skip
    head = theirs.next_sentence
    expected = functional.cross_entropy(head.out(torch.tanh(head.dense(hidden))), torch.from_numpy(batch.next_B), reduction="sum")
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    there = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        other = there[name].grad
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter) if other is None else other, rtol=1e-4, atol=1e-6, msg=name)


def test_held_out_rows_are_each_measured_once_whatever_the_ranks_and_a_guess_costs_ln_2() -> None:
    held, trained = texts(), with_heads().eval()
    with torch.no_grad():
        trained.next_sentence.out.weight.zero_()
    found = held_out_next(trained, held, 0, 1)
    assert {lang: count for lang, (_, count) in found.items()} == {lang: len(rows) for lang, rows in held.items()}
    assert all(nats / count == pytest.approx(math.log(2)) for nats, count in found.values())


def test_an_exported_model_has_no_head() -> None:
    trained, fresh = with_heads(), module()
    with torch.no_grad():
        trained.trained.model.lm_head.dense.weight.fill_(0.5)
    weights = {name: parameter.detach() for name, parameter in trained.named_parameters()}
    restore_weights(fresh, without_heads(weights))
    assert torch.equal(fresh.model.lm_head.dense.weight, torch.full_like(fresh.model.lm_head.dense.weight, 0.5))
    plain = {name: parameter.detach() for name, parameter in fresh.named_parameters()}
    assert without_heads(plain).keys() == plain.keys()


def test_nats_of_each_example_are_told_apart() -> None:
    (batch,) = next_feed().micro_batches(1, 0, 1, 8)
    nats = next_nats(with_heads(), fields(batch))
    assert nats.shape == (8,) and batch.input_ids_BT.max() < VOCAB
