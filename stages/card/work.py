"""The work of card, as the driver sees it.

shards as read, shards as cleaned ⋈ decisions -> a part of each few shards (map, stages/card/counting.py)
parts -> sums (reduce)  ┐
ledgers of all stages   ┴-> checked against each other -> card.json, plots, headline figures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifacts.card import CARD_FILE
from pipeline.corpus import pair_up
from pipeline.errors import ConfigError, LedgerError
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest, Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import canonical, digest
from pipeline.units import Phase, Unit
from stages.card import Config, books, plots
from stages.card.assemble import Parts, corpus, files, headline, metrics, pairs, sources
from stages.card.books import Page
from stages.card.samples import Bounds
from stages.card.tally import EDGES

GROUP_CUT = 16
"""A unit ends behind a shard whose digest is a multiple of this, so after 16 shards on average,"""
GROUP_BYTES = 64 << 20
"""or where its text has grown to this size."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Count, check and publish; see the package."""
    bounds = Bounds(config.samples, config.samples_per_language)
    settings = config.model_dump(mode="json")
    read = _count(context, "read_documents", {}, _plain_units(inputs["documents"]), bounds)
    decided = _count(context, "decided_documents", settings, _joined_units(inputs["cleaned"], inputs["decisions"]), bounds)
    pages, made = document_pages(inputs)
    wholes = books.join(pages)
    books.agree(read.tally.column("read"), _page_of(pages, inputs["documents"]).given(), "documents", "counted as read", "in the ledger")
    books.agree(decided.tally.column("kept"), pages[-1].given(), "documents", "counted as kept", "in the ledger")
    _agree_reasons(decided, pages[-1])
    card: dict[str, Any] = {
        "format": 1, "edges": {name: list(edges) for name, edges in EDGES.items()}, **corpus(wholes, read, decided),
        "relabelled": books.relabelled(pages), "samples": {"documents": decided.samples()},
        "sources": sources(_oldest(inputs["documents"])), "files": files(read), "stages": [page.plain() for page in pages],
    }  # fmt: skip
    ledgers = {"documents": _ledger(wholes, "documents")}
    if "bitext" in inputs and "cleaned_bitext" in inputs and "pair_decisions" in inputs:
        read = _count(context, "read_pairs", {}, _plain_units(inputs["bitext"]), bounds)
        decided = _count(context, "decided_pairs", settings, _joined_units(inputs["cleaned_bitext"], inputs["pair_decisions"]), bounds)
        pages = pair_pages(inputs, read.tally.column("read"), made)
        wholes = books.join(pages)
        books.agree(decided.tally.column("kept"), pages[-1].given(), "pairs", "counted as kept", "in the ledger")
        _agree_reasons(decided, pages[-1])
        card["pairs"] = {**pairs(wholes, read, decided), "stages": [page.plain() for page in pages]}
        card["samples"]["pairs"] = decided.samples()
        ledgers["pairs"] = _ledger(wholes, "pairs")
    with output.file("card", CARD_FILE) as path:
        path.write_bytes(canonical(card))
    plots.draw(card, output)
    return Summary(ledgers=ledgers, counts=headline(card), metrics=metrics(card))


# ---------------------------------------------------------------- counting


def _plain_units(given: Input) -> list[Unit]:
    return grouped([([shard], {"text": shard.plain()}) for shard in given.shards if shard.rows])


def _joined_units(text: Input, decisions: Input) -> list[Unit]:
    return grouped([([pairing.text, pairing.decisions], pairing.plain()) for pairing in pair_up(text.shards, decisions.shards)])


def grouped(shards: Sequence[tuple[Sequence[Shard], Mapping[str, Any]]]) -> list[Unit]:
    """Units of several shards that follow each other, since counting one takes less time than recording that it was counted.

    A unit ends behind a shard whose digest says so, so that a new shard changes only the unit it falls into.
    """
    units: list[Unit] = []
    held: list[tuple[Sequence[Shard], Mapping[str, Any]]] = []
    for number, (parts, plain) in enumerate(shards):
        held.append((parts, plain))
        size = sum(one[0].bytes for one, _ in held)
        if int(parts[0].sha256[:8], 16) % GROUP_CUT == 0 or size >= GROUP_BYTES or number == len(shards) - 1:
            content = digest([[shard.sha256 for shard in one] for one, _ in held])
            units.append(Unit(content, {"shards": [dict(p) for _, p in held]}, size, f"{len(held)} shards from {held[0][0][0].key[:12]}"))
            held = []
    return units


