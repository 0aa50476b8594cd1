"""The compiled run of py3langid's model beside the library itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from pipeline.text import bayes
from pipeline.text.identify import LANGID_LABELS

TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "ALLE MENSCHEN SIND FREI UND GLEICH AN WÜRDE UND RECHTEN GEBOREN.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由,在尊严和权利上一律平等。",
    "e\u0301te\u0301 " * 3_000,
    "x",
    "one \ud800 lone surrogate",
]


@pytest.fixture(scope="module")
def library() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def same(library: Any, texts: list[str]) -> None:
    labels, probabilities = bayes.classify(texts)
    for text, label, probability in zip(texts, labels, probabilities, strict=True):
        expected, share = library.classify(text)
        if label is None:  # no feature: the library names the first class
            assert probability == 0 and share < 0.02, text
        else:
            assert (label, probability) == (expected, pytest.approx(share * 10_000, abs=1)), text


def test_labels_and_probabilities_are_the_library_s(library: Any) -> None:
    same(library, TEXTS)


def test_on_real_sentences_too(library: Any, data: Path) -> None:
    same(
        library,
        [
            line.split("\t")[2]
            for path in sorted((data / "sib200").glob("*/train.tsv"))
            for line in path.read_text("utf-8").split("\n")[1:9]
        ],
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=30), max_size=5))
def test_any_strings_are_taken_and_a_text_s_answer_does_not_depend_on_its_batch(texts: list[str]) -> None:
    labels, probabilities = bayes.classify(texts)
    assert [bayes.classify([text]) for text in texts] == [([a], [b]) for a, b in zip(labels, probabilities, strict=True)]


def test_texts_of_any_length_walk_beside_one_another_and_in_blocks() -> None:
    texts = [TEXTS[number % 3] * (number * 7 % 40) for number in range(60)] + ["long " * 80_000]
    assert sum(map(len, texts)) > bayes._BLOCK
    labels, probabilities = bayes.classify(texts)
    assert [bayes.classify([text]) for text in texts] == [([a], [b]) for a, b in zip(labels, probabilities, strict=True)]


def test_a_choice_among_few_is_the_library_s_too(library: Any) -> None:
    library.set_languages(["no", "nn", "da"])
    try:
        for text in ("Eg veit ikkje kva dei seier.", "Jeg vet ikke hva de sier.", "Jeg ved ikke, hvad de siger til mig."):
            expected, share = library.classify(text)
            assert bayes.classify([text], ("no", "nn", "da")) == ([expected], [pytest.approx(share * 10_000, abs=1)])
    finally:
        library.set_languages(None)


def test_a_text_without_features_has_no_label() -> None:
    assert bayes.classify(["", "&1"]) == ([None, None], [0, 0])


def test_the_labels_written_down_are_those_of_the_model() -> None:
    assert set(bayes.model().classes) == set(LANGID_LABELS)
