"""The ledger: every record that comes in is kept, dropped for a named reason, or quarantined, and the sums are checked.

A stage declares its unit of account (documents, pairs, lines, bytes, words, tokens). Each work unit fills a ledger, the ledgers are added
up, and `check` asserts `in = kept + dropped + quarantined` per language. A language is that on entry; where a stage changes it,
`relabelled` counts (from, to).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import LedgerError

Counts = dict[str, int]


@dataclass
class Account:
    """One language's sums, in the ledger's unit of account."""

    taken: int = 0
    kept: int = 0
    dropped: Counts = field(default_factory=dict)
    quarantined: Counts = field(default_factory=dict)

    @property
    def rest(self) -> int:
        """What is not accounted for; 0 in a sound ledger."""
        return self.taken - self.kept - sum(self.dropped.values()) - sum(self.quarantined.values())


@dataclass
class Ledger:
    """The accounts of a unit, a stage or a corpus, by language on entry."""

    unit: str
    accounts: dict[str, Account] = field(default_factory=dict)
    relabelled: dict[str, Counts] = field(default_factory=dict)

    def account(self, lang: str) -> Account:
        """The account of a language, made on first use."""
        return self.accounts.setdefault(lang, Account())

    def keep(self, lang: str, count: int = 1) -> None:
        """Count records taken and kept."""
        account = self.account(lang)
        account.taken += count
        account.kept += count

    def drop(self, lang: str, reason: str, count: int = 1) -> None:
        """Count records taken and dropped for `reason`."""
        account = self.account(lang)
        account.taken += count
        account.dropped[reason] = account.dropped.get(reason, 0) + count

    def quarantine(self, lang: str, reason: str, count: int = 1) -> None:
        """Count records taken that could not be read or processed."""
        account = self.account(lang)
        account.taken += count
        account.quarantined[reason] = account.quarantined.get(reason, 0) + count

    def relabel(self, before: str, after: str, count: int = 1) -> None:
        """Count records whose language this stage changed."""
        row = self.relabelled.setdefault(before, {})
        row[after] = row.get(after, 0) + count

    def add(self, other: Ledger) -> None:
        """Add another ledger of the same unit of account.

        Raises:
            LedgerError: the units differ.
        """
        if other.unit != self.unit:
            raise LedgerError(f"a ledger of {other.unit} cannot be added to one of {self.unit}")
        for lang, account in other.accounts.items():
            mine = self.account(lang)
            mine.taken += account.taken
            mine.kept += account.kept
            for target, counts in ((mine.dropped, account.dropped), (mine.quarantined, account.quarantined)):
                for reason, count in counts.items():
                    target[reason] = target.get(reason, 0) + count
        for before, row in other.relabelled.items():
            for after, count in row.items():
                self.relabel(before, after, count)

    def check(self, where: str, taken: int | None = None) -> None:
        """Assert the sums, and the number taken where it is known from elsewhere.

        Raises:
            LedgerError: they do not add up.
        """
        for lang, account in self.accounts.items():
            if account.rest:
                raise LedgerError(f"{where}: {lang}: {account.taken} {self.unit} in, but {account.rest} of them unaccounted for")
        if taken is not None and taken != self.taken:
            raise LedgerError(f"{where}: {self.taken} {self.unit} counted, {taken} given")

    @property
    def taken(self) -> int:
        """All that came in."""
        return sum(account.taken for account in self.accounts.values())

    @property
    def kept(self) -> int:
        """All that was kept."""
        return sum(account.kept for account in self.accounts.values())

    @property
    def dropped(self) -> Counts:
        """What was dropped, by reason."""
        return _sums(account.dropped for account in self.accounts.values())

    @property
    def quarantined(self) -> Counts:
        """What was quarantined, by reason."""
        return _sums(account.quarantined for account in self.accounts.values())

    def plain(self) -> dict[str, Any]:
        """As plain data in a fixed order."""
        accounts = {}
        for lang in sorted(self.accounts):
            a = self.accounts[lang]
            accounts[lang] = {
                "in": a.taken,
                "kept": a.kept,
                "dropped": dict(sorted(a.dropped.items())),
                "quarantined": dict(sorted(a.quarantined.items())),
            }
        plain: dict[str, Any] = {"unit": self.unit, "languages": accounts}
        if self.relabelled:
            plain["relabelled"] = {k: dict(sorted(v.items())) for k, v in sorted(self.relabelled.items())}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Ledger:
        """Back from `plain`."""
        ledger = cls(plain["unit"])
        for lang, a in plain["languages"].items():
            ledger.accounts[lang] = Account(a["in"], a["kept"], dict(a["dropped"]), dict(a["quarantined"]))
        ledger.relabelled = {k: dict(v) for k, v in plain.get("relabelled", {}).items()}
        return ledger


def _sums(rows: Iterable[Mapping[str, int]]) -> Counts:
    total: Counts = {}
    for row in rows:
        for reason, count in row.items():
            total[reason] = total.get(reason, 0) + count
    return dict(sorted(total.items()))


def total(ledgers: Iterable[Ledger], unit: str) -> Ledger:
    """The sum of ledgers of one unit of account."""
    result = Ledger(unit)
    for ledger in ledgers:
        result.add(ledger)
    return result
