"""Contrast: against a slow loop over pairs, and against the gradient through the whole batch at once."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.training.batches import attention_and_positions
from pipeline.training.loop import tensors_of
from pipeline.training.objectives.contrast import (
    PairBatch,
    PairFeed,
    contrast_loss,
    contrasted,
    digests,
    info_nce,
    shared_sides,
    sides_of,
    vectors_of,
)  # fmt: skip
from stages.pretrain.heldout import GROUP, contrast_baseline, contrast_groups, held_out_contrast
from tests.training.pairs import feed, module, pair_packing
from tests.training.test_batches import VOCAB


class One:
    """An engine of one rank."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        return values.clone()


def pair_feed(**changes: Any) -> PairFeed:
    (found,) = feed(objectives={"contrast": 1.0}, phases=[], **changes).feeds
    assert isinstance(found, PairFeed)
    return found


def fields(batch: PairBatch, number: int = 0) -> dict[str, torch.Tensor]:
    flags = {"is_full": torch.tensor(bool(batch.attention_BT.all())), "on_embeddings": torch.tensor(batch.on_embeddings)}
    return tensors_of(batch, torch.device("cpu")) | flags


def slow_nats(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], sides: list[tuple[Any, Any]], temperature: float) -> list[float]:
    def one(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], i: int) -> float:
        scores = {
            j: float(a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j]) / temperature)
            for j in range(len(b))
            if j == i or (sides[j][0] != sides[i][0] and sides[j][1] != sides[i][1])
        }
        return math.log(sum(math.exp(s) for s in scores.values())) - scores[i]

    return [(one(first, second, i) + one(second, first, i)) / 2 for i in range(len(first))]


def test_nats_are_those_of_a_loop_over_pairs_and_pairs_that_share_a_side_are_no_negatives() -> None:
    vectors = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
    sides = [("a", "A"), ("b", "B"), ("c", "C"), ("b", "B"), ("d", "C"), ("b", "E")]
    digest = torch.tensor([hash(side[number]) for number in (0, 1) for side in sides])
    found = info_nce(vectors, shared_sides(digest), 0.2)
    assert found.tolist() == pytest.approx(slow_nats(vectors[0].double().numpy(), vectors[1].double().numpy(), sides, 0.2), rel=1e-5)


def test_digests_are_of_the_tokens_in_their_order_and_not_of_the_padding() -> None:
    rows = np.array([[0, 5, 6, 2, 1], [0, 6, 5, 2, 1], [0, 5, 6, 2, 1], [0, 5, 6, 7, 2]])
    first, turned, again, longer = digests(rows).tolist()
    assert first == again and len({first, turned, longer}) == 3
    assert digests(rows[:3, :4]).tolist() == [first, turned, again]


def test_each_side_is_a_row_of_its_own_and_the_feed_goes_through_all_pairs() -> None:
    rows, pairs = pair_packing(3)
    sides = sides_of(rows)
    ids, lengths, _ = sides.gather(np.arange(len(sides)))
    assert [row[: int(n)].tolist() for row, n in zip(ids, lengths, strict=True)] == [[0, *side, 2] for pair in pairs for side in pair]
    one = pair_feed(alpha=1.0)
    seen = [
        pair for step in range(27) for batch in one.micro_batches(step, 0, 1, 8) for pair in zip(*batch.digest_B.reshape(2, 8).tolist(), strict=True)
    ]  # fmt: skip
    assert len(set(seen)) == 27 and {seen.count(pair) for pair in set(seen)} == {8}


