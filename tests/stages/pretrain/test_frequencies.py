"""The output bias starts where a unigram of the mixture is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.model.build import build_masked_lm
from stages.pretrain import frequencies
from tests.training.cases import SIZE
from tests.training.pairs import texts
from tests.training.test_batches import VOCAB


def test_ids_are_as_frequent_as_their_languages_shares_say() -> None:
    rows = texts()
    found = frequencies.log_frequencies(rows, {"en": 3000, "sw": 1000, "en-sw": 9999}, VOCAB)
    assert np.exp(found).sum() == pytest.approx(1.0)
    expected = np.zeros(VOCAB)
    for lang, planned in (("en", 3000), ("sw", 1000)):
        packed = rows[lang]
        tokens = [
            int(t) for shard, start, length in zip(packed.span_shard, packed.span_start, packed.span_length, strict=True)
            for t in packed.shards[shard][int(start) : int(start) + int(length)]
        ]  # fmt: skip
        for token in tokens:
            expected[token] += planned / len(tokens)
    for token in range(VOCAB):
        assert found[token] == pytest.approx(math.log((expected[token] + 1) / (4000 + VOCAB)))


def test_a_long_language_is_counted_by_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = texts()
    monkeypatch.setattr(frequencies, "MOST", 1)
    first = rows["en"].shards[rows["en"].span_shard[0]][int(rows["en"].span_start[0]) :][: int(rows["en"].span_length[0])]
    found = frequencies.log_frequencies({"en": rows["en"]}, {"en": 1000}, VOCAB)
    assert {t for t in range(VOCAB) if found[t] > -math.log(1000 + VOCAB) + 1e-9} == {int(t) for t in first}


def test_a_new_model_predicts_the_unigram_before_it_has_learnt_anything() -> None:
    model = build_masked_lm(SIZE, VOCAB, seed=1, dropout=0.0, max_length=24).eval()
    frequencies.begin_with(model, np.log(np.arange(1, VOCAB + 1) / np.arange(1, VOCAB + 1).sum()))
    ids = torch.tensor([[0, 5, 9, 2]])
    with torch.no_grad():
        found = torch.softmax(model(input_ids=ids).logits[0, 1], -1)
    assert found.argmax() > VOCAB * 0.8 and found[-1] / found[4] == pytest.approx(VOCAB / 5, rel=0.3)
    bare = build_masked_lm(SIZE.__class__(2, 16, 2, 24, 514, None), VOCAB, seed=1, dropout=0.0, max_length=24, architecture="eurobert")
    frequencies.begin_with(bare, np.zeros(VOCAB))  # it has no bias, and none is made
    assert bare.get_output_embeddings().bias is None


def test_the_head_of_a_language_is_whole_spans_up_to_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = texts()["en"]
    ends = np.cumsum(rows.span_length, dtype=np.int64)
    for most in (int(ends[0]), int(ends[0]) + 1, int(ends[2]), int(ends[-1]) + 5):
        monkeypatch.setattr(frequencies, "MOST", most)
        assert frequencies._counts(rows, VOCAB).sum() == ends[min(int((ends < most).sum()), len(ends) - 1)]
