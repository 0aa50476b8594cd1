"""Decompression, lines and decoding: whole streams, damaged ones, bombs, and lines of every horrible shape."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tracemalloc
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from stages.ingest.records import Damaged
from stages.ingest.streams import Caps, Compression, compression_of, decode, has_lone_surrogate, lines, open_stream, whole

PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor(write_checksum=True).compress}
KINDS: list[Compression] = ["gz", "bz2", "xz", "zst"]
TEXT = "".join(f"{random.Random(i).random()} line {i}\n" for i in range(20_000)).encode()


def unpack(data: bytes, kind: Compression, caps: Caps | None = None) -> tuple[bytes, Damaged | None]:
    items = list(open_stream(io.BytesIO(data), kind, caps))
    damage = [item for item in items if isinstance(item, Damaged)]
    assert len(damage) <= 1 and all(isinstance(item, bytes) and item for item in items[: len(items) - len(damage)])
    return b"".join(item for item in items if isinstance(item, bytes)), damage[0] if damage else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault("I4")
def test_several_members_are_one_text(kind: Compression) -> None:
    packed = b"".join(PACK[kind](TEXT[at : at + 100_000]) for at in range(0, len(TEXT), 100_000)) + PACK[kind](b"") + PACK[kind](b"end")
    assert unpack(packed, kind) == (TEXT + b"end", None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.fault("I4")
def test_a_truncated_stream_gives_what_was_whole_and_says_where_it_ends(kind: Compression, share: float) -> None:
    packed = PACK[kind](TEXT)
    packed = packed[: max(int(len(packed) * share), 0)] if share < 0.9 else packed[:-1]
    found, damage = unpack(packed, kind)
    assert TEXT.startswith(found) and damage is not None
    assert (damage.offset, damage.length, damage.reason, damage.rest_of_stream) == (len(found), None, "truncated", True)
    assert damage.stored_offset == len(packed)
    if share == 0.5 and kind != "bz2":  # whose one block is not whole
        assert found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault("I4")
def test_truncation_between_members_is_no_damage_but_within_the_second_it_is(kind: Compression) -> None:
    one = PACK[kind](b"one\n")
    assert unpack(one, kind) == (b"one\n", None)
    found, damage = unpack(one + PACK[kind](TEXT)[:40], kind)
    assert found.startswith(b"one\n") and damage is not None and damage.reason == "truncated"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault("I4")
def test_garbage_behind_the_last_member_is_damage_and_costs_nothing_before_it(kind: Compression) -> None:
    found, damage = unpack(PACK[kind](TEXT) + b"<html>not found</html>", kind)
    assert found == TEXT
    assert damage is not None and (damage.offset, damage.reason) == (len(TEXT), "garbage_tail")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_what_its_name_says_is_damaged_from_the_start(kind: Compression) -> None:
    found, damage = unpack(b"<html>404</html>" * 20, kind)
    assert found == b"" and damage is not None and (damage.offset, damage.reason) == (0, "corrupt")


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_zero_padding_behind_a_member_is_padding(kind: Compression) -> None:
    assert unpack(PACK[kind](b"a") + bytes(8192) + PACK[kind](b"b") + bytes(512), kind) == (b"ab", None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault("I4")
def test_a_flipped_byte_never_goes_unseen(kind: Compression) -> None:
    packed = bytearray(PACK[kind](TEXT))
    seen = 0
    for at in range(len(packed) // 3, len(packed), len(packed) // 7):
        broken = bytearray(packed)
        broken[at] ^= 0x40
        found, damage = unpack(bytes(broken), kind)
        seen += damage is not None
        assert damage is not None or found == TEXT
        if damage is not None:
            assert damage.offset == len(found) and damage.rest_of_stream
            assert damage.stored_offset is not None and at - 8192 < damage.stored_offset < len(packed)
    assert seen >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_delivered_does_not_hang_on_how_the_file_is_read(kind: Compression) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 777))

    packed = bytearray(PACK[kind](TEXT))
    packed[len(packed) // 2] ^= 0xFF
    at_once = unpack(bytes(packed), kind)
    slowly = list(open_stream(Slow(bytes(packed)), kind))
    assert b"".join(item for item in slowly if isinstance(item, bytes)) == at_once[0]
    assert slowly[-1] == at_once[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault("I5")
def test_a_bomb_is_stopped_by_its_ratio_in_bounded_memory(kind: Compression) -> None:
    member = PACK[kind](bytes(64 << 20))
    bomb = member * 4
    del member
    tracemalloc.start()
    total, damage = 0, None
    for item in open_stream(io.BytesIO(bomb), kind):
        if isinstance(item, Damaged):
            damage = item
        else:
            total += len(item)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert damage is not None and damage.reason == "expansion_ratio" and damage.offset == total
    assert total <= 100 << 20 and peak < 140 << 20


@pytest.mark.parametrize("kind", [*KINDS, "none"])
@pytest.mark.fault("I5")
def test_a_stream_is_stopped_by_its_size_in_all(kind: Compression) -> None:
    packed = TEXT if kind == "none" else PACK[kind](TEXT)
    found, damage = unpack(packed, kind, Caps(max_bytes=len(TEXT) - 1))
    assert damage is not None and damage.reason == "expansion_total" and len(found) < len(TEXT)
    assert unpack(packed, kind, Caps(max_bytes=len(TEXT))) == (TEXT, None)


@pytest.mark.fault("I5")
def test_a_window_that_wants_too_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=29)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    found, damage = unpack(compressor.compress(b"abc" * 1000) + compressor.flush(), "zst")
    assert found == b"" and damage is not None and damage.reason == "corrupt" and "memory" in damage.detail


@pytest.mark.fault("I5")
def test_a_nested_archive_is_unpacked_once() -> None:
    inner = gzip.compress(b"text", mtime=0)
    assert unpack(gzip.compress(inner), "gz") == (inner, None)


def test_an_unreadable_file_is_an_error_of_the_machine_not_damage_of_the_data() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    for kind in (*KINDS, "none"):
        with pytest.raises(OSError, match="Input/output"):
            list(open_stream(Broken(), kind))


def test_compression_goes_by_suffix_or_as_set() -> None:
    assert [compression_of(name) for name in ("a.txt", "a.txt.GZ", "a.bz2", "a.xz", "a.zst", "gz")] == [
        "none",
        "gz",
        "bz2",
        "xz",
        "zst",
        "none",
    ]
    assert compression_of("a.gz", "none") == "none" and compression_of("a", "xz") == "xz" and compression_of("a.gz", None) == "gz"
    with pytest.raises(ConfigError, match=r"compression 'rar': unknown; allowed are auto, none, gz"):
        compression_of("a", "rar")


# ---------------------------------------------------------------- lines


def chunked(data: bytes, *sizes: int) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        if data[at : at + size]:
            yield data[at : at + size]
        at += size
    if data[at:]:
        yield data[at:]


def slow_lines(data: bytes, limit: int) -> list[tuple[int, bytes] | Damaged]:
    found: list[tuple[int, bytes] | Damaged] = []
    offset = 0
    for part in data.split(b"\n"):
        last = offset + len(part) == len(data)
        if len(part) > limit:
            found.append(Damaged(offset, len(part) + (not last), "record_too_long", False, f"a line of more than {limit} bytes"))
        elif part or not last:
            line = part.removeprefix(b"\xef\xbb\xbf") if offset == 0 else part
            found.append((offset, line.removesuffix(b"\r")))
        offset += len(part) + 1
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"bcd", b"\0", b"\xef\xbb\xbf", b"\xff", "\u2028\u0085é".encode(), b" "]), max_size=30
    ),
    st.lists(st.integers(1, 7), max_size=12),
    st.integers(1, 9),
)
def test_lines_agree_with_a_slow_reference_however_the_chunks_fall(parts: list[bytes], sizes: list[int], limit: int) -> None:
    data = b"".join(parts)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return
    assert list(lines(chunked(data, *sizes), limit)) == slow_lines(data, limit)


@pytest.mark.fault("I6")
def test_the_policy_for_ends_of_lines_marks_and_nul() -> None:
    data = "\ufeffone\r\ntwo\u2028still\x0b\x0c\x85\n\nthr\0ee\rx\nlast".encode()
    assert [(line.decode() if not isinstance(line, Damaged) else line) for _, line in lines(iter([data]))] == [  # type: ignore[misc]
        "one",
        "two\u2028still\x0b\x0c\x85",
        "",
        "thr\0ee\rx",
        "last",
    ]


@pytest.mark.fault("I6")
def test_a_line_over_the_limit_is_skipped_without_being_held() -> None:
    def giant() -> Iterator[bytes]:
        yield b"first\n"
        for _ in range(300):
            yield b"x" * (1 << 20)
        yield b"\nlast"

    tracemalloc.start()
    found = list(lines(giant(), 4 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0] == (0, b"first") and found[2] == ((300 << 20) + 7, b"last")
    assert isinstance(found[1], Damaged) and (found[1].offset, found[1].length, found[1].reason) == (6, (300 << 20) + 1, "record_too_long")
    assert peak < 16 << 20


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_another_unicode_encoding_is_quarantined_whole(encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    found = list(lines(chunked((mark + "one\ntwo\n").encode(encoding), 1, 1, 1)))
    assert len(found) == 1 and isinstance(found[0], Damaged) and found[0].reason == "utf16" and found[0].rest_of_stream


def test_a_line_that_damage_cuts_short_belongs_to_the_damage() -> None:
    found = list(lines(iter([b"whole\nhal", Damaged(9, None, "truncated", True, "here", 5)])))
    assert found == [(0, b"whole"), Damaged(6, None, "truncated", True, "at byte 9: here", 5)]
    assert list(lines(iter([b"whole\n", Damaged(6, None, "truncated", True, "here")])))[1] == Damaged(6, None, "truncated", True, "here")


@pytest.mark.fault("I6")
def test_text_is_strict_utf8_and_a_bad_byte_is_named() -> None:
    assert decode("añ\0\u2028".encode()) == "añ\0\u2028"
    for bad in (b"ok\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"cut\xe2\x82"):
        damage = decode(bad, 7)
        assert isinstance(damage, Damaged) and (damage.offset, damage.length, damage.reason) == (7, len(bad), "invalid_utf8")
    assert decode(b"ok\xff") == Damaged(0, 3, "invalid_utf8", False, "byte 0xff at +2: invalid start byte")


def test_lone_surrogates_are_told_from_pairs() -> None:
    assert has_lone_surrogate("a\ud800") and not has_lone_surrogate("a\U0001f600") and not has_lone_surrogate("")


def test_a_whole_file_is_bounded_and_not_half_delivered() -> None:
    assert whole(iter([b"\xef\xbb\xbfab", b"c"]), 10) == b"abc"
    too_long = whole(iter([b"abc", b"d"]), 3)
    assert isinstance(too_long, Damaged) and too_long.reason == "record_too_long"
    cut = whole(iter([b"abc", Damaged(3, None, "truncated", True)]), 10)
    assert isinstance(cut, Damaged) and (cut.offset, cut.reason, cut.rest_of_stream) == (0, "truncated", True)
