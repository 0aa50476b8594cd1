"""heldout: draws the held-out text once for a pipeline's name, by a keyed hash; later runs keep it whatever their sources do.

Whole alignment groups are drawn, so that all translations of a text fall on one side; documents without a group are drawn by their own id, at most
`max_documents` a language. Every run decontaminates against this set, and champion and challenger meet on its digest only.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.artifacts import DOCUMENTS, HELDOUT
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 1
LIBRARIES = ("pyarrow",)
GRADE = Grade.EXACT
GLOBALS = ("seed", "name")
INPUTS = {"documents": Slot(DOCUMENTS, "clean")}
OUTPUT = {"heldout": HELDOUT}
FROZEN = True


class Config(Section):
    """Settings of heldout."""

    share: float = Field(0.01, gt=0, lt=0.5)
    """Share of the alignment groups, and of the documents without a group, that is held out (to a millionth)."""
    max_documents: int = Field(200, ge=1)
    """Most documents without a group held out a language."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Draw the held-out text."""
    from stages.heldout import work

    return work.run(config, inputs, output, context)
