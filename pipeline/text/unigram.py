"""A unigram vocabulary (Kudo 2018) by sentencepiece, from a sample of the counted words.

    words and weighted counts -> so many draws as lines of text, the same whatever the order -> sentencepiece -> scores on a grid -> model bytes

Not from the counts themselves, as the merges are: sentencepiece seeds a unigram model with the frequent substrings of its lines and ignores their counts there, so
a word that is to count a thousand times has to stand there a thousand times. A word with the share p of all weighted counts stands ⌊p·draws + u⌋ times, where u
in [0, 1) is a hash of the word: no more noise than one occurrence, and no state.

Scores are rounded to multiples of 2⁻¹⁰. Sums of them are then exact in single precision, in which sentencepiece adds, and in double, in which Hugging Face
does: on the same text both find the same best path, and of equal ones the same.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import sentencepiece

from pipeline.errors import StageError
from pipeline.text.hashing import hash64
from pipeline.text.tokenizer import MASK, SPACE, SPECIALS, Words, check_words, model_bytes

GRID = 1 << 10
LINE_WORDS = 64
_MAX_LINE_BYTES = 1 << 20


def train_unigram(
    words: Words,
    *,
    size: int,
    draws: int,
    seed: int,
    byte_fallback: bool = True,
    character_coverage: float = 0.9995,
    required_chars: str = "",
    split_digits: bool = False,
    controls: Sequence[str] = (),
) -> bytes:
    """Train on about `draws` words drawn by their counts and return the model's bytes; the other arguments are those of `tokenizer.train_words`.

    Raises:
        StageError: no words; a word that cannot be trained on; the sample supports fewer pieces than `size`, or needs more.
    """
    total = 0
    for part, counts in words():
        check_words(part)
        total += int(counts.sum())
    if not total:
        raise StageError("vocabulary: there are no words to train on; is every document dropped?")
    written = io.BytesIO()
    options: dict[str, Any] = {
        "model_type": "unigram",
        "vocab_size": size - 1 - len(controls),
        "input_sentence_size": 0,
        "max_sentence_length": _MAX_LINE_BYTES,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": byte_fallback,
        "character_coverage": character_coverage,
        "required_chars": "".join(sorted(set(required_chars) - {" ", SPACE, "\t", "\n"})),
        "split_digits": split_digits,
        "num_threads": 1,  # sums of several threads would hang on how the work was shared
        "minloglevel": 2,
        **{f"{option}_id": SPECIALS[piece] for option, piece in (("bos", "<s>"), ("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>"))},
    }
    lines = iter(sampled_lines(words, total, draws, seed))
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=written, **options)
    except RuntimeError as error:
        raise _explained(error, size, 1 + len(controls)) from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    first = len(SPECIALS) + (256 if byte_fallback else 0)
    scored = [(processor.id_to_piece(index), round(processor.get_score(index) * GRID) / GRID) for index in range(first, len(processor))]
    return model_bytes(
        "unigram", scored, byte_fallback=byte_fallback, character_coverage=character_coverage, split_digits=split_digits, controls=controls
    )  # fmt: skip


def sampled_lines(words: Words, total: int, draws: int, seed: int) -> list[str]:
    """Lines of drawn words, sorted, so that neither the order of the words nor their parts matter; `total`: sum of all counts."""
    lines: list[str] = []
    for word, copies in sorted(_drawn(words, total, draws, seed)):
        if word.startswith(SPACE):  # words stand side by side, as in a text; one that continues another has no place there
            lines.extend(word * min(LINE_WORDS, copies - done) for done in range(0, copies, LINE_WORDS))
        else:
            lines.extend([word] * copies)
    return lines


def _drawn(words: Words, total: int, draws: int, seed: int) -> Iterator[tuple[str, int]]:
    summed: dict[str, int] = {}
    for part, counts in words():
        for word, count in zip(part.to_pylist(), counts.tolist(), strict=True):
            summed[word] = summed.get(word, 0) + count
    for word, count in summed.items():
        copies = (count * draws * (1 << 64) // total + hash64(word, f"unigram {seed}")) >> 64
        if copies:
            yield word, copies


def _explained(error: RuntimeError, size: int, outside: int) -> StageError:
    """sentencepiece's message, which counts without `<mask>` and what is added behind, in terms of `size`."""
    text = str(error)
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", text):
        need = int(found[1]) + outside
        return StageError(
            f"vocabulary.size is {size}, but specials, bytes and single characters alone take {need}; give a size above {need} or lower coverage",
            needed=need,
        )
    if found := re.search(r"value <= (\d+)", text):
        most = int(found[1]) + outside
        return StageError(
            f"vocabulary.size is {size}, but this sample supports at most {most} unigram pieces; give size={most}, more draws or more text",
            at_most=most,
        )
    return StageError(f"vocabulary: sentencepiece could not train {size} pieces of a unigram model: {text}; {MASK} counts as one of them")
