"""pack: an index from training rows to spans of tokens, one file a language and split; whole sentences, as fairseq's FULL-SENTENCES.

A change of length re-encodes nothing: the index is made from sentence offsets and holds no token.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.artifacts import PACKING, TOKENS
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 1
LIBRARIES = ("numpy", "pyarrow")
GRADE = Grade.EXACT
INPUTS = {"tokens": Slot(TOKENS, "encode")}
OUTPUT = {"packing": PACKING}


class Config(Section):
    """Settings of pack."""

    length: int = Field(512, ge=8, le=131_072)
    """Tokens a row, special tokens included."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Index all tokens."""
    from stages.pack import work

    return work.run(config, inputs, output, context)
