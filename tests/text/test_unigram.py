"""Unigram vocabularies: from a sample that hangs on nothing but the words, the same ids on both sides; and tokens of languages."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import StageError
from pipeline.text.normalise import normalise
from pipeline.text.tokenizer import Tokenizer, Words, language_token, train_words
from pipeline.text.tokenizer_export import export_huggingface, verify_export
from pipeline.text.unigram import sampled_lines, train_unigram
from pipeline.text.words import count_words
from tests.text.test_tokenizer import HORRIBLE, TEXTS


def words_of(counts: dict[str, int], *cuts: int) -> Words:
    """The words as columns, in parts that end at the cuts."""
    pairs = list(counts.items())
    parts = [pairs[first:last] for first, last in zip([0, *cuts], [*cuts, len(pairs)], strict=True)]
    columns = [
        (pa.array([word for word, _ in part], pa.large_string()), np.array([count for _, count in part], np.int64)) for part in parts
    ]
    return lambda: columns


def counts() -> dict[str, int]:
    source = random.Random(1)
    return {word: count * source.randint(1, 30) for word, count in count_words(TEXTS).items()}


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_a_unigram_vocabulary_gives_the_same_ids_in_hugging_face_and_text_comes_back(tmp_path: Path, byte_fallback: bool) -> None:
    model = train_unigram(words_of(counts()), size=480 if byte_fallback else 220, draws=20_000, seed=1, byte_fallback=byte_fallback)
    tokenizer = Tokenizer(model)
    assert tokenizer.kind == "unigram" and bool(tokenizer.byte_ids) == byte_fallback
    export_huggingface(model, tmp_path, max_length=128)
    lines = [*TEXTS, *HORRIBLE, *map(normalise, HORRIBLE)]
    assert verify_export(model, tmp_path, lines) == len(lines)
    assert not byte_fallback or [tokenizer.decode(ids) for ids in tokenizer.encode(TEXTS)] == TEXTS
    assert all(score * 1024 == round(score * 1024) for score in tokenizer.scores())


def test_the_sample_hangs_on_neither_order_nor_parts_and_holds_the_counts() -> None:
    given = counts()
    total = sum(given.values())
    lines = sampled_lines(words_of(given), total, 5_000, seed=1)
    shuffled = dict(sorted(given.items(), key=lambda item: hash(item[0]) % 97))
    assert sampled_lines(words_of(shuffled, 3, 3, 40), total, 5_000, seed=1) == lines
    assert sampled_lines(words_of(given), total, 5_000, seed=2) != lines
    drawn = sum(line.count("▁") or 1 for line in lines)
    assert abs(drawn - 5_000) < 100
    word, count = max(given.items(), key=lambda item: item[1])
    held = sum(
        line.count(word) for line in lines if line.strip("▁").startswith(word.strip("▁")) and set(line.split("▁")) <= {"", word.strip("▁")}
    )
    assert abs(held - count * 5_000 / total) <= 1


def test_what_the_sample_cannot_give_is_said_with_the_size_that_works() -> None:
    with pytest.raises(StageError, match="at most") as error:
        train_unigram(words_of(counts()), size=5_000, draws=5_000, seed=1)
    most = error.value.attributes["at_most"]
    assert Tokenizer(train_unigram(words_of(counts()), size=most, draws=5_000, seed=1)).size == most
    with pytest.raises(StageError, match="alone take"):
        train_unigram(words_of(counts()), size=300, draws=5_000, seed=1)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_tokens_of_languages_stand_behind_all_pieces_and_come_from_no_text(tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    controls = [language_token(lang) for lang in ("de", "en", "zh-Hant")]
    given = words_of(counts())
    model = (
        train_words(given, size=480, controls=controls)
        if kind == "bpe"
        else train_unigram(given, size=480, draws=9_000, seed=1, controls=controls)
    )
    tokenizer = Tokenizer(model)
    assert tokenizer.size == 480 and tokenizer.mask_id == 479
    assert tokenizer.language_ids == {"de": 476, "en": 477, "zh-Hant": 478}
    assert not set(tokenizer.encode(["<lang:de> frei <mask>"])[0].tolist()) & {476, 477, 478, 479}
    export_huggingface(model, tmp_path, max_length=128)
    assert verify_export(model, tmp_path, [*TEXTS, "<lang:de> x"]) == len(TEXTS) + 1
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert (
        opened("<lang:zh-Hant>").input_ids == [0, 478, 2]
        and opened.decode([0, 478, *opened("frei").input_ids[1:]], skip_special_tokens=True) == "frei"
    )
