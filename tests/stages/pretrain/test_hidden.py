"""What the choice of hidden tokens takes from vocabulary and text: word beginnings, frequencies, one table on all ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.storage import Storage
from pipeline.text.tokenizer import Tokenizer, train
from pipeline.text.words import count_words
from pipeline.training.batches import Feed
from pipeline.training.engine import Alone
from pipeline.training.kernels import log2
from pipeline.training.objectives.choices import ByFrequency, Spans, log_table
from stages.pretrain.feeds import feed_of
from stages.pretrain.heldout import token_counts
from stages.pretrain.hidden import choice_of, frequencies, word_begins
from tests.training.harness import RankGang, run_gang
from tests.training.pairs import config, pairs, texts
from tests.training.test_batches import CUTS, VOCAB, by_sample


def counted() -> np.ndarray[Any, Any]:
    """Ids of the training rows, one at a time."""
    counts = np.zeros(VOCAB, np.int64)
    for rows in texts().values():
        for shard, start, length in zip(rows.span_shard, rows.span_start, rows.span_length, strict=True):
            for token in rows.shards[shard][int(start) : int(start + length)].tolist():
                counts[token] += 1
    return counts


def test_words_begin_at_pieces_that_stand_behind_a_space() -> None:
    lines = ["the house on the hill", "a house by the sea and the hill"] * 20
    model = train(count_words(lines), size=285)
    tokenizer = Tokenizer(model)
    begins = word_begins(model, 285)
    for line in lines[:2]:
        ids = next(iter(tokenizer.encode([line]))).tolist()
        assert sum(begins[ids]) == len(line.split()) and begins[ids[0]]
    assert not begins[[0, 1, 2, 3, 284]].any()


def test_frequencies_are_counted_once_and_kept(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    found = frequencies(storage, "work/frequencies.json", texts(), VOCAB, Alone())
    assert found.tolist() == counted().tolist()
    assert frequencies(storage, "work/frequencies.json", {}, VOCAB, Alone()).tolist() == found.tolist()


def test_tokens_of_another_vocabulary_are_refused() -> None:
    for changes in ({"vocab_size": 600}, {"span_length": texts()["en"].span_length + np.uint32(10**6)}):
        rows = dataclasses.replace(texts()["en"], **{name: value for name, value in changes.items() if name != "vocab_size"})
        with pytest.raises(ValueError, match="do not belong together"):
            token_counts(rows, changes.get("vocab_size", VOCAB))


def told(gang: RankGang, root: str) -> list[int]:
    """What a rank learns where only rank 0 has the text."""
    return frequencies(Storage(root), "work/frequencies.json", texts() if gang.rank == 0 else {}, VOCAB, gang).tolist()


@pytest.mark.slow
def test_rank_0_tells_the_frequencies_to_the_others(tmp_path: Path) -> None:
    assert (
        run_gang("tests.stages.pretrain.test_hidden:told", 2, {"root": str(tmp_path / "root")}, tmp_path / "gang")
        == [counted().tolist()] * 2
    )


def test_the_settings_choose() -> None:
    assert choice_of(config(), b"", VOCAB, counted) is None
    assert isinstance(choice_of(config(masking="span"), b"", VOCAB, counted), Spans)
    halved = choice_of(config(masking="frequency"), b"", VOCAB, counted)
    whole = choice_of(config(masking="frequency", frequency_alpha=1.0), b"", VOCAB, counted)
    assert isinstance(halved, ByFrequency) and isinstance(whole, ByFrequency)
    assert whole.cost_V.tolist() == log2(np.maximum(counted(), 1).astype(np.uint64), log_table()).tolist()
    assert halved.cost_V.tolist() == (whole.cost_V // 2).tolist()


@pytest.mark.parametrize("name", ["mlm", "tlm"])
def test_what_is_hidden_is_the_same_in_every_cut_and_not_what_is_hidden_without(name: str) -> None:
    given = config(objectives={name: 1.0}, phases=[], masking="span")
    feed, plain = (feed_of(given, texts(), VOCAB, 5, pairs(), choice).feeds[0] for choice in (choice_of(given, b"", VOCAB, counted), None))
    assert isinstance(feed, Feed) and isinstance(plain, Feed)
    found = [by_sample([batch for rank in range(ranks) for batch in feed.micro_batches(3, rank, ranks, micro)]) for ranks, micro, _ in CUTS]
    assert all(other == found[0] for other in found[1:])
    without = by_sample(list(plain.micro_batches(3, 0, 1, 8)))
    assert without != found[0] and [len(row[3]) for row in without.values()] == [len(row[3]) for row in found[0].values()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frequency_alpha": 0.5}, "frequency_alpha has no effect where masking is tokens"),
        ({"masking": "span", "objectives": {"clm": 1.0}, "phases": []}, "masking: span has no effect on clm; mlm and tlm hide tokens"),
        ({"masking": "word"}, "'tokens', 'whole_word', 'span' or 'frequency'"),
        ({"masking": "frequency", "frequency_alpha": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_do_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**changes)
