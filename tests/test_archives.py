"""Members of zip and tar archives are sources like others: found, named, hashed by content, opened; what is unsafe or damaged is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zstandard

from pipeline.archives import Archive, split
from pipeline.config import resolve_path
from pipeline.errors import MissingSourceError
from pipeline.source_digests import source_digests
from pipeline.sources import list_sources, open_source
from pipeline.storage import Storage

MEMBERS = {"sw/a.txt": "habari", "sw/deep/b.txt": "za leo", "de/a.txt": "Grüße", "en/a.csv": "no", "en/[x]*.txt": "odd name"}
SPELLED = {"sw": ("sw", "swh"), "de": ("de",), "am": ("am",)}


def zipped(members: dict[str, str] = MEMBERS) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("sw")
        for name, text in members.items():
            archive.writestr(name, text)
    return out.getvalue()


def tarred(members: dict[str, str] = MEMBERS, prefix: str = "./", special: tarfile.TarInfo | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in members.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
        if special is not None:
            archive.addfile(special)
    return out.getvalue()


PACKED: dict[str, Callable[[], bytes]] = {
    "a.zip": zipped,
    "a.tar": tarred,
    "a.tar.gz": lambda: gzip.compress(tarred()[:3000]) + gzip.compress(tarred()[3000:]),
    "a.tar.bz2": lambda: bz2.compress(tarred()),
    "a.tar.xz": lambda: lzma.compress(tarred()),
    "a.tar.zst": lambda: zstandard.compress(tarred()[:3000]) + zstandard.compress(tarred()[3000:]),
}


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Writes a file locally or into a remote store, and gives its URL."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()

    def write(name: str, data: bytes) -> str:
        if request.param == "folder":
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
            return str(tmp_path / name)
        filesystem.pipe_file(f"/bucket/{name}", data)
        return f"memory://bucket/{name}"

    yield write
    filesystem.store.clear()


def scheme(name: str) -> str:
    return "zip" if name.endswith(".zip") else "tar"


@pytest.mark.parametrize("name", PACKED)
def test_members_are_found_by_pattern_and_language_wherever_the_archive_lies(name: str, place: Any, tmp_path: Path) -> None:
    url = place(name, PACKED[name]())
    found = list_sources(f"{scheme(name)}://{{lang}}/**/*.txt::{url}", SPELLED)
    assert [(f.name, f.lang, f.size) for f in found] == [("de/a.txt", "de", 7), ("sw/a.txt", "sw", 6), ("sw/deep/b.txt", "sw", 6)]
    assert [open_source(f.url).read().decode() for f in found] == ["Grüße", "habari", "za leo"]
    flat = list_sources(f"{scheme(name)}://*/*.txt::{url}", {})
    assert [f.name for f in flat] == ["de/a.txt", "en/[x]*.txt", "sw/a.txt"]
    assert open_source(flat[1].url).read() == b"odd name"
    assert [f.name for f in list_sources(f"{scheme(name)}://sw/a.txt::{url}", {})] == ["a.txt"]
    assert list_sources(f"{scheme(name)}://none/*::{url}", {}) == []


def test_several_archives_and_languages_in_their_names_keep_members_apart(place: Any) -> None:
    for lang in ("sw", "de"):
        url = place(f"corpora/{lang}.zip", zipped({"x.txt": lang, "y.txt": lang * 2}))
    base = url.removesuffix("de.zip")
    found = list_sources(f"zip://*.txt::{base}{{lang}}.zip", SPELLED)
    assert [(f.name, f.lang) for f in found] == [
        ("de.zip/x.txt", "de"),
        ("de.zip/y.txt", "de"),
        ("sw.zip/x.txt", "sw"),
        ("sw.zip/y.txt", "sw"),
    ]
    assert [open_source(f.url).read() for f in list_sources(f"zip://x.txt::{base}*.zip", {})] == [b"de", b"sw"]


def test_an_archive_in_an_archive_can_be_read(place: Any) -> None:
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("in/b.tar.gz", gzip.compress(tarred()))
    url = place("o.zip", outer.getvalue())
    found = list_sources(f"tar://sw/*.txt::zip://in/b.tar.gz::{url}", {})
    assert [(f.name, open_source(f.url).read()) for f in found] == [("a.txt", b"habari")]


def test_a_member_is_known_by_its_bytes_and_hashed_again_when_the_archive_changes(place: Any, tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "root"))

    def digests(data: bytes) -> dict[str, str]:
        url = place("a.zip", data)
        found = list_sources(f"zip://**/*.txt::{url}", {})
        assert all(f.token for f in found)
        by_url = source_digests(storage, found, remember=True)
        return {f.name: by_url[f.url] for f in found}

    first = digests(zipped({"a.txt": "one", "b.txt": "two"}))
    second = digests(zipped({"a.txt": "ONE", "b.txt": "two"}))
    assert first["a.txt"] != second["a.txt"] and first["b.txt"] == second["b.txt"]
    assert first["b.txt"] == digests(zipped({"c.txt": "x", "b.txt": "two"}))["b.txt"]
    assert len(list((tmp_path / "root" / "sources" / "digests").iterdir())) == 1


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "%2e%2e/evil.txt", "..\\evil.txt", "C:/evil.txt", "a\nb.txt", "a::b.txt"]
)
def test_an_archive_with_an_unsafe_name_is_refused_before_a_member_is_read(name: str, place: Any) -> None:
    for kind, data in (("zip", zipped({"good.txt": "x", name: "y"})), ("tar", tarred({"good.txt": "x", name: "y"}, prefix=""))):
        url = place(f"bad.{kind}", data)
        with pytest.raises(MissingSourceError, match=r"member name .* is refused"):
            list_sources(f"{kind}://*.txt::{url}", {})


def test_links_devices_duplicates_and_encrypted_members_are_refused_where_they_match(place: Any) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = kind, "/etc/passwd"
        url = place("l.tar", tarred({"good.txt": "x"}, special=link))
        with pytest.raises(MissingSourceError, match=r"'link.txt' is a link or a device"):
            list_sources(f"tar://*.txt::{url}", {})
        assert [f.name for f in list_sources(f"tar://good*::{url}", {})] == ["good.txt"]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo("link.txt")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(MissingSourceError, match="is a link"):
        list_sources(f"zip://*::{place('l.zip', out.getvalue())}", {})
    twice = tarred({"a.txt": "x"})[:1024] + tarred({"a.txt": "y"})
    with pytest.raises(MissingSourceError, match="is there 2 times"):
        list_sources(f"tar://*::{place('d.tar', twice)}", {})
    encrypted = bytearray(zipped({"a.txt": "x"}))
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(MissingSourceError, match=r"'a\.txt' is encrypted"):
        list_sources(f"zip://a.txt::{place('e.zip', bytes(encrypted))}", {})
    with pytest.raises(MissingSourceError, match=r"`\*\*` as a folder of its own"):
        list_sources(f"zip://**.txt::{place('e.zip', zipped())}", {})


@pytest.mark.parametrize("name", PACKED)
def test_a_truncated_archive_is_refused_and_names_itself(name: str, place: Any) -> None:
    data = PACKED[name]()
    # A tar is padded with zeros behind its end: cut it at the border of a member.
    for cut in (len(data) // 2, 1024 if name == "a.tar" else len(data) - 7, 1):
        url = place(name, data[:cut])
        with pytest.raises(MissingSourceError, match=rf"{name}: no sound {scheme(name)} archive"):
            list_sources(f"{scheme(name)}://**::{url}", {})


def test_a_member_that_contradicts_its_checksum_is_told_when_it_is_hashed(place: Any, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "the original text")
    url = place("a.zip", out.getvalue().replace(b"original", b"0riginal"))
    found = list_sources(f"zip://*.txt::{url}", {})
    with pytest.raises(MissingSourceError, match=r"member 'a.txt' is damaged: BadZipFile: Bad CRC"):
        source_digests(Storage.at(str(tmp_path / "root")), found, remember=True)


def test_bombs_are_refused_by_their_ratio(place: Any) -> None:
    bomb = zipped({"a.txt": "\0" * (70 << 20)})
    with pytest.raises(MissingSourceError, match=r"allowed are 200 times"):
        list_sources(f"zip://*::{place('b.zip', bomb)}", {})
    with pytest.raises(MissingSourceError, match=r"allowed are 200 times"):
        list_sources(f"tar://*::{place('b.tar.gz', gzip.compress(bytes(70 << 20)))}", {})


def test_a_member_can_be_read_from_any_place_while_others_are_open(place: Any) -> None:
    text = "".join(f"{i} " for i in range(10_000))
    for kind, data in (("zip", zipped({"a": text, "b": text[::-1]})), ("tar", gzip.compress(tarred({"a": text, "b": text[::-1]})))):
        url = place(f"m.{kind}", data)
        with open_source(f"{kind}://a::{url}") as a, open_source(f"{kind}://b::{url}") as b:
            a.seek(20_000)
            assert b.read(10) == text[::-1][:10].encode()
            assert a.read(10) == text[20_000:20_010].encode() and a.tell() == 20_010
            a.seek(5)
            assert a.read() == text[5:].encode()


def test_chains_are_split_and_relative_archives_lie_beside_the_pipeline_file() -> None:
    chain = split("zip://x/*.txt::tar://y.zip::s3://bucket/z.tar")
    assert chain is not None and (chain.kind, chain.members, chain.outer) == ("zip", "x/*.txt", "tar://y.zip::s3://bucket/z.tar")
    assert split("s3://bucket/a") is None and split("zip://alone") is None and split("gzip://a::b") is None
    assert resolve_path("zip://*.txt::data/a.zip", Path("/home/x")) == "zip://*.txt::/home/x/data/a.zip"
    assert resolve_path("zip://*.txt::s3://b/a.zip", Path("/home/x")) == "zip://*.txt::s3://b/a.zip"
    assert Archive("zip", io.BytesIO(zipped())).members(lambda name: False) == []
