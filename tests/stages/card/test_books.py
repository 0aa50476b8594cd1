"""Ledgers of a chain are laid one behind the other: what does not fit is an error that names the language."""

from __future__ import annotations

import pytest

from pipeline.errors import LedgerError
from pipeline.ledger import Ledger
from stages.card import books
from stages.card.books import Page


def chain() -> tuple[Ledger, Ledger, Ledger]:
    read, cleaned, decided = Ledger("documents"), Ledger("documents"), Ledger("documents")
    read.keep("en", 8)
    read.drop("en", "empty", 2)
    read.quarantine("de", "bad_json")
    read.keep("de", 4)
    cleaned.keep("en", 8)
    cleaned.keep("de", 3)
    cleaned.quarantine("de", "poison")
    decided.keep("en", 5)
    decided.drop("en", "duplicate", 3)
    decided.keep("de", 3)
    return read, cleaned, decided


def pages(*ledgers: Ledger) -> list[Page]:
    return [Page(name, ledger) for name, ledger in zip(("ingest", "clean", "dedup"), ledgers, strict=True)]


def test_each_language_is_followed_from_what_was_read_to_what_was_kept() -> None:
    found = books.join(pages(*chain()))
    assert found["en"].plain() == {"in": 10, "kept": 5, "dropped": {"duplicate": 3, "empty": 2}, "quarantined": {}, "gained": 0, "lost": 0}
    assert found["de"].plain() == {"in": 5, "kept": 3, "dropped": {}, "quarantined": {"bad_json": 1, "poison": 1}, "gained": 0, "lost": 0}


@pytest.mark.parametrize(
    ("stage", "lang", "message"),
    [
        (1, "en", "card: en: 8 documents kept by ingest, but 9 taken by clean"),
        (2, "de", "card: de: 3 documents kept by clean, but 4 taken by dedup"),
        (2, "fr", "card: fr: 0 documents kept by clean, but 1 taken by dedup"),
    ],
)
def test_a_stage_that_took_other_than_the_one_before_gave_is_an_error_that_names_the_language(stage: int, lang: str, message: str) -> None:
    ledgers = chain()
    ledgers[stage].keep(lang)
    with pytest.raises(LedgerError, match=message):
        books.join(pages(*ledgers))


def test_a_ledger_that_does_not_add_up_by_itself_is_an_error_that_names_stage_and_language() -> None:
    ledgers = chain()
    ledgers[1].accounts["en"].kept -= 1
    with pytest.raises(LedgerError, match="card: clean: en: 8 documents in, but 1 of them unaccounted for"):
        books.join(pages(*ledgers))


def test_documents_whose_language_was_changed_are_lost_by_one_language_and_gained_by_another() -> None:
    read, cleaned, decided = chain()
    cleaned.relabel("en", "sco", 2)
    decided.accounts["en"].taken, decided.accounts["en"].kept = 6, 3
    decided.drop("sco", "too_short")
    decided.keep("sco")
    found = books.join(pages(read, cleaned, decided))
    assert (found["en"].lost, found["en"].account.taken, found["en"].account.kept) == (2, 10, 3)
    assert (found["sco"].gained, found["sco"].account.taken, found["sco"].account.kept) == (2, 0, 1)
    assert books.relabelled(pages(read, cleaned, decided)) == {"en": {"sco": 2}}
    cleaned.relabel("de", "nl")
    with pytest.raises(LedgerError, match="card: de: 2 documents kept by clean, but 3 taken by dedup"):
        books.join(pages(read, cleaned, decided))


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("de-en", "de-en"),
        ("deu-eng", "de-en"),
        ("zh-Hans-en", "zh-Hans-en"),
        ("en-zh_Hant", "en-zh-Hant"),
        ("sr-Latn-sr", "sr-Latn-sr"),
        ("pt-br", "pt-br"),  # Portuguese and Breton, though pt-BR is an alias of Portuguese
        ("sr-Latn", None),
        ("zh-Hans", None),
        ("und", None),
        ("klingon-en", None),
    ],
)
def test_the_name_of_a_pair_is_told_from_that_of_a_language(name: str, pair: str | None) -> None:
    assert books.pair_name(name) == pair


def test_documents_and_pairs_of_one_ledger_are_parted_and_pairs_made_of_documents_added() -> None:
    both = Ledger("documents")
    both.keep("en", 3)
    both.keep("deu-eng", 5)
    both.drop("de-en", "empty_side")
    both.drop("xx-yy", "unknown_language")
    documents, read = books.part(both)
    assert sorted(documents.accounts) == ["en", "xx-yy"]
    assert (read.accounts["de-en"].taken, read.accounts["de-en"].kept) == (6, 5)
    made = Ledger("documents")
    made.keep("de", 2)
    made.drop("en", "pivot_itself", 3)
    whole = books.with_made(read, {"de-en": 7}, made)
    assert (whole.accounts["de-en"].taken, whole.accounts["de-en"].kept) == (8, 7)
    with pytest.raises(LedgerError, match="card: de: 1 pairs beside those that were read, but 2 made of documents"):
        books.with_made(read, {"de-en": 6}, made)
