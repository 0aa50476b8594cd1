"""Texts encoded word by word: the ids of the whole text, whatever it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text import text_encoder
from pipeline.text.sentences import split_sentences
from pipeline.text.text_encoder import TextEncoder
from pipeline.text.tokenizer import Tokenizer, train

WORDS = {f"▁{a}{b}": 5 for a in ("ab", "ka", "日", "é") for b in ("ba", "k", "本", "", "0")} | {"▁": 9, "ba": 4, "▁1": 3}
HORRIBLE = [
    "",
    " ",
    "  ",
    "a  b",
    " a",
    "a ",
    "▁",
    "a▁b",
    "▁ ▁",
    "<s> </s>",
    "日本語",
    "\u00a0x",
    "\t",
    "a\nb",
    "🙂🙂 🙂",
    "\u0301 a",
    "x" * 300,
]


@pytest.fixture(scope="module", params=[True, False], ids=["bytes", "unknown"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(train(WORDS, size=280 if request.param else 26, byte_fallback=request.param))


def agree(encoder: TextEncoder, texts: list[str]) -> None:
    expected = encoder.tokenizer.encode(texts)
    ids, lengths = encoder.encode(texts)
    assert lengths.tolist() == [len(row) for row in expected]
    assert ids.tolist() == [token for row in expected for token in row.tolist()]
    assert ids.dtype == encoder.tokenizer.dtype


def test_horrible_texts_get_the_ids_of_the_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer.parts_at_spaces
    encoder = TextEncoder(tokenizer)
    for _ in range(2):  # what was new is known the second time
        agree(encoder, HORRIBLE)
        agree(encoder, [])


@given(texts=st.lists(st.text(st.sampled_from("abk é日本0▁ \u2581\u0301🙂<s>"), max_size=20), max_size=8))
@settings(max_examples=80, deadline=None)
def test_any_texts_get_the_ids_of_the_whole(tokenizer: Tokenizer, texts: list[str]) -> None:
    agree(TextEncoder(tokenizer), texts)


def test_many_words_make_the_table_grow_and_keep_their_numbers(tokenizer: Tokenizer) -> None:
    encoder = TextEncoder(tokenizer)
    for first in (0, 3_000, 100):
        agree(encoder, [" ".join(f"ab{n} {n}" for n in range(start, start + 130)) for start in range(first, first + 3_000, 130)])
    assert encoder._numbers.known > 5_000


def test_what_is_forgotten_is_encoded_anew(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "MAX_WORDS", 3)
    encoder = TextEncoder(tokenizer)
    for texts in (["ab ba kab", "k"], ["abba"], ["ab ba k", "0"], ["kab"] * 5):
        agree(encoder, texts)
    assert encoder._numbers.known <= 3 + 4


def test_a_vocabulary_whose_pieces_reach_over_spaces_encodes_whole_texts() -> None:
    from sentencepiece import sentencepiece_model_pb2 as format

    proto = format.ModelProto.FromString(train(WORDS, size=280))
    proto.pieces[-1].piece = "ab▁ba"
    tokenizer = Tokenizer(proto.SerializeToString())
    assert not tokenizer.parts_at_spaces
    agree(TextEncoder(tokenizer), ["ab ba", "ab ba ab ba", ""])


def test_sentences_of_over_a_hundred_languages_get_the_ids_of_the_whole(data: Path) -> None:
    lines = [line for path in sorted((data / "ntrex128").glob("newstest2019-*.txt")) for line in path.read_text("utf-8").split("\n")[:12]]
    words: dict[str, int] = {}
    for line in lines:
        for word in line.split():
            words["▁" + word[:60]] = words.get("▁" + word[:60], 0) + 1
    encoder = TextEncoder(Tokenizer(train(words, size=4000)))
    agree(encoder, [sentence for line in lines for sentence in split_sentences(line)])