def _count(context: Context, function: str, settings: Mapping[str, Any], units: Sequence[Unit], bounds: Bounds) -> Parts:
    unit = "pairs" if function.endswith("pairs") else "documents"
    parts = Parts(bounds)
    for result in context.map(Phase(function, f"stages.card.counting:{function}", settings, unit), units):
        parts.add(result.counts)
    return parts


# ---------------------------------------------------------------- ledgers


def _oldest(given: Input) -> Manifest:
    return given.lineage[0]


def document_pages(inputs: Mapping[str, Input]) -> tuple[list[Page], Ledger | None]:
    """The ledgers of the stages from the first that gave documents to the one that decided, and that of pairs made of documents.

    Raises:
        ConfigError: the cleaned documents do not come from the documents.
        LedgerError: a stage between keeps no ledger of documents.
    """
    line = [*inputs["cleaned"].lineage, inputs["decisions"].manifest]
    if inputs["documents"].manifest.path not in [manifest.path for manifest in line]:
        raise ConfigError(
            f"card: its documents are of {inputs['documents'].instance}, from which the cleaned ones of {inputs['cleaned'].instance} do not come. "
            "Set inputs: {documents: …, cleaned: …, decisions: …} of the stage to instances of one chain."
        )
    pages = [Page(manifest.stage, books.part(_ledger_of(manifest, ("documents",)))[0]) for manifest in line]
    made = line[0].ledgers.get("pairs")
    return pages, None if made is None or made["unit"] != "documents" else Ledger.from_plain(made)


def _page_of(pages: Sequence[Page], given: Input) -> Page:
    return pages[len(given.lineage) - 1]


def pair_pages(inputs: Mapping[str, Input], rows: Mapping[str, int], made: Ledger | None) -> list[Page]:
    """The same for bitext; `rows` is how many pairs of each kind the first stage gave, `made` the ledger of documents that became pairs.

    Raises:
        LedgerError: a stage between keeps no ledger of pairs, or the first gave other pairs than it counted.
    """
    line = [*inputs["cleaned_bitext"].lineage, inputs["pair_decisions"].manifest]
    first = line[0].ledgers
    read = Ledger("pairs")
    if "documents" in first:
        read.add(books.part(Ledger.from_plain(first["documents"]))[1])
    if "pairs" in first and first["pairs"]["unit"] == "pairs":
        read.add(_in_pairs(Ledger.from_plain(first["pairs"])))
    whole = books.with_made(read, rows, made)
    return [Page(line[0].stage, whole), *(Page(m.stage, _in_pairs(_ledger_of(m, ("pairs", "bitext")))) for m in line[1:])]


def _in_pairs(ledger: Ledger) -> Ledger:
    """The same accounts, whatever the stage calls its unit."""
    return Ledger("pairs", ledger.accounts, ledger.relabelled)


def _ledger_of(manifest: Manifest, names: tuple[str, ...]) -> Ledger:
    for name in names:
        if name in manifest.ledgers:
            return Ledger.from_plain(manifest.ledgers[name])
    raise LedgerError(
        f"card: {manifest.stage} keeps no ledger {' or '.join(map(repr, names))}, so what it dropped is not known. Its `run` must return "
        f"Summary(ledgers={{{names[0]!r}: …}}); or leave the card out with stages.card: null."
    )


def _agree_reasons(decided: Parts, page: Page) -> None:
    counted: dict[str, int] = {}
    for lang, row in decided.tally.sums.items():
        counted |= {f"{lang}: {name}": value for name, value in row.items() if name.startswith(("dropped ", "quarantined ")) and value}
    booked: dict[str, int] = {}
    for lang, account in page.ledger.accounts.items():
        for what, by_reason in (("dropped", account.dropped), ("quarantined", account.quarantined)):
            booked |= {f"{lang}: {what} {reason}": count for reason, count in by_reason.items() if count}
    books.agree(counted, booked, page.ledger.unit, "counted in the decisions", "in the ledger")


def _ledger(wholes: Mapping[str, books.Whole], unit: str) -> Ledger:
    """The card's own ledger: what came in under each language's last name, and what became of it."""
    ledger = Ledger(unit)
    for lang, whole in wholes.items():
        own = whole.account
        if own.taken or own.kept or whole.gained:
            ledger.accounts[lang] = type(own)(own.taken + whole.gained - whole.lost, own.kept, own.dropped, own.quarantined)
    return ledger
