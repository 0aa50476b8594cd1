"""Decontamination: what evaluation text condemns, in which scripts, which set did it, and what is but a formula."""

import random
from pathlib import Path

import pytest

from tests.stages.dedup.inside import Stage

DRAW = random.Random(11)
LETTERS = {
    "en": [chr(point) for point in range(0x61, 0x7B)],
    "th": [chr(point) for point in range(0x0E01, 0x0E2F)],
    "km": [chr(point) for point in range(0x1780, 0x17A3)],
    "bo": [chr(point) for point in range(0x0F40, 0x0F48)],
    "zh": [chr(point) for point in range(0x4E00, 0x4F00)],
}
UNITS_OF_13_WORDS = {"en": 13, "th": 52, "km": 52, "bo": 52, "zh": 26}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "storage")


def units(lang: str, count: int, seed: int) -> list[str]:
    """Words, or letters of an unspaced script."""
    draw = random.Random(f"{lang} {seed}")
    return ["".join(draw.choices(LETTERS[lang], k=4 if lang == "en" else 1)) for _ in range(count)]


def text(lang: str, found: list[str]) -> str:
    return (" " if lang == "en" else "").join(found)


@pytest.mark.parametrize("lang", LETTERS)
def test_13_words_or_as_much_unspaced_text_condemn_and_less_does_not(stage: Stage, lang: str) -> None:
    n = UNITS_OF_13_WORDS[lang]
    held = units(lang, 3 * n, 1)
    records = [
        {"name": "holds n", "lang": lang, "text": text(lang, [*units(lang, 40, 2), *held[5 : 5 + n], *units(lang, 40, 3)])},
        {"name": "holds less", "lang": lang, "text": text(lang, [*units(lang, 40, 4), *held[5 : 4 + n], *units(lang, 40, 5)])},
    ]
    found = stage.run([stage.shard(records)], evaluation=[stage.examples([{"text": text(lang, held), "lang": lang}])])
    assert found.reasons() == {"holds n": "contaminated"}


def test_each_set_is_told_how_many_documents_it_condemned_by_language(stage: Stage) -> None:
    one, two = units("en", 30, 1), units("en", 30, 2)
    records = [
        {"name": "of one", "text": text("en", one)},
        {"name": "of both", "text": text("en", [*one, *two])},
        {"name": "of two, in German", "text": text("en", two), "lang": "de"},
        {"name": "of none", "text": text("en", units("en", 40, 3))},
    ]
    evaluation = stage.examples(
        [
            {"text": "A short hypothesis", "text_pair": text("en", one), "set": "nli"},
            {"text": text("en", two), "set": "qa"},
            {"text": text("en", units("en", 40, 3)), "set": "qa", "split": "train"},
        ]
    )
    found = stage.run([stage.shard(records)], evaluation=[evaluation])
    assert found.summary.counts["contaminated"] == {"nli": {"all": 2, "en": 2}, "qa": {"all": 2, "de": 1, "en": 1}}
    assert found.summary.ledgers["documents"].dropped == {"contaminated": 3}


def test_a_formula_of_many_evaluation_texts_condemns_nothing_and_a_passage_of_many_questions_does(stage: Stage) -> None:
    formula, passage = units("en", 16, 1), units("en", 40, 2)
    speeches = [{"text": text("en", [*formula, *units("en", 20, 100 + n)])} for n in range(4)]
    questions = [{"text": f"question {n}", "text_pair": text("en", passage)} for n in range(4)]
    translations = [{"text": text("en", units("en", 20, 50)), "group": "7", "lang": lang} for lang in ("en", "de", "fr", "sw")]
    records = [
        {"name": "far", "text": text("en", units("en", 30, 4))},
        {"name": "formula", "text": text("en", [*units("en", 30, 3), *formula])},
        {"name": "speech", "text": speeches[0]["text"]},
        {"name": "passage", "text": text("en", passage)},
        {"name": "translated", "text": translations[0]["text"]},
    ]
    evaluation = [stage.examples([*speeches, *questions, *translations])]
    settings = {"near": None, "lines": None}
    found = stage.run([stage.shard(records)], {**settings, "decontamination": {"max_texts": 3}}, evaluation)
    assert found.reasons() == {"speech": "contaminated", "passage": "contaminated", "translated": "contaminated"}
    assert found.summary.counts["formulas"] == 4
    assert "formula" in stage.run([stage.shard(records)], settings, evaluation).reasons()


def test_a_changed_evaluation_set_hashes_no_document_again(stage: Stage) -> None:
    shards = [stage.shard([{"name": str(n), "text": text("en", units("en", 40, n))} for n in range(3)])]
    stage.run(shards)
    found = stage.run(shards, evaluation=[stage.examples([{"text": text("en", units("en", 40, 1))}])])
    assert found.reasons() == {"1": "contaminated"}
    assert found.worked["overlap"] == 1 and not found.worked["hash"] and not found.worked["verify"]
