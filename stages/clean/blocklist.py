"""Block lists: which addresses and words of a document stand on lists that the user gives.

    files (`blocked_urls`, `blocked_words`) -> `read_lists`, one unit: sorted hashes of addresses, words by language
        -> `Blocklist` on each worker -> columns `blocked_url` (1 or 0) and `blocked_words` (a count); -1 where there is no list

An address list has a domain (`example.com`, which blocks its subdomains too), an address (`example.com/shop`, which blocks what lies below) or a line of a hosts file
(`0.0.0.0 example.com`) a line. Schemes, `www.`, ports, user names and case of the host make no difference. A word list has a word or phrase a line; case makes no difference. In scripts
with spaces only whole words match. Empty lines and those that begin with `#` say nothing. Lists are those of UT1, LDNOOBW and their like; FineWeb filters by the former.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.manifest import Shard
from pipeline.sources import open_source
from pipeline.stage import Context
from pipeline.storage import Storage, digest
from pipeline.tables import read_table
from pipeline.task import Task
from pipeline.text import languages
from pipeline.text.characters import MARKS
from pipeline.text.hashing import hash64
from pipeline.text.normalise import normalise
from pipeline.units import Phase, Unit
from stages.clean.rewrite import touched

KINDS = ("urls/", "words/")
"""How the names of the sources of lists begin."""
EVERY_LANGUAGE = ""
"""Under this name stand the words that are sought in texts of all languages."""
WORDS_A_GATE = 1000

_ADDRESSES = pa.schema([pa.field("hash", pa.uint64(), nullable=False)])
_BEFORE_HOST = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_HOSTS_FILE = re.compile(r"^(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+(\S+)")


def stored(context: Context) -> dict[str, Shard]:
    """What the lists say, as files of the storage, which all workers reach; empty where no list is given. The sources of lists are named `urls/…` or `words/…`."""
    listed = [(source, sha256) for source, sha256 in context.sources if source.name.startswith(KINDS)]
    if not listed:
        return {}
    files = [{"url": source.url, "name": source.name, "lang": source.lang} for source, _ in listed]
    content = digest([[source.name.partition("/")[0], source.lang, sha256] for source, sha256 in listed])
    unit = Unit(content, {"files": files}, sum(source.size for source, _ in listed), "block lists")
    (result,) = context.map(Phase("blocklist", "stages.clean.blocklist:read_lists", {}, "entries"), [unit])
    return dict(result.files)


def read_lists(task: Task) -> None:
    """Worker: read all lists."""
    hashes: set[int] = set()
    words: dict[str, set[str]] = {}
    has_urls = False
    for file in task.argument["files"]:
        kind, lang = file["name"].partition("/")[0], file["lang"] or EVERY_LANGUAGE
        has_urls |= kind == "urls"
        for entry in task.records(_entries(file["url"], file["name"]), lambda _: "und"):
            if kind == "urls":
                hashes.add(hash64(_key(entry), "address"))
            else:
                words.setdefault(lang, set()).add(entry.lower())
            task.ledger.keep("und")
    with task.table("addresses", _ADDRESSES) as table:
        table.batch({"hash": pa.array(np.array(sorted(hashes), np.uint64))})
    with task.file("words.json") as path:
        plain = {"urls": has_urls, "words": {lang: sorted(listed) for lang, listed in sorted(words.items())}}
        path.write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8")


def _entries(url: str, name: str) -> Iterator[str]:
    with open_source(url) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = normalise(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise ConfigError(f"block list {name}, line {number}: not UTF-8 ({error.reason}). Convert the file to UTF-8.") from None
            if text and not text.startswith("#"):
                yield text


def _key(entry: str) -> str:
    """The one spelling of an entry of an address list."""
    hosts_file = _HOSTS_FILE.match(entry)
    host, path = _split(hosts_file[1] if hosts_file else entry)
    return f"{host}/{path}" if path else host


def _split(address: str) -> tuple[str, str]:
    """The host (lower case, ASCII, without `www.`) and the path and query without slashes at the ends."""
    rest = _BEFORE_HOST.sub("", address).partition("#")[0]
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    return _host(rest[:cut]), rest[cut:].strip("/")


@lru_cache(1 << 14)
def _host(authority: str) -> str:
    name = authority.rpartition("@")[2]
    host = re.sub(r":\d*$", "", name).strip(".").lower()
    if not host.isascii():
        with contextlib.suppress(UnicodeError):  # no name that a resolver takes: it is compared as it stands
            host = host.encode("idna").decode("ascii")
    return host.removeprefix("www.")


@lru_cache(1 << 14)
def _host_hashes(host: str) -> tuple[int, ...]:
    """Hashes of a host and of all domains above it, but for the top one."""
    labels = host.split(".")
    return tuple(hash64(".".join(labels[first:]), "address") for first in range(max(1, len(labels) - 1)))


def _address_hashes(url: str) -> list[int]:
    """Hashes of whatever entry would block the address."""
    host, path = _split(url)
    found = list(_host_hashes(host))
    if path:
        ends = [match.start() for match in re.finditer(r"[/?]", path)] + [len(path)]
        hosts = [host, *(host[at + 1 :] for at, character in enumerate(host) if character == "." and "." in host[at + 1 :])]
        found += [hash64(f"{each}/{path[:end]}", "address") for each in hosts for end in ends]
    return found


class Blocklist:
    """The lists on a worker; `measure` gives the two columns of a batch."""

    def __init__(self, hashes: np.ndarray[Any, np.dtype[np.uint64]] | None, words: Mapping[str, Sequence[str]]) -> None:
        self._hashes = hashes
        self._words = words
        self._of: dict[str, _Words | None] = {}

    @classmethod
    def read(cls, storage: Storage, given: Mapping[str, Any]) -> Blocklist:
        """As `read_lists` wrote them; `given` names none where there are none."""
        if "addresses" not in given:
            return cls(None, {})
        shards = {name: Shard(**given[name]) for name in ("addresses", "words.json")}
        plain = json.loads(storage.local(shards["words.json"].path, shards["words.json"].sha256).read_text("utf-8"))
        hashes = read_table(storage.local(shards["addresses"].path, shards["addresses"].sha256))["hash"].to_numpy()
        return cls(hashes if plain["urls"] else None, plain["words"])

    def measure(self, urls: pa.Array, texts: pa.Array, langs: Sequence[str]) -> dict[str, Any]:
        """`blocked_url` and `blocked_words` of each document, int32, shape (texts,); texts are `large_string`."""
        return {"blocked_url": pa.array(self._urls(urls), pa.int32()), "blocked_words": pa.array(self._counts(texts, langs), pa.int32())}

    def _urls(self, urls: pa.Array) -> np.ndarray[Any, np.dtype[np.int32]]:
        if self._hashes is None:
            return np.full(len(urls), -1, np.int32)
        blocked = np.zeros(len(urls), np.int32)
        asked = [(row, _address_hashes(url)) for row, url in enumerate(urls.to_pylist()) if url]
        if not asked or not len(self._hashes):
            return blocked
        hashes = np.array([each for _, found in asked for each in found], np.uint64)
        rows = np.repeat([row for row, _ in asked], [len(found) for _, found in asked])
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        blocked[rows[self._hashes[at] == hashes]] = 1
        return blocked

    def _counts(self, texts: pa.Array, langs: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int32]]:
        counts = np.full(len(texts), -1, np.int32)
        if not self._words:
            return counts
        by_language: dict[str, list[int]] = {}
        for row, lang in enumerate(langs):
            by_language.setdefault(lang, []).append(row)
        for lang, rows in by_language.items():
            if lang not in self._of:
                listed = sorted({*self._words.get(EVERY_LANGUAGE, ()), *self._words.get(lang, ())})
                spaced = lang == "und" or languages.lookup(lang).spaced
                self._of[lang] = _Words(listed, spaced) if listed else None
            words = self._of[lang]
            if words is not None:
                counts[rows] = words.count(texts.take(pa.array(rows, pa.int64())))
        return counts


class _Words:
    """The words of one language."""

    def __init__(self, words: Sequence[str], spaced: bool) -> None:
        self._words, self._spaced = words, spaced
        escaped = [re.escape(word) for word in words]
        self._gates = ["(?i)" + "|".join(escaped[first : first + WORDS_A_GATE]) for first in range(0, len(escaped), WORDS_A_GATE)]

    def count(self, texts: pa.Array) -> list[int]:
        """How often a listed word stands in each text; of words that overlap the longest counts."""
        counts = [0] * len(texts)
        rows = {row: text for gate in self._gates for row, text in zip(*touched(gate, texts), strict=True)}
        for row, text in rows.items():
            small = text.lower()
            here = sorted((word for word in self._words if word in small), key=lambda word: (-len(word), word))
            if here:
                either = "|".join(map(re.escape, here))
                pattern = rf"(?<![\w{MARKS}])(?:{either})(?![\w{MARKS}])" if self._spaced else either
                counts[row] = len(re.findall(pattern, small))
        return counts
