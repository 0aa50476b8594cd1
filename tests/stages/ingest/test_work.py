"""Units of every kind of source on a worker: the ledger holds each record once, and a page that kills native code is set apart."""

from __future__ import annotations

import bz2
import json
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.ledger import Ledger
from pipeline.source_digests import source_digests
from pipeline.sources import list_sources
from pipeline.storage import Storage
from pipeline.tables import read_table
from pipeline.task import execute, find
from stages.ingest import Config, work
from tests.stages.ingest.test_catalogs import PO
from tests.stages.ingest.test_web_archives import HTML, page, record
from tests.stages.ingest.test_wikipedia import HEAD, TAIL
from tests.stages.ingest.test_wikipedia import page as wiki_page

LANGUAGES = ("de", "en", "sw")


def ingest(
    root: Path, sources: list[dict[str, Any]], unit_bytes: int = 1 << 26, skip: tuple[int, ...] = ()
) -> tuple[Ledger, list[dict[str, Any]]]:
    """Runs all units of all sources in this process; the ledger, and the rows in the order of their ids."""
    storage = Storage.at(str(root / "storage"), "attempt-1")
    config = Config.model_validate_json(json.dumps({"sources": sources, "unit_bytes": unit_bytes}))
    ledger, rows = Ledger("documents"), []
    for number, source in enumerate(config.sources):
        found = list_sources(source.path, {"sw": ("sw",), "de": ("de",)})
        files = [replace(file, name=f"{number}/{file.name}") for file in found]
        assert files, source.path
        digests = source_digests(storage, files, remember=False)
        for unit in work._units(config, number, [work._File(file, digests[file.url]) for file in files], LANGUAGES):
            settings = {"source": source.model_dump(mode="json", exclude={"path"}), "max_shard_bytes": unit_bytes}
            plain = {"key": unit.content, "argument": dict(unit.argument), "label": unit.label}
            execute(
                {
                    "root": storage.root, "attempt": "attempt-1", "started": "tmp/started", "stage": "ingest", "phase": "read",
                    "function": "stages.ingest.reading:read_unit", "settings": settings, "given": {"path": source.path}, "unit": "documents",
                    "units": [plain], "skip": list(skip), "cut": [], "trial": None, "memory_bytes": None,
                }
            )  # fmt: skip
            done = find(storage, "ingest", "read", unit.content)
            assert done is not None
            ledger.add(done.ledger)
            for shard in done.parts("documents"):
                rows += read_table(storage.local(shard.path, shard.sha256)).to_pylist()
    ledger.check("all units")
    return ledger, sorted(rows, key=lambda row: bytes(row["id"]))


@pytest.fixture
def corpus(tmp_path: Path) -> list[dict[str, Any]]:
    """One file or archive of each new kind."""
    (tmp_path / "sw.po").write_text(PO)
    (tmp_path / "a.warc").write_bytes(record("request", b"GET /") + page(HTML.encode()) + page(b"x", "HTTP/1.1 404 Gone"))
    texts = [record("conversion", f"ukurasa {i}".encode(), WARC_Identified_Content_Language="swa") for i in range(9)]
    (tmp_path / "a.wet").write_bytes(b"".join(texts) + record("conversion", b"\xff"))
    streams = [HEAD, wiki_page("'''Moshi'''") + wiki_page("x", ns=4), wiki_page("#R", extra='<redirect title="x" />'), TAIL]
    (tmp_path / "dump.xml.bz2").write_bytes(b"".join(map(bz2.compress, streams)))
    (tmp_path / "t.csv").write_text('text,lang\n"a\nb",sw\nc,xx-bad\n')
    with zipfile.ZipFile(tmp_path / "i18n.zip", "w") as archive:
        for lang in ("sw", "de", "qqq"):
            archive.writestr(f"i18n/{lang}.json", json.dumps({"@metadata": {}, "k": f"message in {lang}", "e": ""}))
    return [
        {"kind": "gettext", "path": f"{tmp_path}/{{lang}}.po"},
        {"kind": "warc", "path": f"{tmp_path}/a.warc", "lang": "sw"},
        {"kind": "wet", "path": f"{tmp_path}/a.wet"},
        {"kind": "wikipedia", "path": f"{tmp_path}/dump.xml.bz2"},
        {"kind": "csv", "path": f"{tmp_path}/t.csv", "lang_column": "lang"},
        {"kind": "mediawiki-i18n", "path": f"zip://i18n/*.json::{tmp_path}/i18n.zip"},
    ]


def test_every_record_of_every_kind_is_kept_dropped_or_quarantined(corpus: list[dict[str, Any]], tmp_path: Path) -> None:
    ledger, rows = ingest(tmp_path, corpus)
    assert ledger.kept == len(rows) == 4 + 1 + 9 + 1 + 1 + 2
    assert ledger.dropped == {
        "empty": 2, "fuzzy": 1, "http_status": 1, "namespace": 1, "obsolete": 1, "record_type": 1, "redirect": 1, "unknown_language": 3, "untranslated": 1,
    }  # fmt: skip
    assert ledger.quarantined == {"invalid_utf8": 1}
    assert {row["source"] for row in rows} >= {"dump.xml.bz2", "de.json", "sw.json", "a.warc"}
    assert len({row["id"] for row in rows}) == len(rows)


def test_small_units_give_the_same_documents(corpus: list[dict[str, Any]], tmp_path: Path) -> None:
    assert ingest(tmp_path / "cut", corpus, 1 << 10) == ingest(tmp_path / "whole", corpus)


def test_a_page_that_kills_the_library_can_be_set_apart_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a crash of the parser: making the page's text is fatal, and a skip must never get there."""
    warc = import_module("stages.ingest.sources.warc")
    original = warc._main_text

    def fatal(text: str, main_content: bool) -> str:
        if "poison" in text:
            raise SystemExit("the worker died")
        return str(original(text, main_content))

    monkeypatch.setattr(warc, "_main_text", fatal)
    (tmp_path / "a.warc").write_bytes(page(HTML.encode()) + page(b"<p>poison</p>") + page(HTML.encode()))
    sources = [{"kind": "warc", "path": f"{tmp_path}/a.warc", "lang": "sw"}]
    with pytest.raises(SystemExit):
        ingest(tmp_path / "dies", sources)
    ledger, rows = ingest(tmp_path / "lives", sources, skip=(1,))
    assert len(rows) == 2 and ledger.quarantined == {"poison": 1} and ledger.accounts["sw"].quarantined == {"poison": 1}


def test_a_document_of_a_page_that_kills_the_library_is_set_apart_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above: taking the text out of one element is fatal, and those beside it are read."""
    html = import_module("stages.ingest.sources.html")
    original = html._text_of

    def fatal(node: Any) -> str:
        text = str(original(node))
        if "poison" in text:
            raise SystemExit("the worker died")
        return text

    monkeypatch.setattr(html, "_text_of", fatal)
    texts = ("One good text.", "poison", "Another good text.")
    (tmp_path / "sw.html").write_text("".join(f'<article lang="sw"><p>{text}</p></article>' for text in texts))
    sources = [{"kind": "html", "path": f"{tmp_path}/{{lang}}.html", "document": "article", "lang_attribute": "lang"}]
    with pytest.raises(SystemExit):
        ingest(tmp_path / "dies", sources)
    ledger, rows = ingest(tmp_path / "lives", sources, skip=(1,))
    assert {row["text"] for row in rows} == {texts[0], texts[2]} and ledger.accounts["sw"].quarantined == {"poison": 1}
