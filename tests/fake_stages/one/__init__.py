"""Reads text files that others own and gives documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from pipeline.artifacts import DOCUMENTS
from pipeline.config import Section, outside
from pipeline.sources import Source, list_sources
from pipeline.stage import Context, Grade, Input, ListContext, Output, Slot, Summary


class TextSource(Section):
    """Lines of text."""

    kind: Literal["text"]
    """Which kind of source."""
    path: str
    """Where it is."""
    text: int = 3
    """A field that is called like its own tag."""


class PairSource(Section):
    """Pairs of lines."""

    kind: Literal["tsv-pairs"]
    """Which kind of source."""
    path: str
    """Where it is."""
    columns: tuple[int, int] = (0, 1)
    """Which columns."""


class Model(Section):
    """A shape."""

    layers: int = 2
    """Number of layers."""


class Config(Section):
    """Settings of the fake."""

    sources: tuple[Annotated[TextSource | PairSource, Field(discriminator="kind")], ...] = ()
    """What is read."""
    min_length: int = Field(10, ge=0)
    """Shortest document in characters."""
    share: float = 0.5
    """A share."""
    title: str = ""
    """A text."""
    model: str | Model = "small"
    """A name or a shape."""
    weights: Mapping[str, float] = {}
    """Weight by language."""
    mode: Literal["fast", "exact"] = "exact"
    """How."""
    threads: int = outside(1)
    """Outside identity."""


VERSION = 1
LIBRARIES = ("pydantic",)
GRADE = Grade.EXACT
GLOBALS = ("languages", "seed")
INPUTS: dict[str, Slot] = {}
OUTPUT = {"documents": DOCUMENTS}


def list_inputs(config: Config, context: ListContext) -> list[Source]:
    spellings = {lang: (lang,) for lang in context.languages}
    places = [context.base_of(("sources", number, "path")) / source.path for number, source in enumerate(config.sources)]
    return [found for place in places for found in list_sources(str(place), spellings)]


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    with output.file("documents", "list.txt") as path:
        path.write_text("".join(f"{source.name} {sha256}\n" for source, sha256 in context.sources))
    return Summary(counts={"sources": len(context.sources)})
