"""kept: the documents that dedup keeps, without their dropped lines, as JSON lines for use elsewhere. Runs only where the file names it.

    {"text": …, "id": "32 hexadecimal digits", "lang": …, "source": …, "offset": …, "url": …, "licence": …, "group": …}      (what is null is left out)

One file a shard; the manifest lists them in order as `part-00000.jsonl.zst`, …, with their paths below the storage root.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pipeline.artifacts import DECISIONS, DOCUMENTS, KEPT
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 1
LIBRARIES = ("pyarrow", "zstandard")
GRADE = Grade.EXACT
DEFAULT = False
INPUTS = {"documents": Slot(DOCUMENTS, "clean"), "decisions": Slot(DECISIONS, "dedup")}
OUTPUT = {"kept": KEPT}


class Config(Section):
    """Settings of kept."""

    compression: Literal["none", "zst"] = "zst"
    """How the files are compressed; zst is Zstandard at level 3."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Write the kept documents."""
    from stages.kept import work

    return work.run(config, inputs, output, context)
