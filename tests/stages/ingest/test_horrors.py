"""Text of every horrible shape, and bombs, through every kind of source as `ingest` reads them: a stated policy, counted, no crash, bounded memory.

values (bytes) -> written as a kind writes text -> read_unit (no Ray) -> documents or pairs, damage, ledger
"""

from __future__ import annotations

import base64
import bz2
import gzip
import importlib
import io
import itertools
import json
import lzma
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from pydantic import ValidationError

from pipeline.errors import ConfigError, StageError
from pipeline.storage import Storage
from pipeline.tables import rows
from pipeline.task import execute, find
from stages.ingest.records import Damaged, Pair, Pending, Record, SourceFile
from stages.ingest.sources import SOURCES

ROOT = Path(__file__).resolve().parents[3]
FIRST, LAST = b"The first good one.", b"The last good one."


@dataclass(frozen=True)
class Read:
    """What came of a file: texts kept (of a pair its first side), reasons of damage with their offsets, the ledger's sums."""

    texts: list[str]
    damage: list[tuple[int, str]]
    dropped: dict[str, int]
    quarantined: dict[str, int]


def read(folder: Path, kind: str, data: bytes, name: str = "en.bin", **settings: Any) -> Read:
    """Read a file as a unit of ingest."""
    path = folder / name
    path.write_bytes(data)
    more = {"lang_a": "en", "lang_b": "de"} if kind == "tsv-pairs" else {}
    module = importlib.import_module(SOURCES[kind])
    source = module.Config(kind=kind, path=str(path), **more, **settings).model_dump(mode="json", exclude={"path"})
    storage = Storage.at(str(folder / "storage"), "a1")
    file = {
        "url": str(path), "name": f"0/{name}", "lang": "en", "size": len(data), "sha256": "00" * 32,
        "slice": {"start": 0, "stop": None, "unit": "whole"}, "partner": None,
    }  # fmt: skip
    key = f"{random.Random(name + kind).getrandbits(256):064x}"
    execute(
        {
            "root": storage.root, "attempt": "a1", "started": "tmp/a1/started/0", "stage": "ingest", "phase": "read",
            "function": "stages.ingest.reading:read_unit", "settings": {"source": source, "max_shard_bytes": 1 << 26}, "given": {"path": str(path)}, "unit": "documents",
            "units": [{"key": key, "argument": {"files": [file], "languages": ["en", "de"]}, "label": name}],
            "skip": [], "cut": [], "trial": None, "memory_bytes": None,
        }
    )  # fmt: skip
    found = find(storage, "ingest", "read", key)
    assert found is not None
    found.ledger.check(name)
    table = {slot: list(rows(Path(storage.root) / found.files[slot].path)) for slot in ("documents", "bitext", "damage")}
    texts = [row["text"] for row in table["documents"]] or [row["text_a"] for row in table["bitext"]]
    assert found.ledger.kept == len(texts) and sum(found.ledger.quarantined.values()) == len(table["damage"])
    return Read(texts, [(row["offset"], row["reason"]) for row in table["damage"]], found.ledger.dropped, found.ledger.quarantined)


# ---------------------------------------------------------------- how a kind writes text


def of_lines(end: bytes, values: list[bytes]) -> bytes:
    return end.join(values)


def of_json(end: bytes, values: list[bytes]) -> bytes:
    return end.join(b'{"text": "' + value.replace(b"\0", b"\\u0000") + b'"}' for value in values)


def of_pairs(end: bytes, values: list[bytes]) -> bytes:
    return end.join(value + b"\tEin Satz." for value in values)


def of_html(end: bytes, values: list[bytes]) -> bytes:
    return b"<html><body>" + end.join(b"<article><p>" + value + b"</p></article>" for value in values) + b"</body></html>"


def of_parquet(end: bytes, values: list[bytes]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(values, pa.binary())}), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[bytes, list[bytes]], bytes]] = {
    "text": of_lines, "jsonl": of_json, "tsv-pairs": of_pairs, "html": of_html, "parquet": of_parquet,
}  # fmt: skip
"""The kinds whose policy is stated here value by value; whatever else is registered must at least bear garbage."""
SETTINGS: dict[str, dict[str, Any]] = {"html": {"document": "article"}}
BY_FILE = ("html",)
"""Kinds that are read as a whole: what cannot be decoded costs the file."""


