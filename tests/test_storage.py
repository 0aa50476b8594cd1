"""Publishing is all or nothing; sources are found, named and hashed by content."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline import failpoint as failpoints
from pipeline import source_digests as digesting
from pipeline import storage as storages
from pipeline.errors import ConfigError, IntegrityError, MissingSourceError, PreflightError
from pipeline.source_digests import source_digests
from pipeline.sources import Source, list_sources, open_source
from pipeline.storage import Storage, canonical, digest, verify, without_userinfo

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of an empty in-memory store."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield "memory://bucket"
    filesystem.store.clear()


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> Storage:
    return Storage.at(str(tmp_path / "root") if request.param == "folder" else memory, "attempt-1")


def leftovers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("tmp.*") if path.is_file())


# Canonical form


def test_the_canonical_form_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": [1, 2.5, None, True], "a": "ünï\u2028"}) == '{"a":"ünï\u2028","b":[1,2.5,null,true]}'.encode()
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest([1]) != digest([1.0])
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))
    assert canonical("\udcff")


# Files


def test_what_is_written_is_read_back_listed_sized_and_removed(storage: Storage) -> None:
    published = storage.write("a/b/c.bin", b"hello")
    assert (published.path, published.bytes) == ("a/b/c.bin", 5)
    assert published.sha256 == hashlib.sha256(b"hello").hexdigest()
    storage.write_json("a/b/d.json", {"k": [1, "é"]})
    assert storage.read("a/b/c.bin") == b"hello"
    assert storage.read_json("a/b/d.json") == {"k": [1, "é"]}
    assert storage.list("a") == ["a/b/c.bin", "a/b/d.json"]
    assert storage.list("none") == []
    assert (storage.exists("a/b/c.bin"), storage.exists("a/x")) == (True, False)
    assert (storage.size("a/b/c.bin"), storage.size("a/x"), storage.size("a/b/c.bin/x")) == (5, None, None)
    assert storage.local("a/b/c.bin", published.sha256).read_bytes() == b"hello"
    storage.remove("a/b/c.bin")
    storage.remove("a/b/c.bin")
    assert not storage.exists("a/b/c.bin")
    storage.remove("a")
    assert storage.list("") == []


def test_reading_what_is_not_there(storage: Storage) -> None:
    assert storage.read_json("none.json") is None
    with pytest.raises(FileNotFoundError):
        storage.read("none")
    with pytest.raises(IntegrityError):
        storage.local("none", "0" * 64)


def test_a_damaged_json_file_is_named_with_what_to_do(storage: Storage) -> None:
    storage.write("state.json", b'{"cut": ')
    with pytest.raises(IntegrityError, match=r"state\.json: damaged: not JSON\. Remove it and run again") as caught:
        storage.read_json("state.json")
    assert caught.value.path == "state.json"


def test_writing_twice_replaces_and_an_error_inside_publishes_nothing(storage: Storage) -> None:
    with storage.writing("x") as path:
        path.write_bytes(b"one")
    with pytest.raises(RuntimeError), storage.writing("x") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert storage.read("x") == b"one"
    with storage.writing("x") as path:
        path.write_bytes(b"two")
    assert storage.read("x") == b"two"
    assert not path.exists()


def test_a_folder_given_as_file_url_is_a_local_folder(tmp_path: Path) -> None:
    found = Storage.at(f"file://{tmp_path}/a%20b")
    assert found.is_local
    assert found.root == str(tmp_path / "a b")


def test_a_tilde_and_a_relative_root_become_absolute(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage.at("~/x").root == str(home / "x")
    assert Storage.at("y").root == str(tmp_path / "y")


def test_an_unknown_scheme_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="storage what://b: "):
        Storage.at("what://user:secret@b")


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_a_missing_library_is_named_with_the_extra_that_brings_it(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def without(*_: object, **__: object) -> None:
        raise ImportError("Install it to access it")

    monkeypatch.setattr(fsspec.core, "url_to_fs", without)
    advice = rf"its library is missing\. Run: pip install 'xlm-pipeline\[{extra}\]'"
    with pytest.raises(ConfigError, match=f"storage {scheme}://b: {advice}"):
        Storage.at(f"{scheme}://me:secret@b")
    with pytest.raises(MissingSourceError, match=f"source {scheme}://b/a.txt: {advice}"):
        list_sources(f"{scheme}://me:secret@b/a.txt", {})


def test_no_message_shows_user_or_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_userinfo("ftp://me:secret@host/a@b/c") == "ftp://host/a@b/c"
    assert without_userinfo("simplecache::ftp://me:secret@host/a") == "simplecache::ftp://host/a"
    assert without_userinfo("/data/me@here") == "/data/me@here"
    assert Storage("ftp://me:secret@host/root").url("a") == "ftp://host/root/a"


def test_preparing_makes_the_root_and_leaves_nothing(tmp_path: Path) -> None:
    Storage.at(str(tmp_path / "new" / "root")).prepare()
    assert list((tmp_path / "new" / "root").iterdir()) == []


def test_preparing_refuses_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match=r"cannot be written: .* Give another folder"):
        Storage.at(str(tmp_path / "file" / "root")).prepare()


def test_preparing_refuses_a_full_disk_and_removes_its_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PreflightError, match="No space left on device"):
        Storage.at(str(tmp_path)).prepare()
    assert list(tmp_path.iterdir()) == []


# Publishing


BORDERS = ["publish.before_sync", "publish.before_rename", "publish.after_rename"]
WRITER = """
import sys
from pipeline.storage import Storage
Storage.at(sys.argv[1], "attempt-1").write("a/b/file.bin", b"new" * 100_000)
print("done")
"""


def killed_at(border: str, root: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIPELINE_FAILPOINT": border, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", WRITER, str(root)], env=environment, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_kill_at_any_border_leaves_the_old_file_or_the_whole_new_one(tmp_path: Path, border: str, before: bytes | None) -> None:
    target = tmp_path / "a" / "b" / "file.bin"
    if before is not None:
        Storage.at(str(tmp_path)).write("a/b/file.bin", before)
    done = killed_at(border, tmp_path)
    assert (done.returncode, done.stdout) == (-9, "")
    found = target.read_bytes() if target.exists() else None
    assert found == (b"new" * 100_000 if border == "publish.after_rename" else before)
    assert all(path.is_relative_to(tmp_path / "tmp" / "attempt-1") for path in leftovers(tmp_path))
    Storage.at(str(tmp_path)).write("a/b/file.bin", b"again")
    assert target.read_bytes() == b"again"


@pytest.mark.parametrize("border", BORDERS[:2])
def test_a_full_disk_while_publishing_leaves_nothing_behind(storage: Storage, border: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("keep", b"old")
    failpoints._passages.clear()
    monkeypatch.setenv("PIPELINE_FAILPOINT", f"{border}:raise")
    with pytest.raises(OSError, match="no space left") as caught:
        storage.write("keep", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert storage.read("keep") == b"old"
    assert leftovers(Path(storage.root if storage.is_local else storage.cache)) == []


def test_an_object_store_never_sees_a_temporary_name(memory: str) -> None:
    storage = Storage.at(memory, "attempt-1")
    storage.write("units/x/y.arrow", b"data")
    assert storage.list("") == ["units/x/y.arrow"]
    assert leftovers(Path(storage.cache)) == []


# Verifying


@pytest.mark.fault("I1")
def test_one_flipped_byte_is_found_and_the_file_named(storage: Storage) -> None:
    published = storage.write("shard", b"0123456789")
    if storage.is_local:  # elsewhere a verified copy would be there, and right
        storage.local("shard", published.sha256)
    storage.write("shard", b"0123456788")
    with pytest.raises(IntegrityError, match=r"shard: damaged: sha256 .* recorded") as caught:
        storage.local("shard", published.sha256)
    assert caught.value.path.endswith("shard")


def test_a_cached_copy_that_is_damaged_is_fetched_again(memory: str) -> None:
    storage = Storage.at(memory)
    published = storage.write("shard", b"0123456789")
    storage.local("shard", published.sha256).write_bytes(b"damaged!!!")
    assert storage.local("shard", published.sha256).read_bytes() == b"0123456789"


def test_without_a_digest_a_remote_file_is_always_fetched_anew(memory: str) -> None:
    storage = Storage.at(memory)
    storage.write("x", b"one")
    assert storage.local("x").read_bytes() == b"one"
    storage.write("x", b"two")
    assert storage.local("x").read_bytes() == b"two"


def test_a_file_is_hashed_once_and_again_when_it_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    original = storages.file_sha256
    monkeypatch.setattr(storages, "file_sha256", lambda path: hashed.append(path.name) or original(path))
    path = tmp_path / "file"
    path.write_bytes(b"same size")
    sha256 = original(path)
    for _ in range(3):
        verify(path, sha256)
    assert hashed == ["file"]
    status = path.stat()
    other = tmp_path / "other"
    other.write_bytes(b"SAME size")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    with pytest.raises(IntegrityError, match="damaged"):
        verify(path, sha256)


def test_a_missing_file_says_what_was_recorded(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"none: No such file or directory; it is recorded with sha256 abcabcabcabc…"):
        verify(tmp_path / "none", "abc" * 21)


# Sources


@pytest.fixture(params=["folder", "file", "memory"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> str:
    """The same files below a folder, a file:// URL or another store."""
    root = {"folder": str(tmp_path), "file": f"file://{tmp_path}", "memory": memory}[request.param]
    filesystem, base = fsspec.core.url_to_fs(root)
    for name in ("no/a.txt", "no/b.txt", "en/a.txt", "zh_CN/a.txt", "zh-Hans/z.txt", "deep/x/y/a.txt", "deep/b.txt", "en/a.csv"):
        filesystem.makedirs(f"{base}/{name}".rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(f"{base}/{name}", f"text of {name}".encode())
    return root


SPELLINGS = {"nb": ("nb", "no"), "en": ("en",), "zh-Hans": ("zh-Hans", "zh_CN", "zh"), "fi": ("fi", "fin")}


def told(found: list[Source]) -> list[tuple[str, str | None]]:
    return [(source.name, source.lang) for source in found]


def test_languages_are_found_under_the_first_spelling_that_matches(corpus: str) -> None:
    found = list_sources(f"{corpus}/{{lang}}/*.txt", SPELLINGS)
    assert told(found) == [("en/a.txt", "en"), ("no/a.txt", "nb"), ("no/b.txt", "nb"), ("zh-Hans/z.txt", "zh-Hans")]
    for source in found:
        with open_source(source.url) as stream:
            assert stream.read() == f"text of {source.name}".encode()
        assert source.size == len(f"text of {source.name}")
        assert source.token


def test_globs_reach_down_folders_are_no_files_and_names_are_relative(corpus: str) -> None:
    assert told(list_sources(f"{corpus}/deep/**/*.txt", {})) == [("b.txt", None), ("x/y/a.txt", None)]
    assert told(list_sources(f"{corpus}/en/*", {})) == [("a.csv", None), ("a.txt", None)]
    assert told(list_sources(f"{corpus}/en/a.txt", {})) == [("a.txt", None)]
    assert list_sources(f"{corpus}/e?/[x-z].txt", {}) == []


def test_what_is_not_there_is_an_empty_list(corpus: str) -> None:
    assert list_sources(f"{corpus}/none/a.txt", {}) == []
    assert list_sources(f"{corpus}/none/*.txt", {}) == []
    assert list_sources(f"{corpus}/{{lang}}/none", SPELLINGS) == []
    assert list_sources(f"{corpus}/deep", {}) == []


def test_names_do_not_change_when_the_corpus_moves(tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        (tmp_path / place / "en").mkdir(parents=True)
        (tmp_path / place / "en" / "a.txt").write_text("x")
    names = [told(list_sources(f"{tmp_path}/{place}/{{lang}}/*.txt", {"en": ("en",)})) for place in ("here", "there/deeper")]
    assert names == [[("en/a.txt", "en")]] * 2


def test_a_name_with_brackets_is_taken_as_it_is_if_it_exists(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert [source.url for source in list_sources(f"{tmp_path}/a[1].txt", {})] == [f"{tmp_path}/a[1].txt"]


def test_a_match_that_cannot_be_read_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(MissingSourceError, match=r"b\.txt: cannot be read: No such file"):
        list_sources(f"{tmp_path}/*.txt", {})


def test_files_inside_an_archive_can_be_listed_and_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/a.txt", "inside")
        archive.writestr("x/b.csv", "not this")
    found = list_sources(f"zip://x/*.txt::{tmp_path}/a.zip", {})
    assert told(found) == [("a.txt", None)]
    with open_source(found[0].url) as stream:
        assert stream.read() == b"inside"


@pytest.mark.parametrize("pattern", ["/data/\0x", "/data/%00x", "what://bucket/x*"])
def test_a_place_that_makes_no_sense_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(MissingSourceError, match=r"NUL byte|cannot be listed"):
        list_sources(pattern, {})


def test_a_store_that_fails_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    class StrangeError(Exception):
        """What a store's own library may raise."""

    def fail(*_: Any, **__: Any) -> None:
        raise StrangeError("no route to memory://me:secret@bucket")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    monkeypatch.setattr(fsspec, "open", fail)
    for action in (lambda: list_sources("memory://me:secret@bucket/*", {}), lambda: open_source("memory://me:secret@bucket/x")):
        with pytest.raises(MissingSourceError, match="StrangeError") as caught:
            action()
        assert "secret" not in str(caught.value)


def test_opening_what_is_not_there_is_a_missing_source(tmp_path: Path, memory: str) -> None:
    for url in (f"{tmp_path}/none", f"{memory}/none"):
        with pytest.raises(MissingSourceError, match="cannot be read: "):
            open_source(url)


# Digests of sources


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of sources that were read, in order."""
    names: list[str] = []
    original = digesting.open_source
    monkeypatch.setattr(digesting, "open_source", lambda url: names.append(url.rpartition("/")[2]) or original(url))
    return names


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_source_is_hashed_once_until_its_token_changes(tmp_path: Path, opened: list[str]) -> None:
    corpus, storage = tmp_path / "corpus", Storage.at(str(tmp_path / "root"))
    corpus.mkdir()
    (corpus / "a.txt").write_text("a")
    (corpus / "b.txt").write_text("b")

    def digests() -> dict[str, str]:
        return source_digests(storage, list_sources(f"{corpus}/*.txt", {}), remember=True)

    first = digests()
    assert first == {f"{corpus}/{name}.txt": hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert digests() == first
    assert opened == ["a.txt", "b.txt"]
    os.utime(corpus / "a.txt", ns=(1, 1))
    assert digests() == first
    assert opened == ["a.txt", "b.txt", "a.txt"]
    (corpus / "b.txt").write_text("B")
    assert digests()[f"{corpus}/b.txt"] == hashlib.sha256(b"B").hexdigest()
    assert opened == ["a.txt", "b.txt", "a.txt", "b.txt"]


def test_planning_hashes_but_writes_nothing(tmp_path: Path, opened: list[str]) -> None:
    (tmp_path / "a.txt").write_text("a")
    found, storage = list_sources(f"{tmp_path}/a.txt", {}), Storage.at(str(tmp_path / "root"))
    for _ in range(2):
        assert source_digests(storage, found, remember=False)
    assert opened == ["a.txt", "a.txt"]
    assert not (tmp_path / "root").exists()
    source_digests(storage, found, remember=True)
    before = tree(tmp_path / "root")
    source_digests(storage, found, remember=True)
    assert tree(tmp_path / "root") == before
    assert len(opened) == 3


def test_a_damaged_cache_of_digests_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    found, storage = list_sources(f"{tmp_path}/a.txt", {}), Storage.at(str(tmp_path / "root"))
    first = source_digests(storage, found, remember=True)
    for book in storage.list("sources"):
        (Path(storage.root) / book).write_bytes(b"{cut")
    assert source_digests(storage, found, remember=True) == first


def test_a_change_in_another_store_is_seen_at_once(tmp_path: Path, memory: str) -> None:
    storage, filesystem = Storage.at(str(tmp_path)), fsspec.filesystem("memory")
    seen = []
    for text in (b"one", b"two"):
        filesystem.pipe_file("/bucket/a.txt", text)
        seen.append(*source_digests(storage, list_sources(f"{memory}/*.txt", {}), remember=True).values())
    assert seen == [hashlib.sha256(text).hexdigest() for text in (b"one", b"two")]


def test_where_a_store_tells_only_the_size_nothing_is_taken_from_the_cache(tmp_path: Path, opened: list[str]) -> None:
    (tmp_path / "a.txt").write_text("a")
    source = Source(f"{tmp_path}/a.txt", "a.txt", None, 1, "")
    for _ in range(2):
        source_digests(Storage.at(str(tmp_path / "root")), [source], remember=True)
    assert opened == ["a.txt", "a.txt"]


def test_passwords_in_the_urls_of_sources_are_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(digesting, "open_source", lambda url: (tmp_path / "a.txt").open("rb"))
    source = Source("ftp://me:hunter2@host/a.txt", "a.txt", None, 1, "token")
    assert list(source_digests(Storage.at(str(tmp_path / "root")), [source], remember=True)) == [source.url]
    written = b"".join(content for content, _ in tree(tmp_path / "root").values())
    assert b"host/a.txt" in written
    assert b"hunter2" not in written
