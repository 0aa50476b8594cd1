"""Encode: every kept text as its sentences' ids, in order, whatever the batches; the others counted."""

from pathlib import Path

import numpy as np

from pipeline.tables import open_file, read_table
from pipeline.text.sentences import split_sentences
from pipeline.text.tokenizer import Tokenizer
from tests.stages import encoded

DOCUMENTS = [
    ("en", "train", "One cat. Two dogs sat!\nHere  \n\nfour", True, []),
    ("en", "train", "dropped", False, []),
    ("ja", "heldout", "日本語。日本。\nfive", True, [1]),
    ("en", "train", " \n ", True, []),  # nothing is left of it
    ("sw", "train", "<s> <mask>", True, []),
]


def test_each_document_is_the_ids_of_its_sentences_one_after_the_other(tmp_path: Path) -> None:
    held = encoded.storage(tmp_path)
    result, task = encoded.encoded(held, "a", DOCUMENTS)
    path = held.local(result.files["tokens"].path)
    tokenizer, rows = Tokenizer(encoded.vocabulary()), read_table(path).to_pylist()
    kept = [(lang, split, text.replace("\nfive", "")) for lang, split, text, keep, _ in DOCUMENTS if keep]
    assert [(row["lang"], row["split"], row["lang_b"]) for row in rows] == [(lang, split, None) for lang, split, _ in kept]
    for row, (_, _, text) in zip(rows, kept, strict=True):
        by_sentence = [ids.tolist() for ids in tokenizer.encode(split_sentences(text))]
        assert row["ids"] == [token for ids in by_sentence for token in ids]
        assert row["sentences"] == np.cumsum([len(ids) for ids in by_sentence]).tolist()
        assert row["side_a"] == len(row["ids"])
        assert all(token > 3 for token in row["ids"])
    assert open_file(path).num_record_batches == 1
    assert task.ledger.dropped == {"not_kept": 1}
    task.ledger.check("encode", len(DOCUMENTS))
    assert task.counts["tokens"] == {lang: sum(len(row["ids"]) for row in rows if row["lang"] == lang) for lang in ("en", "ja", "sw")}


def test_a_pair_is_side_a_and_then_side_b(tmp_path: Path) -> None:
    held = encoded.storage(tmp_path)
    result, _ = encoded.encoded_pairs(held, "a", [("en", "ja", "train", "One. Two.", "日本。語。"), ("en", "sw", "train", "", "cat")])
    tokenizer, rows = Tokenizer(encoded.vocabulary()), read_table(held.local(result.files["tokens"].path)).to_pylist()
    one, two, three, four = (ids.tolist() for ids in tokenizer.encode(["One.", "Two.", "日本。", "語。"]))
    assert rows[0]["ids"] == one + two + three + four
    assert rows[0]["side_a"] == len(one + two)
    assert rows[0]["sentences"] == np.cumsum([len(one), len(two), len(three), len(four)]).tolist()
    assert rows[1]["side_a"] == 0 and len(rows[1]["ids"]) > 0
    assert [(row["lang"], row["lang_b"]) for row in rows] == [("en", "ja"), ("en", "sw")]


def test_the_ids_take_the_narrowest_type_that_holds_them(tmp_path: Path) -> None:
    held = encoded.storage(tmp_path)
    result, _ = encoded.encoded(held, "a", DOCUMENTS)
    assert str(open_file(held.local(result.files["tokens"].path)).schema.field("ids").type.value_type) == "uint16"
    from pipeline.artifacts.tokens import schema

    assert [str(schema(size).field("ids").type.value_type) for size in (1 << 16, (1 << 16) + 1)] == ["uint16", "uint32"]