@pytest.mark.fault("I6")
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("horror", "kept", "reason"),
    [
        (b"cut \xff off", None, "invalid_utf8"),
        (b"half a pair \xed\xa0\x80 of surrogates", None, "invalid_utf8"),
        (b"overlong \xc0\xaf", None, "invalid_utf8"),
        (b"with a \0 in it", "with a \0 in it", None),
        ("line\u2028and paragraph\u2029separators, \x85 and \x0b".encode(), "line\u2028and paragraph\u2029separators, \x85 and \x0b", None),
        (b"\xef\xbb\xbfa mark inside", "\ufeffa mark inside", None),
        ("नमस्ते \u200dक्\u200cष Ǻ \U0001f469\u200d\U0001f4bb".encode(), "नमस्ते \u200dक्\u200cष Ǻ \U0001f469\u200d\U0001f4bb", None),
        (b"long " * 4000, None, "record_too_long"),
    ],
    ids=["invalid UTF-8", "a lone surrogate", "an overlong form", "NUL", "U+2028", "a mark inside", "joiners", "too long"],
)
def test_a_horrible_text_costs_itself_and_is_counted(
    tmp_path: Path, kind: str, horror: bytes, kept: str | None, reason: str | None
) -> None:
    if kind == "jsonl" and kept is not None and "\x0b" in kept:
        horror, kept = horror.replace(b"\x0b", b"\\u000b"), kept  # JSON has no raw control characters
    settings = {"max_record_bytes": 4096, **SETTINGS.get(kind, {})}
    found = read(tmp_path, kind, WRITERS[kind](b"\n", [FIRST, horror, LAST]), **settings)
    good = [FIRST.decode(), LAST.decode()]
    if reason is not None:
        assert (found.texts, found.quarantined) == ([] if kind in BY_FILE else good, {reason: 1})
        return
    if kind == "html":  # its standard makes U+FFFD of NUL, or leaves it out, and a space of VT
        kept = str(kept).replace("\0", "").replace("  ", " ")
        found = Read([text.replace("\0", "").replace("\ufffd", "") for text in found.texts], found.damage, found.dropped, found.quarantined)
    assert (found.texts, found.quarantined) == ([good[0], kept, good[1]], {})


@pytest.mark.fault("I6")
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf"], ids=["", "mark at the head"])
@pytest.mark.parametrize(
    ("end", "tail"), [(b"\n", b"\n"), (b"\n", b""), (b"\r\n", b"\r\n"), (b"\r\n", b"")], ids=["LF", "no end", "CRLF", "CRLF, no end"]
)
def test_ends_of_lines_and_a_byte_order_mark_are_no_text(tmp_path: Path, kind: str, head: bytes, end: bytes, tail: bytes) -> None:
    data = WRITERS[kind](end, [FIRST, LAST])
    data = data if kind == "parquet" else head + data + tail
    assert read(tmp_path, kind, data, **SETTINGS.get(kind, {})) == Read([FIRST.decode(), LAST.decode()], [], {}, {})


@pytest.mark.fault("I6")
def test_a_surrogate_that_only_json_can_spell_is_quarantined(tmp_path: Path) -> None:
    found = read(tmp_path, "jsonl", of_json(b"\n", [FIRST, b"half \\ud800 a pair", b"\\ud83d\\ude00", LAST]))
    assert (found.texts[1:2], len(found.texts), found.damage) == (["\U0001f600"], 3, [(len(FIRST) + 13, "lone_surrogate")])


@pytest.mark.fault("I6", "I7")
@pytest.mark.parametrize("kind", WRITERS)
def test_an_empty_file_is_no_crash(tmp_path: Path, kind: str) -> None:
    found = read(tmp_path, kind, b"")
    assert found.texts == []
    assert found.quarantined == ({"corrupt": 1} if kind == "parquet" else {})
    assert found.dropped == ({"empty": 1} if kind == "html" else {})


def config_of(kind: str) -> Any:
    """The kind's settings with no more than it demands."""
    module = importlib.import_module(SOURCES[kind])
    sides = {"lang_a": "en", "lang_b": "de"}
    for more in ({}, {"lang_b": "de"}, sides, {"lang": "en"}, {"other": "x/other.bin", **sides}):
        try:
            return module.Config(kind=kind, path="x/{lang}.bin", **more)
        except ValidationError:
            continue
    raise AssertionError(f"{kind} demands settings that this test does not know: name them here, so that it meets garbage too")


def sides_of(config: Any, data: bytes) -> list[tuple[bytes, bytes | None]]:
    """What a file and its partner hold: the garbage in both, in either; most kinds have no partner."""
    return [(data, data), (data, GOOD), (GOOD, data)] if hasattr(config, "other") else [(data, None)]


GARBAGE = {
    "no byte": b"", "one LF": b"\n", "NUL": bytes(5000), "a mark": b"\xef\xbb\xbf", "UTF-16": "one\ntwo\n".encode("utf-16"),
    "noise": random.Random(1).randbytes(70_000), "lone CR": b"one\rtwo\rthree", "a long line": b"x" * 100_000 + b"\nshort\n",
    "brackets": b"[" * 50_000 + b"<" * 50_000 + b"{" * 50_000, "tags": b"<a>" * 20_000, "gzip": gzip.compress(b"one\n" * 100),
    "tabs": b"\t" * 30_000 + b"\n", "surrogates": b'{"text": "\\udc00"}\n' * 3, "latin-1": "Straße\tBrücke\n".encode("latin-1") * 9,
}  # fmt: skip

