"""Real text enlarged to any size: the same share of duplicates at every size, and new words at the rate at which the real text brings them.

    NTREX-128 (lines in over 100 languages) -> Pool a language: heads and tails of lines, words, Heaps' K and β
    number of a document -> its language, kind and text (a pure function of seed and number) -> <folder>/<file>.jsonl, files in parallel

A line is the head of one real line, a word that is new at the rate K·β·n^(β−1) (n: words of that language so far, fitted on the real text), and the tail of another line.
Of all documents 5% are exact copies of an earlier one and 5% copies in which 0.5 to 2% of the words were replaced; their originals lie anywhere before them, so
mostly in another file. As every document hangs on its number alone, any number of processes writes the same bytes.

Records: {"id": "00000042", "lang": "sw", "text": …}.
"""

from __future__ import annotations

import json
import math
import random
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.text.languages import lookup

EXACT_SHARE, NEAR_SHARE = 0.05, 0.05
EDITED_SHARE = (0.005, 0.02)
"""Smallest and largest share of words replaced in a near copy."""
CUTS = (0.35, 0.5, 0.65)
"""Where lines are cut into head and tail."""
MIN_LINES, MAX_LINES = 4, 40


@dataclass(frozen=True)
class Pool:
    """What documents of a language are made of. `joint` stands between pieces: a space, or nothing."""

    lang: str
    joint: str
    heads: list[str]
    tails: list[str]
    words: list[str]
    tokens: int
    words_a_line: float
    heaps_k: float
    heaps_beta: float


