"""pack: an index from training rows to spans of tokens, one file a language and split.

    sentences     whole sentences in order while they fit, as fairseq's FULL-SENTENCES
    best-fit      whole documents, cut only where one is longer than a row, each into the fullest row that takes it
    concatenate   all documents one behind the other, cut wherever a row is full

Pairs are never cut: rows of whole pairs, `<s> a </s> b </s> …`, in order, or best-fit where that is the method.

A change of length or method re-encodes nothing: the index is made from sentence offsets and holds no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pipeline.artifacts import PACKING, PAIR_PACKING, PAIR_TOKENS, TOKENS
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary

VERSION = 3
LIBRARIES = ("numpy", "pyarrow")
GRADE = Grade.EXACT
INPUTS = {"tokens": Slot(TOKENS, "encode"), "pair_tokens": Slot(PAIR_TOKENS, "encode", optional=True)}
OUTPUT = {"packing": PACKING, "pair_packing": PAIR_PACKING}


class Config(Section):
    """Settings of pack."""

    length: int = Field(512, ge=8, le=131_072)
    """Tokens a row, special tokens included."""
    method: Literal["sentences", "best-fit", "concatenate"] = "sentences"
    """How documents are laid into rows."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Index all tokens."""
    from stages.pack import work

    return work.run(config, inputs, output, context)
