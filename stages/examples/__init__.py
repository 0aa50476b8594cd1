"""examples: the labelled text of the tasks, from files or from the corpus itself, so that training text can be kept clear of it.

    sets:
      nli: {task: nli, train: "xnli/en.tsv", test: "xnli/{lang}.tsv", text: premise, text_pair: hypothesis}
      article: {task: classification, corpus: group, train_languages: [en, fr], decontaminate: false}

A set from the corpus takes each paragraph of a document as a text and the document's alignment group as its label; its text was seen unlabelled, which every
table that uses it says. `decontaminate` drops training documents that overlap the dev and test texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from pipeline.artifacts import DOCUMENTS, EXAMPLES
from pipeline.config import Section
from pipeline.sources import Source
from pipeline.stage import Context, Grade, Input, ListContext, Output, Slot, Summary

VERSION = 1
LIBRARIES = ("pyarrow",)
GRADE = Grade.EXACT
GLOBALS = ("languages",)
INPUTS = {"documents": Slot(DOCUMENTS, "clean")}
OUTPUT = {"examples": EXAMPLES}


class ExampleSet(Section):
    """One labelled set."""

    task: str = "classification"
    """The downstream task; a name of pipeline.tasks."""
    corpus: Literal["group"] | None = None
    """Draw the texts from the corpus: paragraphs, labelled by their alignment group."""
    train_languages: tuple[str, ...] = ()
    """Languages whose texts are for training; all others are for testing (sets from the corpus)."""
    train: str | None = None
    """Path or pattern of the training file, which may hold {lang}."""
    dev: str | None = None
    """Path or pattern of the development files."""
    test: str | None = None
    """Path or pattern of the test files."""
    lang: str | None = None
    """Language of files whose path does not hold {lang}."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text."""
    label: str = "label"
    """Column of the label."""
    columns: tuple[str, ...] | None = None
    """Names of the columns, for files without a header line."""
    min_characters: int = Field(1, ge=1)
    """Shorter texts are left out (sets from the corpus)."""
    decontaminate: bool = True
    """Whether training documents that overlap the dev and test texts are dropped."""

    @model_validator(mode="after")
    def _one_origin(self) -> ExampleSet:
        files = [name for name in ("train", "dev", "test") if getattr(self, name) is not None]
        if self.corpus is not None and files:
            raise ValueError(f"a set has either `corpus` or files, not both (found {', '.join(files)})")
        if self.corpus is None and not files:
            raise ValueError("a set needs `corpus` or at least one of train, dev, test")
        return self


class Config(Section):
    """Settings of examples."""

    sets: Mapping[str, ExampleSet] = Field(default_factory=dict)
    """Labelled sets by name."""


def list_inputs(config: Config, context: ListContext) -> list[Source]:
    """The files of all sets; `name` is `<set>/<split>/<file>`."""
    from stages.examples import files

    return files.list_files(config, context)


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Collect the labelled text."""
    from stages.examples import work

    return work.run(config, inputs, output, context)
