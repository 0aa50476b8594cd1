"""The card of a generated corpus, through real runs: its figures are those that plain Python counts in the records as they were written."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import inside
from tests.end_to_end.inside import Cli, in_process

cli = inside.cli

SYLLABLES = {
    "en": ["lo", "mer", "tan", "gil", "pru", "sha"],
    "de": ["öl", "füß", "knar", "zwi", "schau"],
    "th": ["นก", "ปลา", "ภูเขา", "แม่น้ำ"],
}
SHARED = "This one line stands in two documents of several lines."
TWIN = {"lang": "en", "text": "This document stands in two files that are equal byte by byte.", "licence": "CC0"}
OFF = dict.fromkeys(("heldout", "examples", "vocabulary", "encode", "pack", "pretrain", "export", "finetune", "evaluate", "report"))


def sentence(draw: random.Random, lang: str, words: int) -> str:
    made = ["".join(draw.choices(SYLLABLES[lang], k=draw.randint(2, 4))) for _ in range(words)]
    return ("" if lang == "th" else " ").join(made)


def records() -> list[dict[str, Any]]:
    """Records whose fate is known: `fate` is the reason for which one is dropped, empty where it is kept."""
    draw = random.Random("card")
    found: list[dict[str, Any]] = []
    for lang, number in (("en", 60), ("de", 25), ("th", 12)):
        for n in range(number):
            text = sentence(draw, lang, draw.randint(9, 40))
            found.append({"lang": lang, "text": text, "licence": "CC0" if n % 3 else None, "fate": ""})
            if n % 6 == 0:
                found.append({"lang": lang, "text": text, "licence": "CC BY", "fate": "duplicate"})
            if n % 10 == 0:
                found.append({"lang": lang, "text": sentence(draw, lang, 1)[:9], "fate": "too_short"})
    for _ in range(2):  # one of the two loses the line, and both lines are as long
        found.append({"lang": "en", "text": f"{sentence(draw, 'en', 12)}\n{SHARED}", "fate": ""})
    # Which of two near-duplicates stays hangs on their ids; they are as long as each other.
    long = sentence(draw, "en", 200).split(" ")
    found.append({"lang": "en", "text": " ".join(long), "fate": "near_duplicate"})
    found.append({"lang": "en", "text": " ".join([*long[:100], "x" * len(long[100]), *long[101:]]), "fate": ""})
    found += [{"lang": "en", "text": "  ", "fate": "empty"}, {"lang": "fr", "text": "Bonjour à tous.", "fate": "language_not_wanted"}]
    found.append({"lang": "tlh-x", "text": "nuqneH", "fate": "unknown_language"})
    draw.shuffle(found)
    # A file that lies there under two names: its documents have equal ids, and one of them goes.
    return [*found, {**TWIN, "fate": ""}, {**TWIN, "fate": "duplicate"}]


PAIRS = [
    ("Guten Tag, wie geht es Ihnen heute?", "Good day, how are you today?", ""),
    ("Guten Tag, wie geht es Ihnen heute?", "Good day, how are you today?", "duplicate"),
    ("Der Fluss ist breit.", "The river is wide.", ""),
    ("Berge", " ", "empty_side"),
    ("London", "London", "identical_sides"),
]


def write(folder: Path) -> Path:
    (folder / "text").mkdir(parents=True)
    lines = [json.dumps({key: value for key, value in record.items() if key != "fate"}, ensure_ascii=False) for record in records()]
    for name in ("equal-1", "equal-2"):
        (folder / "text" / f"{name}.jsonl").write_text(lines.pop() + "\n")
    for number, at in enumerate(range(0, len(lines), 40)):
        (folder / "text" / f"{number}.jsonl").write_text("\n".join([*lines[at : at + 40], *(['{"text": '] if number == 0 else [])]) + "\n")
    (folder / "de-en.tsv").write_text("".join(f"{a}\t{b}\n" for a, b, _ in PAIRS))
    file = folder / "pipeline.yaml"
    sources = [
        {"kind": "jsonl", "path": "text/*.jsonl", "lang_field": "lang", "licence_field": "licence"},
        {"kind": "tsv-pairs", "path": "de-en.tsv", "lang_a": "de", "lang_b": "en"},
    ]
    settings: dict[str, Any] = {"ingest": {"sources": sources}, "dedup": {"rules": ["length"], "partitions": 2}, **OFF}
    file.write_text(
        json.dumps(
            {"name": "small", "languages": ["en", "de", "th"], "storage": "storage", "quarantine": {"max_share": 1}, "stages": settings}
        )
    )
    return file


def card_of(file: Path) -> dict[str, Any]:
    state = json.loads((file.parent / "storage" / "pipelines" / "small" / "state.json").read_text())
    manifest = json.loads((file.parent / "storage" / state["instances"]["card"]["manifest"]).read_text())
    found: dict[str, Any] = json.loads(
        (file.parent / "storage" / manifest["content"]["outputs"]["card"]["files"]["card.json"]["path"]).read_text()
    )
    return found


@pytest.fixture(scope="module")
def made(pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pipeline file of a corpus that was run up to its card."""
    file = write(tmp_path_factory.mktemp("card") / "project")
    with in_process(pool, tmp_path_factory.mktemp("home")) as call:
        outcome = call("run", file)
    assert outcome.code == 0, outcome.text
    assert set(outcome.states) == {"ingest", "clean", "dedup", "card"}
    yield file


