"""The merges of a vocabulary: sentencepiece's own, found from counts; and what a slow search by hand finds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageError
from pipeline.text import merges
from pipeline.text.alphabet import ANY, COMMON, scripts
from pipeline.text.normalise import normalise
from pipeline.text.tokenizer import Tokenizer, train, train_words
from pipeline.text.words import count_words

BYTES = 260
"""Ids of the specials and the bytes."""


def by_sentencepiece(counts: Mapping[str, int], size: int, **options: object) -> list[tuple[str, float]]:
    """Pieces and scores of sentencepiece's own training on the same counts."""
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"{word}\t{count}" for word, count in sorted(counts.items())), model_writer=written, model_type="bpe", vocab_size=size - 1,
        input_format="tsv", input_sentence_size=0, max_sentence_length=40_000, normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, byte_fallback=True, bos_id=0, pad_id=1, eos_id=2, unk_id=3, num_threads=1, minloglevel=2, **options,
    )  # fmt: skip
    return scored(written.getvalue())


def scored(model: bytes) -> list[tuple[str, float]]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [(processor.id_to_piece(index), processor.get_score(index)) for index in range(len(processor))]


def by_hand(counts: Mapping[str, int], size: int) -> list[str]:
    """The same merges, all pairs counted anew at every step."""
    kinds = scripts()
    words = [(list(word), count) for word, count in counts.items()]
    made: list[str] = []
    alphabet = {character for word, _ in words for character in word}
    while len(made) < size:
        found: Counter[tuple[str, str]] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                found[pair] += count
        best = [
            (-count, len(a + b), a + b, -len(a), (a, b))
            for (a, b), count in found.items()
            if len(a + b) <= 16 and b[0] != "▁" and a + b not in made and len({int(kinds[ord(c)]) for c in a + b} - {ANY}) < 2
        ]
        if not best:
            break
        left, right = min(best)[-1]
        made.append(left + right)
        for word, _ in words:
            at = 0
            while at < len(word) - 1:
                if word[at] == left and word[at + 1] == right:
                    word[at : at + 2] = [left + right]
                at += 1
    assert alphabet
    return made


def merged(counts: Mapping[str, int], number: int) -> list[str]:
    """Our pieces without the specials, bytes and characters; as many as there are if that is fewer."""
    alphabet = len({character for word in counts for character in word})
    size = BYTES + alphabet + 1 + number
    try:
        found = Tokenizer(train(counts, size=size, character_coverage=1.0)).pieces()
    except StageError as error:
        found = Tokenizer(train(counts, size=error.attributes["at_most"], character_coverage=1.0)).pieces()
    return found[BYTES : len(found) - 1 - alphabet]


letters = st.text("abć́▁б.", min_size=1, max_size=24).map(lambda text: text.replace("▁", "a") if "▁" in text[1:] else text)


@given(st.dictionaries(letters, st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 40), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_pieces_are_those_of_a_slow_search(counts: dict[str, int], number: int, with_little_room: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if with_little_room:  # pairs come in many rounds, between which cells are closed up
            patch.setattr(merges, "_PLACES", 1)
            patch.setattr(merges, "_NUMBERS", 0)
        assert merged(counts, number) == by_hand(counts, number)


@pytest.mark.parametrize("options", [{}, {"split_digits": True}, {"character_coverage": 0.99}, {"required_chars": "龘ß1"}])
def test_the_pieces_and_scores_are_those_of_sentencepiece(options: dict[str, object]) -> None:
    source = random.Random(3)
    stems = ["".join(source.choices("etaoinshrdluёжзийк我们の語ค้าम्अ़.,123", k=source.randint(1, 7))) for _ in range(700)]
    # Counts without ties of equal pieces, which sentencepiece breaks by chance.
    counts = Counter(
        {"▁" * source.randint(0, 1) + stem + source.choice(["", "s", "ing", ".", "24"]): source.randint(1, 10**9) for stem in stems}
    )
    assert scored(train(counts, size=620, **options)) == by_sentencepiece(counts, 620, **options)  # type: ignore[arg-type]


def test_on_real_text_of_many_languages_the_pieces_are_those_of_sentencepiece(data: Path) -> None:
    files = sorted((data / "sib200").glob("*/train.tsv"))[::4]
    counts = count_words(normalise(line.split("\t")[2]) for path in files for line in path.read_text("utf-8").split("\n")[1:60] if line)
    ours, theirs = scored(train(counts, size=6_000, split_digits=True)), by_sentencepiece(counts, 6_000, split_digits=True)
    assert len(files) > 40 and {piece for piece, _ in ours} == {piece for piece, _ in theirs}


def test_a_low_first_bound_small_tables_and_little_room_change_no_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(9)
    counts = {"▁" + "".join(source.choices("abcdefgh", k=source.randint(1, 20))): source.randint(1, 50) for _ in range(3_000)}
    usual = train(counts, size=1_500)
    monkeypatch.setattr(merges, "_PER_MERGE", 1)
    monkeypatch.setattr(merges, "_SLOTS", 64)
    monkeypatch.setattr(merges, "_PLACES", 2_000)
    monkeypatch.setattr(merges, "_NUMBERS", 0)
    found: list[int] = []
    original = merges._Merging._find_pairs

    def watched(self: merges._Merging) -> None:
        original(self)
        found.append(self.least)
        self.arena = self.arena[: int(self.state[2]) + 2 * int(self.places.max(initial=0))].copy()

    monkeypatch.setattr(merges._Merging, "_find_pairs", watched)
    assert train(counts, size=1_500) == usual
    assert len(found) > 4 and found == sorted(found, reverse=True)


def test_words_in_parts_and_in_any_order_give_the_same_bytes_and_large_counts_are_kept() -> None:
    source = random.Random(4)
    counts = {"▁" + "".join(source.choices("abcdeи", k=source.randint(1, 9))): source.choice([1, 3, 2**30, 2**41]) for _ in range(400)}
    whole = train(counts, size=500)
    pairs = list(counts.items())
    source.shuffle(pairs)
    parts = [pairs[:7], [], pairs[7:300], pairs[300:]]
    columns = [
        (pa.array([word for word, _ in part], pa.large_string()), np.array([count for _, count in part], np.int64)) for part in parts
    ]
    assert train_words(lambda: columns, size=500) == whole


def test_scripts_are_told_apart_and_the_mark_of_a_word_joins_any() -> None:
    kinds = scripts()
    assert kinds[ord("a")] == kinds[ord("Z")] != kinds[ord("а")]
    assert kinds[ord("漢")] == kinds[ord("か")] == kinds[ord("カ")] == kinds[ord("ー")]
    assert kinds[ord("▁")] == kinds[0x301] == ANY and kinds[ord(".")] == kinds[ord("7")] == COMMON
