"""Vocabularies imported, cut and grown: kept text keeps its pieces, and each id tells where it comes from."""

from __future__ import annotations

import json
import random
from io import BytesIO
from pathlib import Path

import pytest
import sentencepiece

from pipeline.errors import ConfigError
from pipeline.text.imported import NONE, imported
from pipeline.text.normalise import normalise
from pipeline.text.tokenizer import MASK, SPECIALS, Tokenizer, train
from pipeline.text.tokenizer_export import export_huggingface, verify_export
from pipeline.text.unigram import train_unigram
from pipeline.text.vocabulary_change import composed, grown, kept_only, needed, rows
from pipeline.text.words import count_words
from tests.text.test_tokenizer import HORRIBLE, TEXTS
from tests.text.test_unigram import counts, words_of

KEPT, OTHER = TEXTS[:3], TEXTS[3:]


@pytest.fixture(scope="module", params=["bpe", "bpe without bytes", "unigram"])
def model(request: pytest.FixtureRequest) -> bytes:
    if request.param == "unigram":
        return train_unigram(words_of(counts()), size=480, draws=20_000, seed=1)
    return train(count_words(TEXTS), size=600 if request.param == "bpe" else 340, byte_fallback=request.param == "bpe")


def pieces_of(tokenizer: Tokenizer, texts: list[str]) -> list[list[str]]:
    names = tokenizer.pieces()
    return [[names[index] for index in ids] for ids in tokenizer.encode(texts)]


def test_kept_text_has_the_same_pieces_in_a_cut_vocabulary_and_origins_name_the_old_ids(model: bytes, tmp_path: Path) -> None:
    old = Tokenizer(model)
    cut, origins = kept_only(old, model, needed(old, count_words(KEPT)))
    new = Tokenizer(cut)
    assert new.size == len(origins) < old.size
    assert [old.pieces()[origin] for origin in origins] == new.pieces()
    for before, after in zip(old.encode(KEPT), new.encode(KEPT), strict=True):
        assert [origins[index] for index in after] == before.tolist()
    export_huggingface(cut, tmp_path, 64)
    assert verify_export(cut, tmp_path, [*TEXTS, *map(normalise, HORRIBLE)]) == len(TEXTS) + len(HORRIBLE)


def test_words_in_parts_need_the_same_ids_as_all_at_once(model: bytes) -> None:
    tokenizer, words = Tokenizer(model), sorted(count_words(TEXTS))
    assert needed(tokenizer, words[::2]) | needed(tokenizer, words[1::2]) == needed(tokenizer, words)


@pytest.mark.parametrize("seed", range(4))
def test_cut_merges_choose_as_before_where_ties_and_paths_are_many(seed: int) -> None:
    source = random.Random(seed)
    words = {"▁" + "".join(source.choices("abc", k=source.randint(1, 14))): source.randint(1, 9) for _ in range(500)}
    model = train(words, size=420)
    some = source.sample(sorted(words), 40)
    old = Tokenizer(model)
    new = Tokenizer(kept_only(old, model, needed(old, some))[0])
    texts = [word[1:] for word in some]
    assert new.size < old.size and pieces_of(new, texts) == pieces_of(old, texts)


def test_new_pieces_stand_behind_the_old_and_their_rows_are_what_they_split_into(model: bytes) -> None:
    old = Tokenizer(model)
    made, origins = grown(old, model, [("▁Rechten", -9.0), ("ⴰⵣⵓⵍ", -9.5), ("ⴰ", -10.0), (old.pieces()[300], -1.0)])
    new = Tokenizer(made)
    fresh = [index for index, origin in enumerate(origins) if origin == NONE]
    assert [new.pieces()[index] for index in fresh] == [piece for piece in ("▁Rechten", "ⴰⵣⵓⵍ", "ⴰ") if piece not in old.pieces()]
    assert new.pieces()[-1] == MASK and new.size == old.size + len(fresh)
    found = rows(old, new, origins)
    assert all(row == [origin] for row, origin in zip(found, origins, strict=True) if origin != NONE)
    for index in fresh:
        ids, _ = old.encode_words([new.pieces()[index]])
        assert found[index] == [int(piece) for piece in ids if piece != SPECIALS["<unk>"]]
    assert composed(list(range(100, 100 + old.size)), origins)[fresh[0]] == NONE


def test_a_sentencepiece_model_with_a_normaliser_and_other_specials_is_read_with_its_ids(tmp_path: Path) -> None:
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 30),
        model_writer=written,
        model_type="unigram",
        vocab_size=180,
        character_coverage=1.0,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    (tmp_path / "spm.model").write_bytes(written.getvalue())
    found = imported(tmp_path / "spm.model", "spm.model", ["de"])
    ours = Tokenizer(found.model)
    assert found.size_before == 180 and found.origins[:4] == [1, NONE, 2, 0] and found.origins[-2:] == [NONE, NONE]
    assert ours.language_ids == {"de": ours.size - 2}
    lines = [*TEXTS, "ﬁne ①"]
    assert [[found.origins[index] for index in ids] for ids in ours.encode(lines)] == theirs.encode(lines)
    export_huggingface(found.model, tmp_path / "hf", 64)
    assert verify_export(found.model, tmp_path / "hf", lines) == len(lines)


def test_a_hugging_face_tokenizer_that_was_exported_comes_back_with_its_ids(model: bytes, tmp_path: Path) -> None:
    old = Tokenizer(model)
    export_huggingface(model, tmp_path, 64)
    found = imported(tmp_path / "tokenizer.json", "tokenizer.json")
    ours = Tokenizer(found.model)
    assert found.size_before == old.size and found.origins[-1] == old.mask_id
    (tmp_path / "spm.model").write_bytes(model)
    assert imported(tmp_path / "spm.model", "spm.model").identity == found.identity, "the same pieces at the same ids"
    other = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = other["model"]["vocab"]
    if isinstance(vocab, dict):
        one, two = [piece for piece in vocab if piece not in {entry["content"] for entry in other["added_tokens"]}][-2:]
        vocab[one], vocab[two] = vocab[two], vocab[one]
    else:
        vocab[300], vocab[301] = vocab[301], vocab[300]
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert imported(tmp_path / "other.json", "other.json").identity != found.identity
    lines = [*TEXTS, *map(normalise, HORRIBLE)]
    assert [[found.origins[index] for index in ids] for ids in ours.encode(lines)] == [ids.tolist() for ids in old.encode(lines)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xff\xff", "neither a sentencepiece model nor"),
        (b'{"a": 1}', "not a tokenizer.json"),
        (json.dumps({"model": {"type": "WordPiece", "vocab": {}}}).encode(), "type 'WordPiece'"),
        (json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}).encode(), "over bytes"),
        (json.dumps({"model": {"type": "Unigram", "vocab": [["a", -1.0]]}, "normalizer": {"type": "Lowercase"}}).encode(), "'Lowercase'"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        imported(tmp_path / "v", "given/v")
