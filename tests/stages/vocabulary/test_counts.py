"""Counts of words on their way: a word's partition is the same in however many batches it was counted."""

from __future__ import annotations

import pyarrow as pa
import pytest

from stages.vocabulary import counts
from stages.vocabulary.counts import WordCounter


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_words_counted_in_any_number_of_batches_have_the_same_sums_and_hashes(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    texts = [("en", "the river the sea"), ("sw", "mto the"), ("en", "the 我们的语言 sea"), ("en", "x" * 70)] * 3
    whole = WordCounter()
    for lang, text in texts:
        whole.add(pa.array([text], pa.large_string()), [lang])
    expected = _rows(whole.table())
    monkeypatch.setattr(counts, "COUNT_BYTES", at_once)
    parts = WordCounter()
    for lang, text in texts:
        parts.add(pa.array([text], pa.large_string()), [lang])
    assert _rows(parts.table()) == expected
    assert expected["en", "▁the"][0] == 9 and expected["sw", "▁the"][0] == 3
    assert expected["en", "▁the"][1] == expected["sw", "▁the"][1]


def _rows(table: pa.Table) -> dict[tuple[str, str], tuple[int, int]]:
    found = {(row["lang"], row["word"]): (row["count"], row["hash"]) for row in table.to_pylist()}
    assert len(found) == table.num_rows
    assert [key >> 48 for _, key in found.values()] == sorted(key >> 48 for _, key in found.values())
    return found