def test_every_language_has_the_counts_of_the_records_as_they_were_written(made: Path) -> None:
    card, written = card_of(made), records()
    assert sorted(card["languages"]) == ["de", "en", "fr", "th", "tlh-x", "und"]
    for lang in ("en", "de", "th", "fr", "tlh-x"):
        mine = [record for record in written if record["lang"] == lang]
        row = card["languages"][lang]
        fates = [record["fate"] for record in mine if record["fate"]]
        assert row["in"] == len(mine)
        assert row["dropped"] == {fate: fates.count(fate) for fate in sorted(set(fates))}
        assert row["kept"] == len(mine) - len(fates)
        assert (row["quarantined"], row["gained"], row["lost"]) == ({}, 0, 0)
        texts = [r["text"] for r in mine if r["fate"] not in ("empty", "language_not_wanted", "unknown_language")]
        assert row["bytes_in"] == sum(len(text.encode()) for text in texts)
        assert row["characters_in"] == row["characters_cleaned"] == sum(len(text) for text in texts)
        kept = [r["text"] for r in mine if not r["fate"]]
        line = f"\n{SHARED}" if lang == "en" else ""
        assert row["dropped_lines"] == bool(line)
        assert row["bytes_kept"] == sum(len(text.encode()) for text in kept) - len(line)
        assert row["characters_kept"] == sum(len(text) for text in kept) - len(line)
        if lang != "th":  # words are estimated there
            assert row["words_in"] == sum(len(text.split()) for text in texts)
            assert row["words_kept"] == sum(len(text.split()) for text in kept) - len(line.split())
        borders = [*card["edges"]["characters"], 1 << 60]
        for name, some in (("lengths", texts), ("lengths_kept", kept)):
            expected = [sum(a <= len(text) < b for text in some) for a, b in pairwise(borders)]
            assert row[name] == expected
        licences = [r.get("licence") or "" for r in mine if r["text"] in texts]
        assert row["licences"] == {name: licences.count(name) for name in sorted(set(licences))}
        decided = len(texts)
        assert row["near_duplicate_share"] == (round(10_000 * fates.count("near_duplicate") / decided) if decided else 0)
        assert row["duplicate_share"] == (round(10_000 * fates.count("duplicate") / decided) if decided else 0)
        assert sum(row["clusters"]) == fates.count("duplicate") + fates.count("near_duplicate")  # each has one other
        judged = sum(row["confidence"]) + sum(row["confidence_other"]) + row["unidentified"]
        assert judged == decided
    assert card["languages"]["und"]["quarantined"] == {"bad_json": 1}


