"""Pair rules: what is no translation goes for its own reason, what is one stays, in any script and whole paragraphs too."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError

from pipeline.artifacts import bitext
from pipeline.manifest import State, load
from pipeline.storage import Storage
from pipeline.tables import read_table
from pipeline.text.measures import Measurer
from stages.clean.identification import Identification
from stages.clean.rewrite import Rewriter
from stages.clean.work import _side
from stages.dedup.pair_rules import PAIR_RULES
from stages.dedup.pair_rules.settings import Pairs
from stages.dedup.pairs import reasons
from tests.end_to_end import inside

cli = inside.cli
Row = tuple[str, str, str, str]


def cleaned(rows: list[Row]) -> pa.RecordBatch:
    """Pairs (lang_a, lang_b, text_a, text_b) as `clean` leaves them."""
    names = ("lang_a", "lang_b", "text_a", "text_b")
    batch = pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    columns = {name: batch.column(name) for name in names}
    for side in bitext.SIDES:
        columns |= _side(batch, side, Rewriter(["normalise"]), Measurer(), Identification({"identify": True, "identify_lines": False}))
    columns["identical"] = pc.equal(columns["text_a"], columns["text_b"]).cast(pa.int32())
    return pa.RecordBatch.from_pydict(columns)


def judged(rows: list[Row], **changes: Any) -> list[str]:
    settings = Pairs.model_validate(changes).model_dump(mode="json")
    found: list[str] = reasons(cleaned(rows), settings, tuple(settings["rules"])).tolist()
    return found


ENGLISH = "The committee will meet again next Thursday to decide who is to be asked about the new bridge."
GERMAN = "Der Ausschuss kommt am nächsten Donnerstag wieder zusammen, um zu entscheiden, wer zur neuen Brücke gefragt wird."


def test_every_rule_names_the_columns_that_there_are_and_the_section_it_reads() -> None:
    columns = set(bitext.cleaned_schema().names)
    for name, module in PAIR_RULES.items():
        assert set(importlib.import_module(module).READS) <= columns, name
        assert name == "identical" or name in Pairs.model_fields
    with pytest.raises(ValidationError, match="numeralls"):
        Pairs.model_validate({"rules": ("numeralls",)})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("de", "en", GERMAN, ENGLISH), ""),
        (("de", "en", "Ja.", "Certainly, my dear."), ""),
        (("de", "en", "Berlin", "Berlin"), "identical_sides"),
        (("de", "en", GERMAN, "No."), "length_ratio"),
        (("de", "en", "wort " * 151, "word " * 151), "pair_long"),
        (("de", "en", "Siehe aGVsbG8gd29ybGQgaGVsbG8gd29ybGQgaGVsbG8gd29ybGQ dort", "See the attached file over there"), "long_word"),
        (("de", "en", "--- *** 12/7 (=) ### +++ 99", "Page twelve of the index, part seven"), "symbols"),
        (("ru", "en", "Eto predlozheniye napisano latinskimi bukvami.", "This sentence is written in Latin letters."), "wrong_script"),
        (("de", "en", "Er wurde 1984 geboren und verkaufte 5768 Bücher.", "He was born in 1333 and sold 2291 books."), "numerals"),
        (("de", "en", ENGLISH, ENGLISH.replace("bridge", "tunnel")), "untranslated"),
        (("fr", "en", f"{GERMAN} {GERMAN}", f"{ENGLISH} {ENGLISH}"), "wrong_language"),
    ],
)  # fmt: skip
def test_what_is_no_pair_goes_for_its_reason(row: Row, reason: str) -> None:
    assert judged([row]) == [reason]
    # The other way round it is the same.
    assert judged([(row[1], row[0], row[3], row[2])]) == [reason]


def test_paragraphs_pass_that_are_long_by_their_lines() -> None:
    line_a, line_b = "wort " * 60, "word " * 60
    rules = {"rules": ("length", "ratio")}
    assert judged([("de", "en", "\n".join([line_a] * 4), "\n".join([line_b] * 4)), ("de", "en", line_a * 4, line_b * 4)], **rules) == [
        "",
        "pair_long",
    ]


def test_bounds_and_the_choice_of_rules_change_what_goes() -> None:
    row = ("de", "en", "Er wurde 1984 geboren und verkaufte 5768 Bücher.", "He was born in 1333 and sold 2291 books.")
    assert judged([row], rules=("length",)) == [""]
    assert judged([row], numerals={"min_digits": 9}) == [""]
    assert judged([row], length={"max_words_per_line": 7}) == ["pair_long"]


def test_close_relatives_are_not_condemned() -> None:
    text = "Pemerintah akan membahas rencana pembangunan jembatan baru itu bersama warga kota pada hari Kamis minggu depan. " * 3
    english = "The government will discuss the plan for the new bridge with the citizens of the town on Thursday next week. " * 3
    assert judged([(lang, "en", text, english) for lang in ("id", "ms")]) == ["", ""]
    assert judged([("sw", "en", text, english)]) == ["wrong_language"]


@pytest.mark.parametrize("name", ["fin", "zho-CN", "tha", "vie", "amh", "srp-Cyrl", "bod", "jpn"])
def test_true_translations_of_any_script_are_kept(name: str, data: Path) -> None:
    folder = data / "ntrex128"
    sides = [(folder / f"newstest2019-{each}.txt").read_text().split("\n")[:300] for each in (f"ref.{name}", "src.eng")]
    lang = {"fin": "fi", "zho-CN": "zh-Hans", "tha": "th", "vie": "vi", "amh": "am", "srp-Cyrl": "sr", "bod": "bo", "jpn": "ja"}[name]
    found = Counter(judged([(lang, "en", a, b) for a, b in zip(*sides, strict=True)]))
    assert found[""] >= 294, found


def test_pairs_go_whole_and_with_one_side_in_common_where_that_is_wanted(tmp_path: Path, cli: inside.Cli) -> None:
    other = GERMAN.replace("Donnerstag", "Freitag")
    lines = [
        f"{GERMAN}\t{ENGLISH}",
        f"{GERMAN}\t{ENGLISH}",
        f"{other}\t{ENGLISH}",
        f"{GERMAN}\t{ENGLISH.replace('bridge', 'tunnel')}",
        "Hamburg\tHamburg",
    ]
    (tmp_path / "de-en.tsv").write_text("\n".join(lines))
    (tmp_path / "en.txt").write_text("This document is here so that there is one, with words enough to be kept.\n")
    sources = [
        {"kind": "tsv-pairs", "path": str(tmp_path / "{lang}-en.tsv")},
        {"kind": "text", "path": str(tmp_path / "en.txt"), "lang": "en"},
    ]
    dedup = {"partitions": 2, "near": None, "lines": None, "pairs": {"unique_sides": True}}
    stages = {"ingest": {"sources": sources}, "heldout": None, "examples": None, "dedup": dedup}
    file = tmp_path / "pipeline.yaml"
    file.write_text(json.dumps({"name": "pairs", "languages": ["de", "en"], "storage": "storage", "stages": stages}))
    outcome = cli("run", file, "--until", "dedup")
    assert outcome.code == 0, outcome.text
    storage = Storage.at(str(tmp_path / "storage"))
    made = load(storage, State.load(storage, "pairs").instances["dedup"]["manifest"])
    assert made is not None
    (shard,) = made.outputs["pair_decisions"].shards
    found = Counter(read_table(tmp_path / "storage" / shard.path)["reason"].to_pylist())
    assert (found["duplicate"], found["identical_sides"]) == (1, 1)
    # Of the three pairs that are left one shares its German and one its English with a third: that one stays, or both others do.
    assert found[""] in (1, 2) and found["duplicate_side_a"] + found["duplicate_side_b"] == 3 - found[""]
    account = made.ledgers["pairs"]["languages"]["de-en"]
    assert account["in"] == 5 and account["kept"] == found[""] and sum(account["dropped"].values()) == 5 - found[""]
