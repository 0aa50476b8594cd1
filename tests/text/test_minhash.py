"""MinHash signatures and components, against slow references."""

import random
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text import minhash
from pipeline.text.tables import LONG, MARK, POINTS, SHORT, SPACE, SYMBOL, classes, lowered


def batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return utf8(pa.array(texts, pa.large_string()))


def _units(text: str) -> list[str]:
    """Slow reference: words between white space and punctuation; in unspaced scripts a character with its marks."""
    found: list[str] = []
    is_open, is_word = False, False
    for character in text:
        point = ord(character)
        bits = int(classes()[point]) if point < POINTS else SYMBOL
        if bits & (SPACE | SYMBOL):
            is_open = False
            continue
        unspaced = bool(bits & (SHORT | LONG))
        if is_open and (bits & MARK or (is_word and not unspaced)):
            found[-1] += chr(lowered()[point])
        else:
            found.append(chr(lowered()[point]))
            is_open, is_word = True, not unspaced
    return found


def _mixed(h: int) -> int:
    h = ((h ^ h >> 30) * 0xBF58476D1CE4E5B9) % 2**64
    h = ((h ^ h >> 27) * 0x94D049BB133111EB) % 2**64
    return h ^ h >> 31


def _signature(text: str) -> list[int]:
    """Slow reference: the band hashes of a text of scripts with spaces."""
    units = []
    for unit in _units(text):
        h = 0xCBF29CE484222325
        for character in unit:
            h = ((h ^ ord(character)) * 0x100000001B3) % 2**64
        units.append(_mixed(h))
    base = 0x9E3779B97F4A7C15
    n = min(5, len(units))
    shingles = [
        _mixed(sum(unit * base ** (n - 1 - at) for at, unit in enumerate(units[i : i + n])) % 2**64) for i in range(len(units) - n + 1)
    ]
    a, b = (column.tolist() for column in minhash.multipliers())
    minima = [min((a[j] * x + b[j]) % 2**64 >> 32 for x in shingles) for j in range(minhash.BANDS * minhash.ROWS)]
    bands = []
    for band in range(minhash.BANDS):
        mixed = band + 1
        for least in minima[band * minhash.ROWS : (band + 1) * minhash.ROWS]:
            mixed = _mixed((mixed * base + least) % 2**64)
        bands.append(mixed)
    return bands


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("aÀé क ि\u0301.,\n9\U000e0101", min_size=1, max_size=6), min_size=1, max_size=12).map(" ".join))
def test_a_signature_is_that_of_the_slow_reference(text: str) -> None:
    bands, counts = minhash.band_hashes(*batch(["", text]))
    assert counts[0] == 0 and counts[1] == (max(1, len(_units(text)) - 4) if _units(text) else 0)
    if counts[1]:
        assert bands[1].tolist() == _signature(text)


def test_signatures_are_those_of_earlier_versions() -> None:
    texts = [
        "The quick, brown FOX jumps over it and then the lazy dog sleeps all day.", "कि का के को कु भाषा में लिखा हुआ पाठ है",
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ", "人人生而自由在尊严和权利上一律平等abc他们赋有理性", "x", "", "…\U000e0101\U0003ffffa",
    ]  # fmt: skip
    bands, counts = minhash.band_hashes(*batch(texts))
    assert counts.tolist() == [11, 7, 29, 15, 1, 0, 1]
    assert sha256(bands.astype("<u8").tobytes()).hexdigest()[:32] == "de84b898c139fe5d61b399fa8cf59812"


def test_candidates_hold_nearly_all_pairs_that_are_alike_and_few_that_are_not() -> None:
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefghijklmnop", k=5)) for _ in range(3_000)]
    originals = [draw.choices(words, k=200) for _ in range(150)]
    texts = [" ".join(text) for text in originals]
    for text in originals:
        copy = list(text)
        for place in draw.sample(range(200), 4):  # four new words touch up to twenty of 196 shingles: similarity about .82
            copy[place] = draw.choice(words)
        texts.append(" ".join(copy))
    bands, _ = minhash.band_hashes(*batch(texts))
    shared = (bands[:150] == bands[150:]).any(axis=1)
    assert shared.mean() > 0.85
    others = (bands[:150] == np.roll(bands[150:], 1, axis=0)).any(axis=1)
    assert not others.any()


def test_edges_given_in_parts_make_the_same_components() -> None:
    draw = np.random.default_rng(3)
    edges = draw.integers(0, 400, (300, 2))
    root = np.arange(400, dtype=np.int32)
    for part in (edges[:100], edges[100:]):
        minhash.unite(root, part[:, 0].copy(), part[:, 1].copy())
    minhash.name_roots(root)
    assert root.tolist() == minhash.components(400, edges).tolist()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
def test_components_are_named_by_their_smallest_node(nodes: int, drawn: list[tuple[int, int]]) -> None:
    edges = [(a, b) for a, b in drawn if a < nodes and b < nodes]
    found = minhash.components(nodes, np.array(edges, np.int64).reshape(-1, 2)).tolist()
    wanted = list(range(nodes))
    for _ in range(nodes):
        for a, b in edges:
            wanted[a] = wanted[b] = min(wanted[a], wanted[b])
    assert found == wanted


@pytest.mark.parametrize("text", ["", "...", "a", "ab cd"])
def test_short_texts_have_one_shingle_or_none(text: str) -> None:
    _, counts = minhash.band_hashes(*batch([text]))
    assert counts.tolist() == [1 if any(map(str.isalnum, text)) else 0]
