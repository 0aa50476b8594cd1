"""What every artifact type has: a name, a meaning, and for tables the Arrow schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Artifact:
    """An artifact type. `schema` builds a `pyarrow.Schema` on call; None where the artifact is not a table."""

    name: str
    meaning: str
    schema: Callable[[], Any] | None = None