GOOD = b"A good line.\nAnd one more.\n"


@pytest.mark.fault("I6")
@pytest.mark.parametrize("kind", SOURCES)
def test_garbage_in_any_kind_of_source_is_damage_or_text_and_never_a_crash(kind: str) -> None:
    module, config = importlib.import_module(SOURCES[kind]), config_of(kind)
    for (name, data), max_bytes in itertools.product(GARBAGE.items(), (1 << 20, 1 << 14)):
        for mine, others in sides_of(config, data):
            partner = None if others is None else SourceFile("mem:other.bin", "other.bin", len(others))
            file = SourceFile("mem:en.bin", "en.bin", len(mine), "en", None, partner)
            held = {None: mine, "mem:other.bin": others or b""}
            items = []
            try:
                for part in module.slices(file, config, max_bytes):
                    items += list(module.read(lambda url=None, held=held: io.BytesIO(held[url]), file, part, config))
            except ConfigError as error:  # a fault of the settings, told as such
                assert str(error)
                continue
            except StageError as error:
                assert mine != others and "en.bin" in str(error) and "other.bin" in str(error) and "not aligned" in str(error), name
                continue
            for found in items:
                item = found.make() if isinstance(found, Pending) else found
                assert isinstance(item, Record | Pair | Damaged), name
                texts = [item.text] if isinstance(item, Record) else [item.text_a, item.text_b] if isinstance(item, Pair) else [item.reason]
                assert all(text.encode() is not None for text in texts), name  # no lone surrogate
            if others is not None and mine != others and mine and others:
                assert items, name  # a line beside garbage is a pair or damage


# ---------------------------------------------------------------- bombs

_BOMB = """
import base64, json, sys
from pathlib import Path
from tests.stages.ingest.test_horrors import read, peak_bytes
folder, kind, name, member, times = sys.argv[1:]
data = base64.b64decode(member) * int(times)
small = read(Path(folder), kind, b"", "small.bin")
before = peak_bytes()
found = read(Path(folder), kind, data, name)
print(json.dumps([len(found.texts), found.quarantined, peak_bytes() - before]))
"""
PACK: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress}


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))


def exploded(folder: Path, kind: str, name: str, member: bytes, times: int) -> tuple[int, dict[str, int], int]:
    """Read a file of `times` equal members in a process of its own: documents kept, what was quarantined, bytes of memory it took at most."""
    argument = [sys.executable, "-c", _BOMB, str(folder), kind, name, base64.b64encode(member).decode(), str(times)]
    done = subprocess.run(argument, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    texts, quarantined, grown = json.loads(done.stdout)
    return texts, quarantined, grown


@pytest.mark.fault("I5")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see the memory of a process")
@pytest.mark.parametrize(
    ("kind", "packing", "most_bytes"),
    [
        ("text", "xz", 160 << 20),
        pytest.param("text", "gz", 160 << 20, marks=pytest.mark.slow),
        pytest.param("text", "bz2", 160 << 20, marks=pytest.mark.slow),
        pytest.param("text", "zst", 200 << 20, marks=pytest.mark.slow),
        pytest.param("jsonl", "gz", 160 << 20, marks=pytest.mark.slow),
        pytest.param("tsv-pairs", "gz", 160 << 20, marks=pytest.mark.slow),
        pytest.param("html", "gz", 250 << 20, marks=pytest.mark.slow),
    ],
)
def test_a_bomb_in_one_line_is_stopped_and_takes_little_memory(tmp_path: Path, kind: str, packing: str, most_bytes: int) -> None:
    """A member of 16 MiB, 64 times: 1 GiB in one line."""
    kept, quarantined, grown = exploded(tmp_path, kind, f"en.bin.{packing}", PACK[packing](b"a" * (16 << 20)), 64)
    assert kept == 0
    assert sum(quarantined.values()) == 1 and set(quarantined) <= {"expansion_ratio", "record_too_long"}
    assert grown < most_bytes, f"{grown >> 20} MiB"


@pytest.mark.fault("I5")
@pytest.mark.parametrize("packing", PACK)
def test_of_a_nested_bomb_one_layer_is_undone_and_the_rest_is_no_text(tmp_path: Path, packing: str) -> None:
    inner = PACK[packing](bytes(8 << 20))
    bomb = PACK[packing](PACK[packing](inner * 8))
    found = read(tmp_path, "text", bomb, f"en.txt.{packing}")
    assert found.texts == [] and sum(found.quarantined.values()) > 0
    assert len(bomb) < 1 << 20
