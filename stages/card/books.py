"""The ledgers of all stages that a corpus went through, laid one behind the other, and checked language by language.

    ingest: in = kept + dropped + quarantined; kept, moved by its relabellings, = in of clean; …; dedup: kept
    -> per language  in + gained - lost = kept + dropped + quarantined   from the first file to the last decision

`ingest` counts pairs that it reads beside documents, under both their languages (`de-en`), and pairs that it makes of aligned documents in a ledger of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pipeline.errors import ConfigError, LedgerError
from pipeline.ledger import Account, Counts, Ledger
from pipeline.text.languages import lookup


@dataclass(frozen=True)
class Page:
    """One stage's ledger."""

    stage: str
    ledger: Ledger

    def given(self) -> Counts:
        """What it kept, by the language that it has now."""
        found = {lang: account.kept for lang, account in self.ledger.accounts.items()}
        for before, row in self.ledger.relabelled.items():
            for after, count in row.items():
                found[before] = found.get(before, 0) - count
                found[after] = found.get(after, 0) + count
        return {lang: count for lang, count in found.items() if count}

    def plain(self) -> dict[str, Any]:
        """Its sums."""
        book = self.ledger
        return {"stage": self.stage, "in": book.taken, "kept": book.kept, "dropped": book.dropped, "quarantined": book.quarantined}


@dataclass
class Whole:
    """What became of one language's records: `account.taken` is what was read, `account.kept` what the last stage kept."""

    account: Account = field(default_factory=Account)
    gained: int = 0
    lost: int = 0

    def plain(self) -> dict[str, Any]:
        """As it stands in a row of the card."""
        a = self.account
        return {
            "in": a.taken, "kept": a.kept, "dropped": dict(sorted(a.dropped.items())), "quarantined": dict(sorted(a.quarantined.items())),
            "gained": self.gained, "lost": self.lost,
        }  # fmt: skip


def join(pages: Sequence[Page]) -> dict[str, Whole]:
    """Each language from the first page to the last.

    Raises:
        LedgerError: a page does not add up, one took something other than the page before it gave, or the whole does not add up.
    """
    for page in pages:
        page.ledger.check(f"card: {page.stage}")
    for before, after in pairwise(pages):
        taken = {lang: account.taken for lang, account in after.ledger.accounts.items() if account.taken}
        agree(before.given(), taken, after.ledger.unit, f"kept by {before.stage}", f"taken by {after.stage}")
    found: dict[str, Whole] = {}
    for number, page in enumerate(pages):
        for lang, account in page.ledger.accounts.items():
            whole = found.setdefault(lang, Whole())
            if number == 0:
                whole.account.taken = account.taken
            _add(whole.account.dropped, account.dropped)
            _add(whole.account.quarantined, account.quarantined)
        for lang, row in page.ledger.relabelled.items():
            for other, count in row.items():
                found.setdefault(lang, Whole()).lost += count
                found.setdefault(other, Whole()).gained += count
    for lang, kept in pages[-1].given().items():
        found.setdefault(lang, Whole()).account.kept = kept
    for lang, whole in found.items():
        rest = whole.account.rest + whole.gained - whole.lost
        if rest:
            raise LedgerError(
                f"card: {lang}: {whole.account.taken} {pages[0].ledger.unit} in, but {rest} of them unaccounted for at the end"
            )
    return dict(sorted(found.items()))


def agree(one: Mapping[str, int], other: Mapping[str, int], unit: str, what: str, against: str) -> None:
    """Both counts must be equal, language by language.

    Raises:
        LedgerError: the first language in which they differ.
    """
    for lang in sorted({*one, *other}):
        if one.get(lang, 0) != other.get(lang, 0):
            raise LedgerError(f"card: {lang}: {one.get(lang, 0)} {unit} {what}, but {other.get(lang, 0)} {against}")


def relabelled(pages: Iterable[Page]) -> dict[str, Counts]:
    """The matrix (from, to) over all pages."""
    found: dict[str, Counts] = {}
    for page in pages:
        for before, row in page.ledger.relabelled.items():
            _add(found.setdefault(before, {}), row)
    return {before: dict(sorted(row.items())) for before, row in sorted(found.items())}


def _add(target: Counts, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        target[name] = target.get(name, 0) + count


# ---------------------------------------------------------------- documents and pairs of ingest


def pair_name(name: str) -> str | None:
    """`a-b` in canonical codes where a name is that of a pair; None where it is that of a language, or of nothing known.

    Languages that are known stand in a ledger by their canonical code, so `pt-br` is Portuguese and Breton, not the alias of Portuguese.
    """
    sides = None if _code(name) == name else _sides(name)
    return None if sides is None else "-".join(sides)


def _sides(name: str) -> tuple[str, str] | None:
    parts = name.split("-")
    for cut in range(1, len(parts)):
        a, b = _code("-".join(parts[:cut])), _code("-".join(parts[cut:]))
        if a is not None and b is not None:
            return a, b
    return None


def _code(name: str) -> str | None:
    if name == "und":
        return name
    try:
        return lookup(name).code
    except ConfigError:
        return None


def part(ledger: Ledger) -> tuple[Ledger, Ledger]:
    """The documents and the pairs of a ledger that holds both."""
    documents, pairs = Ledger("documents", relabelled=ledger.relabelled), Ledger("pairs")
    for name, account in ledger.accounts.items():
        pair = pair_name(name)
        target, key = (documents, name) if pair is None else (pairs, pair)
        own = target.account(key)
        own.taken += account.taken
        own.kept += account.kept
        _add(own.dropped, account.dropped)
        _add(own.quarantined, account.quarantined)
    return documents, pairs


def with_made(read: Ledger, rows: Mapping[str, int], made: Ledger | None) -> Ledger:
    """The pairs that were read, and those that were made of aligned documents: `rows` less those read, by pair.

    Args:
        read: ledger of pairs that were read.
        rows: pairs that there are, by `a-b`.
        made: ledger of the documents that became side a of a pair, by their language; None where no pairs were made.

    Raises:
        LedgerError: more pairs, or fewer, than were read and made.
    """
    whole = Ledger("pairs")
    whole.add(read)
    sides: dict[str, int] = {}
    for pair, count in sorted(rows.items()):
        more = count - (read.accounts[pair].kept if pair in read.accounts else 0)
        if more:
            whole.keep(pair, more)
            side = (_sides(pair) or (pair, ""))[0]
            sides[side] = sides.get(side, 0) + more
    counted = {} if made is None else {lang: account.kept for lang, account in made.accounts.items() if account.kept}
    agree(sides, counted, "pairs", "beside those that were read", "made of documents")
    return whole
