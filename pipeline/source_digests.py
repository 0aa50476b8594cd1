"""sha256 of sources, remembered under their listing token: a changed token means rehash, never rerun by itself.

[Source(url, token), ...]  ->  {url: sha256}      remembered in sources/digests/<digest of the folder or archive>.json
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.archives import split
from pipeline.errors import IntegrityError
from pipeline.sources import Source, open_source
from pipeline.storage import Storage, digest, without_userinfo

_CHUNK = 1 << 20
THREADS = 4
"""Sources that are hashed at once; of an archive one, whose members may hang on what stands before them."""


def source_digests(storage: Storage, sources: list[Source], *, remember: bool) -> dict[str, str]:
    """sha256 of each source by URL, hashed only where the listing token is new.

    With `remember` false nothing is written (`plan`).

    Raises:
        MissingSourceError: a source cannot be read.
    """
    digests: dict[str, str] = {}
    for book, group in _books(sources).items():
        known = _remembered(storage, book)
        fresh = [source for source in group if not _is_known(source, known)]
        with ThreadPoolExecutor(THREADS if split(group[0].url) is None else 1) as pool:  # hashing lets other threads run
            for source, sha256 in zip(fresh, pool.map(_sha256, [source.url for source in fresh]), strict=True):
                known[without_userinfo(source.url)] = {"token": source.token, "sha256": sha256}
        digests |= {source.url: known[without_userinfo(source.url)]["sha256"] for source in group}
        if fresh and remember:
            storage.write_json(book, known)
    return digests


def _is_known(source: Source, known: dict[str, Any]) -> bool:
    entry = known.get(without_userinfo(source.url))
    return entry is not None and bool(source.token) and entry["token"] == source.token


def _sha256(url: str) -> str:
    value = hashlib.sha256()
    with open_source(url) as stream:
        while chunk := stream.read(_CHUNK):
            value.update(chunk)
    return value.hexdigest()


def _remembered(storage: Storage, book: str) -> dict[str, Any]:
    """A cache of digests; a damaged one is begun anew."""
    try:
        known = storage.read_json(book)
    except IntegrityError:
        return {}
    return known if isinstance(known, dict) else {}


def _books(sources: list[Source]) -> dict[str, list[Source]]:
    """Sources grouped by the cache file that remembers their digests: one a folder or archive."""
    books: dict[str, list[Source]] = {}
    for source in sources:
        chain = split(source.url)
        folder = without_userinfo(source.url.rpartition("/")[0] if chain is None else chain.outer)
        books.setdefault(f"sources/digests/{digest(folder)[:32]}.json", []).append(source)
    return books
