"""Reads a file held in memory through a source module, whole or cut, as a worker does."""

from __future__ import annotations

import io
from typing import Any

from stages.ingest.records import Damaged, Dropped, Item, Pending, Record, SourceFile


def read(module: Any, config: Any, data: bytes, name: str, *, max_bytes: int = 1 << 30, lang: str | None = None) -> list[Item]:
    """What the source yields, made where it is pending."""
    file = SourceFile("mem:" + name, name, len(data), lang)
    found = []
    for part in module.slices(file, config, max_bytes):
        for item in module.read(lambda: io.BytesIO(data), file, part, config):
            found.append(item.make() if isinstance(item, Pending) else item)
    return found


def records(items: list[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def damage(items: list[Item]) -> list[tuple[int, str]]:
    return [(item.offset, item.reason) for item in items if isinstance(item, Damaged)]


def dropped(items: list[Item]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Dropped)]