@pytest.mark.parametrize("on", ["encoder", "embeddings"])
def test_loss_and_gradient_in_parts_are_those_of_the_whole_batch_at_once(on: str) -> None:
    one = pair_feed(contrast_on=on)
    reference, ours = module(), module()
    (whole,) = one.micro_batches(0, 0, 1, 8)
    vectors = vectors_of(reference, fields(whole)).view(2, 8, -1)
    # The library's own forward, where the encoder is pooled.
    if on == "encoder":
        hidden = reference.model.roberta(
            torch.from_numpy(whole.input_ids_BT),
            attention_mask=torch.from_numpy(whole.attention_BT),
            position_ids=torch.from_numpy(whole.positions_BT),
        ).last_hidden_state
    else:
        hidden = reference.model.roberta.embeddings.word_embeddings(torch.from_numpy(whole.input_ids_BT))
    words = torch.from_numpy(whole.attention_BT & (whole.input_ids_BT > 2))
    mean = torch.stack([hidden[b][words[b]].mean(0) for b in range(16)])
    torch.testing.assert_close(vectors.flatten(0, 1), mean, rtol=1e-5, atol=1e-6)
    expected = info_nce(mean.view(2, 8, -1), shared_sides(torch.from_numpy(whole.digest_B)), 0.05).sum()
    expected.backward()
    total = 0.0
    for batch in contrasted(one.micro_batches(0, 0, 1, 2), One(ours), fields):
        loss = contrast_loss(ours, fields(batch))
        loss.backward()
        total += float(loss.detach())
    assert total == pytest.approx(float(expected.detach()), rel=1e-5)
    there = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        other = there[name].grad
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter) if other is None else other, rtol=1e-4, atol=1e-5, msg=name)
    assert (ours.model.lm_head.dense.weight.grad == 0).all()
    if on == "embeddings":
        assert all((p.grad == 0).all() for p in ours.model.roberta.encoder.parameters())


def test_batches_of_other_objectives_go_through_untouched_one_at_a_time() -> None:
    taken: list[int] = []

    def source() -> Any:
        for number in range(3):
            taken.append(number)
            yield number

    through = contrasted(source(), One(None), fields)
    assert next(through) == 0 and taken == [0]
    assert list(through) == [1, 2]


def test_pooling_of_something_else_is_refused() -> None:
    (whole,) = pair_feed().micro_batches(0, 0, 1, 8)
    attention, positions = attention_and_positions(np.array([3]), 4)
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ConfigError, match="contrast: on is 'head'; allowed: encoder, embeddings"):
        module()(
            torch.ones(1, 4, dtype=torch.int64),
            torch.from_numpy(attention),
            torch.from_numpy(positions),
            none,
            none,
            none.float(),
            pool="head",
        )
    assert whole.temperature == 0.05


def test_held_out_pairs_are_each_measured_once_in_groups_whatever_the_ranks() -> None:
    held = {"en-sw": pair_packing(8, 2 * GROUP + 1)[0], "en-zh": pair_packing(9, 5)[0]}
    assert contrast_groups(held) == [(0, 0, GROUP), (0, GROUP, 2 * GROUP), (1, 0, 5)], "a pair without others has nothing to be told from"
    assert contrast_baseline(held, VOCAB) == pytest.approx({"en-sw": math.log(GROUP), "en-zh": math.log(5)})
    model = module().eval()
    found = held_out_contrast(model, held, VOCAB, 0, 1, temperature=0.05, on_embeddings=False)
    assert {lang: count for lang, (_, count) in found.items()} == {"en-sw": 2 * GROUP, "en-zh": 5}
    sides = sides_of(held["en-zh"])
    ids, lengths, _ = sides.gather(np.arange(10))
    attention, positions = attention_and_positions(lengths, ids.shape[1])
    hidden = model.model.roberta(
        torch.from_numpy(ids), attention_mask=torch.from_numpy(attention), position_ids=torch.from_numpy(positions)
    ).last_hidden_state.detach()
    mean = np.stack([hidden[b][1 : int(lengths[b]) - 1].mean(0).double().numpy() for b in range(10)])
    assert found["en-zh"][0] == pytest.approx(sum(slow_nats(mean[::2], mean[1::2], [(i, i) for i in range(5)], 0.05)), rel=1e-4)
    twice = dataclasses.replace(held["en-zh"], span_start=held["en-zh"].span_start.copy(), span_length=held["en-zh"].span_length.copy())
    twice.span_start[3], twice.span_length[3] = twice.span_start[1], twice.span_length[1]  # the second pair's other side is the first's
    assert contrast_baseline({"en-zh": twice}, VOCAB)["en-zh"] == pytest.approx((2 * math.log(4) + 3 * math.log(5)) / 5)