def heaps(words: list[str]) -> tuple[float, float]:
    """K and β of V(n) = K·n^β (Heaps 1978), by least squares on the logarithms at 20 points."""
    seen: set[str] = set()
    points: list[tuple[float, float]] = []
    step = max(1, len(words) // 20)
    for at, word in enumerate(words, 1):
        seen.add(word)
        if at % step == 0:
            points.append((math.log(at), math.log(len(seen))))
    x, y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
    slope = sum((a - x) * (b - y) for a, b in points) / max(1e-9, sum((a - x) ** 2 for a, _ in points))
    return math.exp(y - slope * x), slope


def _pool(lang: str, lines: list[str], spaced: bool) -> Pool:
    joint = " " if spaced else ""
    heads: list[str] = []
    tails: list[str] = []
    words: list[str] = []
    for line in lines:
        pieces = line.split(" ") if spaced else _clusters(line)
        words += pieces if spaced else [joint.join(pieces[at : at + 3]) for at in range(0, len(pieces), 3)]
        if len(pieces) < 4:
            continue
        for share in CUTS:
            cut = max(1, round(share * len(pieces)))
            heads.append(joint.join(pieces[:cut]))
            tails.append(joint.join(pieces[cut:]))
    k, beta = heaps(words)
    return Pool(lang, joint, heads, tails, words, len(words), len(words) / max(1, len(lines)), k, beta)


def _clusters(line: str) -> list[str]:
    """Characters with the marks that follow them."""
    found: list[str] = []
    for character in line:
        if found and unicodedata.category(character)[0] == "M":
            found[-1] += character
        else:
            found.append(character)
    return found


@cache
def pools(folder: str) -> list[Pool]:
    """One pool a language of NTREX-128 below `folder` that the language table knows; by code."""
    found: dict[str, Pool] = {}
    for path in sorted((Path(folder) / "ntrex128").glob("newstest2019-*.txt")):
        try:
            language = lookup(path.name.split(".")[-2])
        except ConfigError:
            continue
        if language.code not in found:
            lines = [
                line
                for raw in path.read_text(encoding="utf-8").split("\n")
                if (line := " ".join(unicodedata.normalize("NFC", raw).split()))
            ]
            found[language.code] = _pool(language.code, lines, language.spaced)
    return [found[code] for code in sorted(found)]


class Generator:
    """Documents by number."""

    def __init__(self, data: Path, seed: int = 1) -> None:
        self._pools = pools(str(data))
        self._seed = seed

    @property
    def languages(self) -> list[str]:
        """Codes of the languages, sorted."""
        return [pool.lang for pool in self._pools]

    def origin(self, number: int) -> tuple[str, int]:
        """("fresh", number), or ("exact" or "near", number of the document that it copies)."""
        rng = random.Random(self._seed << 40 | number << 1)
        drawn = rng.random()
        if number < 100 or drawn >= EXACT_SHARE + NEAR_SHARE:
            return "fresh", number
        kind = "exact" if drawn < EXACT_SHARE else "near"
        while True:
            of = int(rng.random() * number)
            if random.Random(self._seed << 40 | of << 1).random() >= EXACT_SHARE + NEAR_SHARE or of < 100:
                return kind, of

    def document(self, number: int) -> tuple[str, str]:
        """Language and text of a document."""
        kind, of = self.origin(number)
        pool, text = self._fresh(of)
        return pool.lang, self.edited(pool, text, number) if kind == "near" else text

    def edited(self, pool: Pool, text: str, number: int, shares: tuple[float, float] = EDITED_SHARE) -> str:
        """The text with a share of its words replaced by others of the language."""
        rng = random.Random(~(self._seed << 40 | number))
        share = shares[0] + rng.random() * (shares[1] - shares[0])
        if pool.joint:
            lines = [line.split(" ") for line in text.split("\n")]
        else:
            lines = [_clusters(line) for line in text.split("\n")]
        places = [(row, column) for row, line in enumerate(lines) for column in range(len(line))]
        for row, column in rng.sample(places, max(1, round(share * len(places)))):
            other = pool.words[int(rng.random() * len(pool.words))]
            lines[row][column] = other if pool.joint else other[:1]
        return "\n".join(pool.joint.join(line) for line in lines)

    def pool_of(self, lang: str) -> Pool:
        """The pool of a language."""
        return next(pool for pool in self._pools if pool.lang == lang)

    def _fresh(self, number: int) -> tuple[Pool, str]:
        rng = random.Random(self._seed << 40 | number << 1 | 1)
        draw = rng.random
        pool = self._pools[int(draw() * len(self._pools))]
        heads, tails, words = pool.heads, pool.tails, pool.words
        count = MIN_LINES + int((MAX_LINES - MIN_LINES) * draw() * draw())
        # Words of this language so far: the real text, and its share of the documents before.
        before = pool.tokens + number / len(self._pools) * pool.words_a_line * 13
        new_a_line = pool.words_a_line * pool.heaps_k * pool.heaps_beta * before ** (pool.heaps_beta - 1)
        whole, rest = divmod(new_a_line, 1)
        lines = []
        for _ in range(count):
            pieces = [heads[int(draw() * len(heads))]]
            for _ in range(int(whole) + (draw() < rest)):
                a, b = words[int(draw() * len(words))], words[int(draw() * len(words))]
                c = words[int(draw() * len(words))]
                pieces.append(f"{a[: (len(a) + 1) // 2]}{c[len(c) // 3 : len(c) // 3 + 2]}{b[len(b) // 2 :]}")
            pieces.append(tails[int(draw() * len(tails))])
            lines.append(unicodedata.normalize("NFC", pool.joint.join(pieces)).replace("  ", " ").strip())
        return pool, "\n".join(lines)

    def records(self, numbers: range) -> Iterator[bytes]:
        """Documents as lines of JSON."""
        encode = json.JSONEncoder(ensure_ascii=False).encode
        for number in numbers:
            lang, text = self.document(number)
            yield encode({"id": f"{number:08d}", "lang": lang, "text": text}).encode() + b"\n"

    def documents_for(self, size: int) -> int:
        """How many documents make about `size` bytes, by the mean of 2,000 spread over them (twice, as later ones have fewer new words)."""
        documents = 20_000
        for _ in range(2):
            sample = range(0, max(documents, 2_000), max(1, documents // 2_000))
            documents = max(1, round(size / (sum(map(len, self.records(sample))) / len(sample))))
        return documents


def smallest(data: Path, folder: Path) -> Corpus:
    """Two files of three documents each, an exact and a near copy among them, so that whatever looks at copies finds one."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = Generator(data)
    drawn = [generator.document(number) for number in range(4)]
    lang, text = max(drawn, key=lambda each: len(each[1]))
    near = lang, generator.edited(generator.pool_of(lang), text, len(drawn))
    documents = [*drawn, (lang, text), near]
    encode = json.JSONEncoder(ensure_ascii=False).encode
    lines = [encode({"id": f"{n:08d}", "lang": lang, "text": text}).encode() + b"\n" for n, (lang, text) in enumerate(documents)]
    for part in range(2):
        (folder / f"part-{part:04d}.jsonl").write_bytes(b"".join(lines[part::2]))
    return Corpus(folder, len(lines), sum(map(len, lines)), 2, tuple(generator.languages))


def _write(data: str, seed: int, path: str, first: int, last: int) -> int:
    size = 0
    with Path(path).open("wb", buffering=1 << 20) as sink:
        for line in Generator(Path(data), seed).records(range(first, last)):
            size += sink.write(line)
    return size


@dataclass(frozen=True)
class Corpus:
    """A written corpus. `bytes` are those of its files."""

    folder: Path
    documents: int
    bytes: int
    files: int
    languages: tuple[str, ...]

    @property
    def pattern(self) -> str:
        """A glob of its files."""
        return f"{self.folder}/*.jsonl"


def write(data: Path, folder: Path, size: int, *, files: int | None = None, seed: int = 1, processes: int = 2) -> Corpus:
    """Write about `size` bytes of JSON lines into `folder`; files of equal numbers of documents, at most 64 MB each and at least 8, an even number, unless told."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = Generator(data, seed)
    documents = generator.documents_for(size)
    number = files or max(8, 2 * math.ceil(size / 128_000_000))
    edges = [documents * part // number for part in range(number + 1)]
    paths = [str(folder / f"part-{part:04d}.jsonl") for part in range(number)]
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        sizes = list(pool.map(_write, [str(data)] * number, [seed] * number, paths, edges[:-1], edges[1:]))
    return Corpus(folder, documents, sum(sizes), number, tuple(generator.languages))