def test_the_sum_of_all_languages_is_what_came_in_and_nothing_is_left_over(made: Path) -> None:
    card = card_of(made)
    whole, rows = card["all"], card["languages"].values()
    assert whole["in"] == len(records()) + 1
    assert whole["in"] == whole["kept"] + sum(whole["dropped"].values()) + sum(whole["quarantined"].values())
    for name in ("in", "kept", "bytes_in", "characters_in", "words_in", "bytes_kept", "characters_kept", "words_kept"):
        assert whole[name] == sum(row[name] for row in rows)
    assert [(page["stage"], page["in"]) for page in card["stages"]] == [
        ("ingest", whole["in"]), ("clean", card["stages"][0]["kept"]), ("dedup", card["stages"][1]["kept"]),
    ]  # fmt: skip
    assert card["sources"]["0"]["quarantined"] == {"bad_json": 1} and card["sources"]["0"]["damaged_bytes"] > 0
    assert card["files"]["number"] == len(list((made.parent / "text").glob("*.jsonl")))


def test_pairs_are_counted_apart_from_documents(made: Path) -> None:
    card = card_of(made)
    assert list(card["pairs"]["languages"]) == ["de-en"]
    row = card["pairs"]["languages"]["de-en"]
    assert (row["in"], row["kept"], row["dropped"]) == (5, 2, {"duplicate": 1, "empty_side": 1, "identical_sides": 1})
    read = [(a, b) for a, b, fate in PAIRS if fate != "empty_side"]
    kept = [(a, b) for a, b, fate in PAIRS if not fate]
    assert row["bytes_in"] == sum(len(text.encode()) for pair in read for text in pair)
    assert (row["characters_in"], row["characters_kept"]) == (sum(len(t) for p in read for t in p), sum(len(t) for p in kept for t in p))
    assert card["samples"]["pairs"]["identical_sides"][0]["text_a"] == "London"


def test_samples_show_what_each_rule_dropped_and_where_it_stands(made: Path) -> None:
    card = card_of(made)
    by_text = {record["text"]: record for record in records()}
    assert sorted(card["samples"]["documents"]) == ["duplicate", "near_duplicate", "too_short"]
    for reason, found in card["samples"]["documents"].items():
        langs = [sample["lang"] for sample in found]
        assert found and max(map(langs.count, langs)) <= 2
        for sample in found:
            text = sample["text"]
            assert len(text) <= 200
            whole = next(full for full in by_text if full == text or (text[-1] == "…" and full.startswith(text[:-1])))
            stored = (made.parent / "text" / sample["source"]).read_bytes()[sample["offset"] :].split(b"\n")[0]
            assert json.loads(stored)["text"] == whole
            assert by_text[whole]["fate"] == reason or "duplicate" in reason  # of equals either may have stayed
    assert {sample["lang"] for sample in card["samples"]["documents"]["too_short"]} == {"de", "en", "th"}


def test_the_card_is_the_same_bytes_however_the_corpus_is_cut_and_whatever_the_order(
    made: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = card_of(made)
    monkeypatch.setenv("PIPELINE_UNIT_ORDER", "shuffle:5")
    outcome = cli("run", made, "stages.ingest.unit_bytes=1024", "stages.dedup.partitions=3")
    assert {"ingest", "clean", "dedup", "card"} == outcome.ran(), outcome.text
    assert json.dumps(card_of(made)) == json.dumps(before)


def test_a_file_that_gives_no_document_still_changes_the_card(made: Path, cli: Cli) -> None:
    assert cli("run", made).code == 0
    before = card_of(made)
    extra = made.parent / "text" / "zz.jsonl"
    extra.write_text('{"text": "", "lang": "de"}\nnot json\n')
    try:
        outcome = cli("run", made)
        after = card_of(made)
    finally:
        extra.unlink()
    assert outcome.states["clean"] == "reused" and outcome.states["card"] == "ran", outcome.text
    assert after["all"]["in"] == before["all"]["in"] + 2
    assert after["languages"]["de"]["dropped"]["empty"] == 1
    assert after["languages"]["und"]["quarantined"]["bad_json"] == 2


def test_show_prints_a_table_of_the_languages_the_reasons_and_the_samples(made: Path, cli: Cli) -> None:
    shown = cli("show", made, "card").out
    lines = [line.split() for line in shown.splitlines()]
    row = card_of(made)["languages"]["en"]
    assert [str(row[name]) for name in ("in", "kept")] == next(line for line in lines if line[:1] == ["en"])[1:3]
    assert "documents dropped: near_duplicate" in shown and "pairs, identical_sides:" in shown
    only = cli("show", made, "card", "languages", "--lang", "th").out.splitlines()
    assert [line.split()[0] for line in only] == ["in", "th"]
