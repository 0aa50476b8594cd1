"""heldout: draws the held-out text once for a pipeline's name, by a keyed hash; later runs keep it whatever their sources do.

Whole alignment groups are drawn, so that all translations of a text fall on one side; documents and translation pairs without a group are drawn by their own id, at most
`max_documents` a language, or pair of languages. Every run decontaminates against this set, and champion and challenger meet on its digest only.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.artifacts import BITEXT, DOCUMENTS, HELDOUT
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 2
LIBRARIES = ("pyarrow",)
GRADE = Grade.EXACT
GLOBALS = ("seed", "name")
INPUTS = {"documents": Slot(DOCUMENTS, "clean"), "bitext": Slot(BITEXT, "clean", optional=True)}
OUTPUT = {"heldout": HELDOUT}
FROZEN = True


class Config(Section):
    """Settings of heldout."""

    share: float = Field(0.01, gt=0, lt=0.5)
    """Share of the alignment groups, and of the documents and pairs without a group, that is held out (to a millionth)."""
    max_documents: int = Field(200, ge=1)
    """Most documents without a group held out a language, and most pairs of two languages."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Draw the held-out text."""
    from stages.heldout import work

    return work.run(config, inputs, output, context)
