"""What is planned is what is read: rows, tokens, masks and shares, whatever the ranks, the cut, the phase and the resume."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.training.batches import Feed, MicroBatch
from pipeline.training.mixture import Mixture
from pipeline.training.objectives.masked import MaskedLanguageModel
from pipeline.training.packed_rows import PackedRows
from pipeline.training.phases import Phased
from stages.pretrain import Config
from stages.pretrain.feeds import block_of, feed_of, planned_tokens
from tests.training.test_batches import VOCAB, packing

ROWS = {language: packing(seed, documents)[0] for language, seed, documents in (("sw", 1, 8), ("en", 2, 60), ("zh-Hant", 3, 20))}
CUTS = [(1, 8, 1), (2, 4, 1), (2, 2, 2), (4, 2, 1), (8, 1, 1)]
"""(ranks, micro-batch, accumulation) of a global batch of 8."""


def originals(batch: MicroBatch) -> list[tuple[int, int, tuple[int, ...]]]:
    """(sample, language, ids before masking) of each row."""
    ids = batch.input_ids_BT.copy()
    used = batch.weights_M > 0
    ids.reshape(-1)[batch.masked_index_M[used]] = batch.labels_M[used]
    return [
        (int(s), int(lang), tuple(row[own].tolist()))
        for s, lang, row, own in zip(batch.samples_B, batch.languages_B, ids, batch.attention_BT, strict=True)
    ]


def read(feed: Feed | Phased, steps: range, ranks: int, micro: int) -> list[tuple[int, int, tuple[int, ...]]]:
    return [
        row for step in steps for rank in range(ranks) for batch in feed.micro_batches(step, rank, ranks, micro) for row in originals(batch)
    ]


@given(
    ranks=st.integers(1, 8), micro=st.integers(1, 4), accumulation=st.integers(1, 3), first=st.integers(0, 10**9), steps=st.integers(1, 6),
    alpha=st.sampled_from([0, 0.3, 0.7, 1]), seed=st.integers(0, 2**40),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_over_any_window_of_the_plan_each_planned_row_is_read_exactly_once(
    ranks: int, micro: int, accumulation: int, first: int, steps: int, alpha: float, seed: int
) -> None:
    size = ranks * micro * accumulation
    mixture = Mixture.by_alpha({language: len(rows) for language, rows in ROWS.items()}, alpha, seed, block=64)
    feed = Feed(ROWS, mixture, MaskedLanguageModel(), VOCAB, seed, size)
    found = read(feed, range(first, first + steps), ranks, micro)
    plan = mixture.samples(first * size, (first + steps) * size)
    assert sorted(sample for sample, _, _ in found) == list(range(first * size, (first + steps) * size))
    for sample, language, ids in found:
        at = sample - first * size
        rows = ROWS[mixture.languages[plan.language_N[at]]]
        planned, lengths, _ = rows.gather(plan.row_N[at : at + 1])
        assert language == plan.language_N[at]
        assert ids == tuple(planned[0, : lengths[0]].tolist())


@pytest.mark.parametrize("ranks", range(1, 9))
def test_at_equal_weights_an_epoch_reads_every_token_once(ranks: int) -> None:
    mixture = Mixture.by_alpha({language: len(rows) for language, rows in ROWS.items()}, 1, seed=ranks)
    feed = Feed(ROWS, mixture, MaskedLanguageModel(), VOCAB, 0, global_batch=ranks)
    epoch = sum(map(len, ROWS.values()))
    seen: dict[int, Counter[int]] = {number: Counter() for number in range(len(ROWS))}
    for sample, language, ids in read(feed, range(-(-epoch // ranks)), ranks, 1):
        if sample < epoch:  # the last step may go on into the next epoch
            seen[language].update(token for token in ids if token > 2)
    for number, language in enumerate(mixture.languages):
        assert seen[number] == Counter(token for shard in ROWS[language].shards for token in shard.tolist())


def config(**changes: object) -> Config:
    return Config.model_validate_json(json.dumps({"model": "tiny", "steps": 40, "global_batch": 8, **changes}))


PHASES = [{"share": 0.5, "alpha": 0.7, "mask_rate": 0.3}, {"share": 0.3, "alpha": 0.5}, {"share": 0.2, "alpha": 0.3, "mask_rate": 0.05}]


@given(step=st.integers(0, 39), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_new_process_at_any_step_and_cut_gets_the_rows_and_masks_of_an_uninterrupted_run(step: int, data: st.DataObject) -> None:
    ranks, micro, _ = data.draw(st.sampled_from(CUTS))
    straight = feed_of(config(phases=PHASES), ROWS, VOCAB, 11)
    for before in range(max(0, step - 2), step):
        list(straight.micro_batches(before, 0, 1, 8))
    (whole,) = straight.micro_batches(step, 0, 1, 8)
    resumed = feed_of(config(phases=PHASES), ROWS, VOCAB, 11)
    parts = [batch for rank in range(ranks) for batch in resumed.micro_batches(step, rank, ranks, micro)]
    assert resumed.weight(step) == straight.weight(step) == whole.weights_M.sum()
    places = max(batch.input_ids_BT.shape[1] for batch in parts)
    assert places == whole.input_ids_BT.shape[1]
    row = 0
    for part in parts:
        for b in range(len(part.samples_B)):
            width = part.input_ids_BT.shape[1]
            for name, padding in (("input_ids_BT", 1), ("positions_BT", 1), ("segments_BT", -1), ("attention_BT", False)):
                other = getattr(whole, name)[row]
                assert np.array_equal(getattr(part, name)[b], other[:width]), name
                assert (other[width:] == padding).all(), name
            assert part.samples_B[b] == whole.samples_B[row]
            row += 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"phases": PHASES},
        {"sampling": "unimax", "max_epochs": 8.0},
        {"sampling": "weights", "language_weights": {"sw": 1.0, "en": 2.0, "zh-Hant": 0.5}},
        {"groups": {"small": {"languages": ["sw", "zh-Hant"], "share": 0.8}}},
    ],
    ids=["alpha", "phases", "unimax", "weights", "groups"],
)
def test_the_realised_mixture_is_within_one_percent_of_the_plan(changes: dict[str, object]) -> None:
    feed = feed_of(config(steps=3000, global_batch=32, **changes), ROWS, VOCAB, 5)
    realised = np.zeros(len(ROWS), np.int64)
    for number, (part, start) in enumerate(zip(feed.feeds, feed.starts, strict=True)):
        steps = [*feed.starts[1:], 3000][number] - start
        plan = part.mixture.samples(0, steps * 32)
        for language in range(len(ROWS)):
            rows = part.rows[part.mixture.languages[language]]
            realised[language] += rows.row_lengths(plan.row_N[plan.language_N == language]).sum()
    planned = np.array(list(planned_tokens(feed, 3000).values()))
    assert (np.abs(realised / realised.sum() - planned / planned.sum()) <= 0.01 * planned / planned.sum()).all()
    assert (np.abs(realised - planned) <= 0.01 * planned).all()


@given(budget=st.integers(1, 10**7), languages=st.integers(1, 200))
def test_blocks_end_with_the_phase(budget: int, languages: int) -> None:
    block = block_of(budget, languages)
    assert languages <= block <= max(languages, 65_536)
    if block > languages:
        assert -budget % block < -(-budget // block)  # less than a sample a block is missing at the end


def test_groups_have_their_shares_and_languages_in_none_the_rest() -> None:
    feed = feed_of(config(steps=1000, groups={"one": {"languages": ["sw"], "share": 0.25}}, alpha=1.0), ROWS, VOCAB, 5)
    slots = feed.feeds[0].mixture.slots
    total = sum(slots.values())
    assert abs(slots["sw"] - 0.25 * total) <= 1
    assert abs(slots["en"] / slots["zh-Hant"] - len(ROWS["en"]) / len(ROWS["zh-Hant"])) < 0.01


def test_groups_that_leave_nothing_for_a_language_or_name_one_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"groups: the shares sum to 1 and sw is in no group"):
        feed_of(config(groups={"all": {"languages": ["en", "zh-Hant"], "share": 1.0}}), ROWS, VOCAB, 5)
    with pytest.raises(ValueError, match="en stands in groups twice"):
        config(groups={"a": {"languages": ["en"], "share": 0.1}, "b": {"languages": ["en"], "share": 0.1}})
    with pytest.raises(ValueError, match=r"sum to 1\.2"):
        config(groups={"a": {"languages": ["en"], "share": 0.6}, "b": {"languages": ["sw"], "share": 0.6}})


def test_documents_can_be_kept_apart_and_their_positions_begun_anew() -> None:
    feed = dataclasses.replace(feed_of(config(), ROWS, VOCAB, 5).feeds[0], within_documents=True)
    (batch,) = feed.micro_batches(0, 0, 1, 8)
    borders = 0
    for segments, positions, attention in zip(batch.segments_BT, batch.positions_BT, batch.attention_BT, strict=True):
        for number in range(segments.max() + 1):
            own = positions[segments == number]
            assert own.tolist() == list(range(2, 2 + len(own)))
            borders += number > 0
        assert np.array_equal(segments >= 0, attention)
    assert borders, "no row crosses documents: the test would not see borders"


def test_the_sides_of_a_pair_are_one_text_with_positions_of_their_own() -> None:
    shard = np.arange(4, 24, dtype=np.uint16)
    rows = PackedRows(
        (shard,), np.array([0, 4]), np.zeros(4, np.uint32), np.array([0, 3, 5, 9], np.uint64), np.array([3, 2, 4, 1], np.uint32), 16, spans_a_text=2
    )  # fmt: skip
    feed = Feed({"en-sw": rows}, Mixture.by_alpha({"en-sw": 1}, 1, 0), MaskedLanguageModel(), 700, 0, 1, within_documents=True)
    (batch,) = feed.micro_batches(0, 0, 1, 1)
    assert batch.segments_BT[0].tolist() == [0] * 8 + [1] * 7 + [-1]
    assert batch.positions_BT[0].tolist() == [2, 3, 4, 5, 6, 2, 3, 4, 2, 3, 4, 5, 6, 2, 3, 1]
