"""Which ledgers a card reads: those of every stage that the documents came through, whoever wrote it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import dag
from pipeline.dag import Edge
from pipeline.errors import ConfigError, LedgerError
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest, Shard
from stages import STAGES
from stages.card import books
from stages.card.work import document_pages, grouped, pair_pages
from tests.end_to_end import tiny


def manifest(stage: str, **ledgers: dict[str, int]) -> Manifest:
    """A manifest whose ledgers keep all but `lost`."""
    plain = {}
    for name, kept in ledgers.items():
        ledger = Ledger("documents" if name == "documents" else "pairs")
        for lang, count in kept.items():
            ledger.keep(lang, count)
        plain[name] = ledger.plain()
    return Manifest(f"artifacts/{stage}", stage, "k", {}, plain, {}, {})


def given(*line: Manifest) -> Any:
    return SimpleNamespace(instance=line[-1].stage, manifest=line[-1], lineage=line)


def test_the_line_of_an_input_is_every_stage_that_it_came_through_as_the_same_type(tmp_path: Path) -> None:
    graph = dag.load(tiny.make(tmp_path), [], STAGES)
    assert graph.lineage(Edge("cleaned", "clean", "documents")) == ("ingest", "clean")
    assert graph.lineage(Edge("cleaned_bitext", "clean", "bitext")) == ("ingest", "clean")
    assert graph.lineage(Edge("decisions", "dedup", "decisions")) == ("dedup",)


def test_a_stage_between_reading_and_cleaning_is_part_of_the_sums() -> None:
    ingest, thin, clean, dedup = (
        manifest(name, documents={"en": count}) for name, count in (("ingest", 9), ("thin", 4), ("clean", 4), ("dedup", 4))
    )
    thin.ledgers["documents"]["languages"]["en"] |= {"in": 9, "dropped": {"not_drawn": 5}}
    inputs = {"documents": given(ingest), "cleaned": given(ingest, thin, clean), "decisions": given(dedup)}
    pages, _ = document_pages(inputs)
    assert [page.stage for page in pages] == ["ingest", "thin", "clean", "dedup"]
    assert books.join(pages)["en"].plain()["dropped"] == {"not_drawn": 5}


def test_documents_of_another_chain_are_refused_with_the_remedy() -> None:
    inputs = {
        "documents": given(manifest("other", documents={})),
        "cleaned": given(manifest("clean", documents={})),
        "decisions": given(manifest("dedup")),
    }
    with pytest.raises(
        ConfigError, match=r"documents are of other, from which the cleaned ones of clean do not come\. Set inputs: \{documents: …"
    ):
        document_pages(inputs)


def test_a_stage_without_a_ledger_is_refused_with_the_remedy() -> None:
    ingest, thin, clean = manifest("ingest", documents={"en": 1}), manifest("thin", texts={}), manifest("clean", documents={"en": 1})
    inputs = {"documents": given(ingest), "cleaned": given(ingest, thin, clean), "decisions": given(manifest("dedup", documents={"en": 1}))}
    with pytest.raises(LedgerError, match=r"thin keeps no ledger 'documents'.*leave the card out with stages\.card: null"):
        document_pages(inputs)


def test_pairs_are_followed_under_whatever_name_a_stage_keeps_them() -> None:
    ingest = manifest("ingest", documents={"en": 5, "deu-eng": 3})
    inputs = {
        "cleaned_bitext": given(ingest, manifest("clean", bitext={"de-en": 3})),
        "pair_decisions": given(manifest("dedup", pairs={"de-en": 3})),
    }
    assert books.join(pair_pages(inputs, {"de-en": 3}, None))["de-en"].plain()["kept"] == 3
    with pytest.raises(LedgerError, match="card: de: 1 pairs beside those that were read, but 0 made of documents"):
        pair_pages(inputs, {"de-en": 4}, None)


def test_a_new_shard_changes_only_the_unit_that_it_falls_into() -> None:
    def shard(number: int) -> Shard:
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        return Shard(sha256, f"units/{number}", sha256, 1000, 5)

    def contents(numbers: list[int]) -> list[str]:
        units = grouped([([one], {"text": one.plain()}) for one in map(shard, numbers)])
        assert [s["text"]["path"] for unit in units for s in unit.argument["shards"]] == [f"units/{n}" for n in numbers]
        return [unit.content for unit in units]

    before, after = contents(list(range(300))), contents([*range(100), 1000, *range(100, 300)])
    assert 5 < len(before) < 60
    assert len(set(after) - set(before)) in (1, 2)
