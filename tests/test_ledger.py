"""The sums of a ledger are kept under addition and writing, and a wrong one is an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LedgerError
from pipeline.ledger import Account, Ledger, total

LANGS = st.sampled_from(["no", "on", "en", "zh-Hans"])
REASONS = st.sampled_from(["short", "duplicate", "poison"])
EVENTS = st.lists(st.tuples(st.sampled_from(["keep", "drop", "quarantine"]), LANGS, REASONS, st.integers(0, 10**12)), max_size=30)


def filled(events: list[tuple[str, str, str, int]], unit: str = "documents") -> Ledger:
    ledger = Ledger(unit)
    for what, lang, reason, count in events:
        if what == "keep":
            ledger.keep(lang, count)
            ledger.relabel(lang, reason, count)
        elif what == "drop":
            ledger.drop(lang, reason, count)
        else:
            ledger.quarantine(lang, reason, count)
    return ledger


@given(EVENTS)
def test_what_goes_in_is_kept_dropped_or_quarantined(events: list[tuple[str, str, str, int]]) -> None:
    ledger = filled(events)
    taken = sum(count for *_, count in events)
    ledger.check("here", taken)
    assert ledger.taken == taken == ledger.kept + sum(ledger.dropped.values()) + sum(ledger.quarantined.values())
    assert all(account.rest == 0 for account in ledger.accounts.values())


@given(EVENTS, EVENTS)
def test_adding_ledgers_is_the_ledger_of_all_events_in_any_order(
    a: list[tuple[str, str, str, int]], b: list[tuple[str, str, str, int]]
) -> None:
    both = filled([*a, *b]).plain()
    assert total([filled(a), filled(b)], "documents").plain() == both
    assert total([filled(b), filled(a)], "documents").plain() == both


@given(EVENTS)
def test_a_ledger_comes_back_from_json_as_it_was(events: list[tuple[str, str, str, int]]) -> None:
    plain = filled(events).plain()
    assert Ledger.from_plain(json.loads(json.dumps(plain))).plain() == plain


def test_the_written_form_does_not_depend_on_the_order_of_counting() -> None:
    events = [("drop", "no", "short", 1), ("keep", "en", "x", 2), ("drop", "no", "duplicate", 3), ("quarantine", "en", "poison", 4)]
    assert json.dumps(filled(events).plain()) == json.dumps(filled(events[::-1]).plain())


def test_a_record_that_is_lost_is_an_error_that_names_place_and_language() -> None:
    ledger = filled([("keep", "en", "x", 5), ("keep", "no", "x", 5)])
    ledger.account("no").taken += 2
    with pytest.raises(LedgerError, match="clean: no: 7 documents in, but 2 of them unaccounted for"):
        ledger.check("clean")


def test_losses_and_gains_of_two_languages_do_not_cancel_out() -> None:
    ledger = Ledger("lines", {"a": Account(taken=1, kept=0), "b": Account(taken=0, kept=1)})
    assert ledger.taken == ledger.kept == 1
    with pytest.raises(LedgerError, match="unaccounted"):
        ledger.check("here", 1)


def test_another_number_than_was_given_is_an_error() -> None:
    with pytest.raises(LedgerError, match="here: 5 lines counted, 6 given"):
        filled([("keep", "en", "x", 5)], "lines").check("here", 6)


def test_ledgers_of_different_units_are_not_added() -> None:
    with pytest.raises(LedgerError, match="a ledger of words cannot be added to one of lines"):
        Ledger("lines").add(Ledger("words"))


def test_adding_does_not_change_what_is_added() -> None:
    one = filled([("drop", "en", "short", 1)])
    before = one.plain()
    total([one, one, one], "documents").drop("en", "short", 9)
    assert one.plain() == before
