"""ingest: reads sources into documents and bitext, by units; nothing is lost, what cannot be read is quarantined with place and reason.

    sources:
      - {kind: text, path: "s3://corpus/{lang}/*.txt.xz"}
      - {kind: tsv-pairs, path: "bitext/{lang}-en.tsv.gz"}

A unit is a group of small files of one source and language, or a slice of one large file. With `pivot`, documents that share an alignment group with one of
the pivot language also become bitext.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from importlib import import_module
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.artifacts import BITEXT, DOCUMENTS
from pipeline.config import NonEmpty, Section
from pipeline.errors import ConfigError
from pipeline.sources import Source
from pipeline.stage import Context, Grade, Input, ListContext, Output, Summary
from pipeline.text import languages
from stages.ingest.sources import SOURCES
from stages.ingest.sources.base import SourceConfig

VERSION = 2
LIBRARIES = ("mwparserfromhell", "polib", "pyarrow", "resiliparse", "selectolax", "zstandard")
GRADE = Grade.EXACT
GLOBALS = ("languages",)
INPUTS: dict[str, object] = {}
OUTPUT = {"documents": DOCUMENTS, "bitext": BITEXT}

if TYPE_CHECKING:

    class AnySource(SourceConfig):
        """A source of any kind."""

        kind: str
else:
    # From the registry, so that a new kind is a line there and none here.
    AnySource = Annotated[reduce(or_, (import_module(module).Config for module in SOURCES.values())), Field(discriminator="kind")]


class Config(Section):
    """Settings of ingest."""

    sources: tuple[AnySource, ...] = Field(min_length=1)
    """Where the text lies; see stages/ingest/sources."""
    pivot: NonEmpty | None = None
    """Language whose documents are paired with those of every other language by alignment group."""
    unit_bytes: int = Field(16 << 20, ge=1 << 10)
    """Largest unit of work, in bytes as stored, and most text in a shard of what is read: a stream that cannot be split is cut into several."""
    partitions: int = Field(16, ge=1, le=4096)
    """Partitions in which aligned documents are paired; more for a larger corpus."""


def list_inputs(config: Config, context: ListContext) -> list[Source]:
    """All files of all sources; `name` is `<number of the source>/<file>`.

    Raises:
        ConfigError: a pivot is no language of the pipeline: there would be nothing to pair with.
    """
    from stages.ingest import listing

    for number, source in enumerate(config.sources):
        _check_pivot(getattr(source, "pivot", None), f"sources.{number}.pivot", context.languages)
    _check_pivot(config.pivot, "pivot", context.languages)
    return listing.list_files(config, context)


def _check_pivot(pivot: str | None, place: str, named: tuple[str, ...]) -> None:
    if pivot is not None and languages.lookup(pivot).code not in named:
        raise ConfigError(f"stages.ingest.{place}: {pivot} is not among the pipeline's languages; add it there, or pair with one of them")


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Read all sources."""
    from stages.ingest import work

    return work.run(config, inputs, output, context)
