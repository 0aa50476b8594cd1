"""Block lists: which addresses and words are on them, and that a changed list changes the decision and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.manifest import State, load
from pipeline.storage import Storage
from pipeline.tables import rows
from pipeline.text.hashing import hash64
from stages.clean.blocklist import EVERY_LANGUAGE, Blocklist, _key
from tests.end_to_end import inside

cli = inside.cli

ENTRIES = ("bad.example", "https://www.good.example/Shop/", "0.0.0.0 hosts.example", "bücher.example", "co.example/a?b=1")
LISTED = Blocklist(
    np.array(sorted(hash64(_key(entry), "address") for entry in ENTRIES), np.uint64),
    {EVERY_LANGUAGE: ["casino"], "en": ["bad word", "ass"], "zh-Hans": ["坏话"], "hi": ["क"]},
)


@pytest.mark.parametrize(
    "url",
    [
        "https://bad.example", "http://BAD.example:8080/x?y", "//www.bad.example/", "https://user@sub.bad.example/page", "good.example/Shop", "https://good.example/Shop/item?id=3",
        "https://m.good.example/Shop#top", "http://hosts.example/x", "https://bücher.example/1", "http://xn--bcher-kva.example", "https://co.example/a?b=1",
    ],
)  # fmt: skip
def test_an_address_is_blocked_by_its_domain_or_by_what_it_begins_with(url: str) -> None:
    assert _blocked(url) == 1


@pytest.mark.parametrize(
    "url", ["https://notbad.example", "https://bad.example.org", "https://good.example", "https://good.example/Shopping", "https://example", "", None, "https://co.example/a?b=12", "::"]
)  # fmt: skip
def test_other_addresses_are_not(url: str | None) -> None:
    assert _blocked(url) == 0


def _blocked(url: str | None) -> int:
    (found,) = LISTED.measure(pa.array([url], pa.string()), pa.array(["x"], pa.large_string()), ["en"])["blocked_url"].to_pylist()
    return int(found)


@pytest.mark.parametrize(
    ("text", "lang", "count"),
    [
        ("A Bad Word, bad word. badword", "en", 2), ("class assess ass", "en", 1), ("Casino casino", "de", 2), ("这是坏话坏话", "zh-Hans", 2), ("कि क", "hi", 1), ("nothing", "en", 0), ("ass", "de", 0),
    ],
)  # fmt: skip
def test_whole_words_are_counted_and_in_scripts_without_spaces_any(text: str, lang: str, count: int) -> None:
    measured = LISTED.measure(pa.nulls(1, pa.string()), pa.array([text], pa.large_string()), [lang])
    assert measured["blocked_words"].to_pylist() == [count]


def test_without_a_list_nothing_is_said() -> None:
    only = Blocklist(None, {"en": ["x"]})
    measured = only.measure(pa.array(["https://a.example", None]), pa.array(["x", "x"], pa.large_string()), ["en", "de"])
    assert measured["blocked_url"].to_pylist() == [-1, -1] and measured["blocked_words"].to_pylist() == [1, -1]


def test_long_lists_are_sought_as_well_as_short_ones() -> None:
    listed = Blocklist(None, {"en": [f"word{n}" for n in range(5_000)]})
    texts = pa.array(["word17 and word4999", "words"], pa.large_string())
    assert listed.measure(pa.nulls(2, pa.string()), texts, ["en", "en"])["blocked_words"].to_pylist() == [2, 0]


def test_a_run_drops_what_is_listed_and_a_changed_list_is_a_reason_to_run(tmp_path: Path, cli: inside.Cli) -> None:
    long = "There are many words in this text, and all of them are good ones. "
    records = [
        {"text": long + "First.", "url": "https://shop.bad.example/x"}, {"text": long + "Second casino.", "url": "https://fine.example"}, {"text": long + "Third.", "url": "https://fine.example/3"},
    ]  # fmt: skip
    (tmp_path / "en.jsonl").write_text("".join(json.dumps({**record, "lang": "en"}) + "\n" for record in records))
    (tmp_path / "urls.txt").write_text("# domains\nbad.example\n")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "en.txt").write_text("casino\n")
    file = tmp_path / "pipeline.yaml"
    stages = {
        "ingest": {"sources": [{"kind": "jsonl", "path": "en.jsonl", "url_field": "url", "lang_field": "lang"}]},
        "clean": {"identify": False, "blocked_urls": "urls.txt", "blocked_words": "words/{lang}.txt"}, "heldout": None, "examples": None, "dedup": {"near": None, "lines": None, "partitions": 1},
    }  # fmt: skip
    file.write_text(json.dumps({"name": "blocked", "languages": ["en"], "storage": "storage", "stages": stages}))
    assert cli("run", file, "--until", "dedup").code == 0
    assert _reasons(tmp_path) == ["", "blocked_url", "blocked_words"]
    profile = cli("show", file, "clean", "profile")
    assert profile.code == 0 and "rule mojibake" in profile.out and "identification" in profile.out and "documents/s" in profile.out
    assert "rule blocklist" in cli("show", file, "dedup", "profile").out
    assert "profile" in cli("show", file, "clean").out.splitlines()[2]
    (tmp_path / "words" / "en.txt").write_text("third\n")
    assert "clean         will run" in cli("plan", file).out
    assert cli("run", file, "--until", "dedup").code == 0
    assert _reasons(tmp_path) == ["", "blocked_url", "blocked_words"]
    (tmp_path / "urls.txt").unlink()
    missing = cli("plan", file)
    assert missing.code == 3 and "clean.blocked_urls: no file matches urls.txt" in missing.err


def _reasons(folder: Path) -> list[str]:
    storage = Storage.at(str(folder / "storage"))
    made = load(storage, State.load(storage, "blocked").instances["dedup"]["manifest"])
    assert made is not None
    return sorted(row["reason"] for shard in made.outputs["decisions"].shards for row in rows(storage.local(shard.path, shard.sha256)))
