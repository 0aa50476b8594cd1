"""One vocabulary of 64,000 pieces over all real training text: what it does to each language, and the same ids in Hugging Face on every line.

Text: SIB-200's training sentences, NTREX-128, and the Declaration (npm, fetched once). Weighted by α = 0.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.tables import rows, utf8, write_table
from pipeline.text.counting import count_batch
from pipeline.text.languages import known, lookup
from pipeline.text.normalise import normalise
from pipeline.text.tokenizer import Tokenizer, train_words
from pipeline.text.tokenizer_export import export_huggingface, verify_export
from pipeline.text.unigram import train_unigram
from stages.vocabulary import Config
from stages.vocabulary.card import MEASURED, assemble, measure
from stages.vocabulary.counts import WORDS
from stages.vocabulary.weights import language_weights, required_characters, weighted_words
from tests.benchmarks.identify import paragraphs

SIZE = 64_000
LEAST_BYTES = 100_000

pytestmark = pytest.mark.slow


def _code(name: str) -> str:
    try:
        return lookup(name).code
    except ConfigError:
        return name


@pytest.fixture(scope="module")
def lines(data: Path) -> dict[str, list[str]]:
    """Normalised lines of each language."""
    found: dict[str, list[str]] = {}
    for path in sorted((data / "sib200").glob("*/train.tsv")):
        rows = [line.split("\t") for line in path.read_text("utf-8").split("\n")[1:] if line.strip()]
        found.setdefault(_code(path.parent.name), []).extend(normalise(row[2]) for row in rows)
    for path in sorted((data / "ntrex128").glob("newstest2019-*.txt")):
        found.setdefault(_code(path.name.split(".")[-2]), []).extend(filter(None, map(normalise, path.read_text("utf-8").split("\n"))))
    for paragraph in paragraphs(languages=[language.code for language in known() if language.udhr]):
        found.setdefault(paragraph.lang, []).append(normalise(paragraph.text))
    return {lang: [line for text in texts for line in text.split("\n") if line] for lang, texts in sorted(found.items())}


@pytest.fixture(scope="module")
def counted(lines: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The words of all languages as one partition."""
    path = tmp_path_factory.mktemp("words") / "words.arrow"
    with write_table(path, WORDS) as table:
        for lang, texts in lines.items():
            made = count_batch(*utf8(pa.array(texts, pa.large_string())), np.zeros(len(texts), np.int32))
            table.batch({"lang": pa.array([lang] * len(made.words), pa.string()), "word": made.words, "count": pa.array(made.counts)})
    return [path]


@pytest.fixture(scope="module")
def train(lines: dict[str, list[str]], counted: list[Path]) -> Callable[..., bytes]:
    """Trains as the stage does, α = 0.3."""
    weights = language_weights({lang: sum(map(len, texts)) for lang, texts in lines.items()}, 0.3)
    words, required = weighted_words(counted, weights, 50_000_000), required_characters(counted, Config().language_coverage)

    def trained(kind: str, byte_fallback: bool) -> bytes:
        shape = {"size": SIZE, "byte_fallback": byte_fallback, "required_chars": required, "split_digits": True}
        return train_words(words, **shape) if kind == "bpe" else train_unigram(words, draws=3_000_000, seed=1, **shape)

    return trained


def test_every_language_is_served(
    lines: dict[str, list[str]], counted: list[Path], train: Callable[..., bytes], data: Path, tmp_path: Path
) -> None:
    model = train("bpe", True)
    tokenizer = Tokenizer(model)
    with write_table(tmp_path / "measured.arrow", MEASURED) as table:
        table.batch(measure(counted[0], tokenizer))
    card, _ = assemble([tmp_path / "measured.arrow"], tokenizer.size, dict.fromkeys(lines, 1))
    assert set(card["languages"]) == set(lines)
    assert sum(row["unknown"] for row in rows(tmp_path / "measured.arrow", ("unknown",))) == 0, (
        "not one piece of any language, however rare"
    )
    fallback = {lang: entry["byte_fallback_share"] for lang, entry in card["languages"].items()}
    assert max(fallback.values()) < 10, sorted(fallback.items(), key=lambda item: -item[1])[:5]  # in 1/10,000: below 0.1%
    # Parity: pieces of aligned sentences against English's.
    aligned = {path.parent.name: {row[0]: normalise(row[2]) for row in (line.split("\t") for line in path.read_text("utf-8").split("\n")[1:]) if len(row) > 2}
               for path in sorted((data / "sib200").glob("*/train.tsv"))}  # fmt: skip
    english = aligned["eng_Latn"]
    size = Counter({lang: sum(len(text.encode()) for text in texts) for lang, texts in lines.items()})
    rest = []
    for name, texts in aligned.items():
        both = sorted(texts.keys() & english.keys())
        own, theirs = (sum(map(len, tokenizer.encode([side[key] for key in both]))) for side in (texts, english))
        if own > 2.5 * theirs:
            rest.append((round(own / theirs, 2), name, size[_code(name)]))
    print(f"\n{len(lines)} languages, mean {card['mean']}\nabove 2.5 times English's pieces: {sorted(rest, reverse=True)}")
    print(f"highest byte fallback, 1/10,000: {sorted(fallback.items(), key=lambda item: -item[1])[:8]}")
    assert [entry for entry in rest if entry[2] >= LEAST_BYTES] == []


@pytest.mark.parametrize(("kind", "byte_fallback"), [("bpe", True), ("bpe", False), ("unigram", True), ("unigram", False)])
def test_no_line_of_the_whole_sample_has_other_ids_in_hugging_face(
    kind: str, byte_fallback: bool, lines: dict[str, list[str]], train: Callable[..., bytes], tmp_path: Path
) -> None:
    model = train(kind, byte_fallback)
    export_huggingface(model, tmp_path, max_length=512)
    every = [line for texts in lines.values() for line in texts]
    assert len(every) > 300_000 and verify_export(model, tmp_path, every) == len(every)
