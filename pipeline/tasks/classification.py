"""Sequence classification: one label for a text or a pair of texts (topic, sentiment, paraphrase, inference).

    file ──read_examples──▶ Example(id, lang, text, text_pair, label)
         ──label_ids──────▶ {label: number}, sorted                       from the training examples; the head's order
         ──featurize──────▶ Features: `<s> a </s>` or `<s> a </s></s> b </s>`, cut to max_length
         ──ClassificationFeed.micro_batches(step, …)──▶ ClassificationBatch for training, in a shuffle fixed by (seed, epoch)
         ──prediction_batches(…)──▶ ClassificationBatch for prediction, every row once

The feed answers to the same two calls as `pipeline.training.batches.Feed`, so one loop trains both. The pair has the form of
RoBERTa and XLM-R, two `</s>` between the texts and no segment ids.

Files are tab- or comma-separated UTF-8. Nothing is guessed and nothing skipped: a line that does not fit stops the reading
with its number, since a task whose lines went missing unseen scores another test set.

Legend: E examples, B rows of a batch, T places, N tokens of all examples.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, MissingSourceError, StageError
from pipeline.model.language_embeddings import rows_of
from pipeline.text.packing import BOS, EOS, PAD
from pipeline.training.batches import attention_and_positions, cut, fill_up, trimmed_length
from pipeline.training.counter import bits, derive, permute

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Encode = Callable[[list[str]], Sequence[npt.NDArray[np.integer]]]

MIN_LENGTH = 8  # <s> a </s></s> b </s> with two tokens a side


@dataclass(frozen=True)
class Example:
    """One labelled text."""

    id: str
    """Stable within its language."""
    lang: str
    """BCP-47 code."""
    text: str
    """The text, or the first of a pair (the premise)."""
    text_pair: str | None
    """The second of a pair (the hypothesis), else None."""
    label: str
    """As in the file."""


class Quoting(StrEnum):
    """How a field may hold the separator or a line end."""

    AUTO = "auto"
    """DOUBLE for `.csv`, NONE for anything else."""
    NONE = "none"
    """It cannot: a quotation mark is text."""
    DOUBLE = "double"
    """In double quotes, a quotation mark within written twice (RFC 4180)."""


@dataclass(frozen=True)
class Columns:
    """Where an example's parts stand: names of the header, or numbers from 0 for a file without one."""

    text: str | int
    """The text, or the first of a pair."""
    label: str | int
    """The label."""
    text_pair: str | int | None = None
    """The second of a pair; None for single texts."""
    id: str | int | None = None
    """The id; None makes one of the line's number."""
    lang: str | int | None = None
    """The language; None when the whole file is in one."""

    def __post_init__(self) -> None:
        given = list(self.given().values())
        if len({type(column) for column in given}) > 1:
            raise ConfigError(f"columns {given} mix names and numbers; names need a header, numbers mean there is none: use one kind")
        if len(set(given)) < len(given):
            raise ConfigError(f"columns {given} name one column twice; each part of an example has its own")
        negative = [column for column in given if isinstance(column, int) and column < 0]
        if negative:
            raise ConfigError(f"column {negative[0]} does not exist; columns count from 0")

    def given(self) -> dict[str, str | int]:
        """The column of each part that has one."""
        parts = {"text": self.text, "label": self.label, "text_pair": self.text_pair, "id": self.id, "lang": self.lang}
        return {part: column for part, column in parts.items() if column is not None}

    def numbers(self) -> dict[str, int] | None:
        """The same as numbers, or None when only the header can tell."""
        numbers = {part: column for part, column in self.given().items() if isinstance(column, int)}
        return numbers or None


def read_examples(path: str | Path, columns: Columns, *, lang: str | None = None, quoting: Quoting = Quoting.AUTO) -> list[Example]:
    """Read a `.tsv` (any suffix but `.csv`) or `.csv` file; see `parse_examples`.

    Raises:
        MissingSourceError: there is no such file. Others as `parse_examples`.
    """
    path = Path(path)
    is_csv = path.suffix.lower() == ".csv"
    if quoting is Quoting.AUTO:
        quoting = Quoting.DOUBLE if is_csv else Quoting.NONE
    try:
        with path.open("rb") as stream:
            return parse_examples(stream, columns, where=str(path), lang=lang, quoting=quoting, separator="," if is_csv else "\t")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingSourceError(f"{path}: no such file of examples; check the path in the configuration") from error


def parse_examples(
    lines: Iterable[bytes],
    columns: Columns,
    *,
    where: str,
    lang: str | None = None,
    quoting: Quoting = Quoting.NONE,
    separator: str = "\t",
) -> list[Example]:
    """Examples of an open file (or its lines as bytes), in its order; `where` names it in errors.

    lang: language of the whole file, when `columns.lang` is None. Empty lines are passed over. Each text must have a
    character that is not white space; texts are given as they stand, the tokenizer normalises.

    Raises:
        ConfigError: no language, both kinds of it, AUTO quoting, or a column that the header does not have.
        StageError: a line that is not UTF-8, has too few fields, an empty part, or an id that came before; no example at all.
    """
    if (lang is None) == (columns.lang is None):
        raise ConfigError(f"{where}: give the language of the file, or the column it stands in, and not both")
    if quoting is Quoting.AUTO:
        raise ConfigError(f"{where}: quoting is auto, which only a file's suffix can settle; give none or double")
    examples: list[Example] = []
    line_of_id: dict[tuple[str, str], int] = {}
    place = columns.numbers()
    for line, fields in _records(lines, where, quoting, separator):
        if place is None:
            place = _header(fields, columns, f"{where}:{line}")
            continue
        parts = {part: _part(fields, number, f"{where}:{line}: {part}") for part, number in place.items()}
        code = parts.get("lang", str(lang))
        example = Example(parts.get("id", f"{code}:{line}"), code, parts["text"], parts.get("text_pair"), parts["label"].strip())
        before = line_of_id.setdefault((code, example.id), line)
        if before != line:
            raise StageError(f"{where}:{line}: id {example.id!r} came before, in line {before}; ids are unique within a language")
        examples.append(example)
    if not examples:
        raise StageError(f"{where}: no example in the file; give one with at least one line of data")
    return examples


def label_ids(examples: Iterable[Example]) -> dict[str, int]:
    """Labels in sorted order and their numbers, from 0.

    Raises:
        StageError: fewer than two labels.
    """
    labels = sorted({example.label for example in examples})
    if len(labels) < 2:
        raise StageError(f"the examples have the labels {labels}; a classification needs at least two: check the label column")
    return {label: number for number, label in enumerate(labels)}


@dataclass(frozen=True, eq=False)
class Features:
    """Examples as ids, with special tokens, without padding."""

    ids_N: I64
    """Ids of all examples, one after the other."""
    offsets: I64
    """[E+1] example e has the ids offsets[e] … offsets[e+1] − 1."""
    labels_E: I64
    """Label numbers."""
    languages: tuple[str, ...]
    """[E] codes."""
    examples: tuple[str, ...]
    """[E] ids of the examples."""
    num_truncated: int
    """Examples that lost tokens to `max_length`."""
    max_length: int
    """Most tokens of an example."""
    langs_E: I64 | None = None
    """Row of the language embeddings; none where the model has none."""

    def __len__(self) -> int:
        return len(self.labels_E)


def featurize(
    examples: Sequence[Example], encode: Encode, *, labels: Mapping[str, int], max_length: int, langs: Mapping[str, int] | None = None
) -> Features:
    """Encode examples; what is too long loses tokens at the end, of a pair the longer text first.

    encode: texts → ids of each, without special tokens. labels: numbers of the labels (`label_ids` of the training examples).
    langs: rows of the model's language embeddings, where it has them.

    Raises:
        ValueError: no examples, some with a pair and some without, or max_length below 8.
        StageError: a label that is not among `labels`.
        ConfigError: a language that has no embedding.
    """
    if not examples:
        raise ValueError("featurize: no examples; give at least one")
    if max_length < MIN_LENGTH:
        raise ValueError(f"featurize: max_length is {max_length} tokens; at least {MIN_LENGTH} are needed")
    pairs = [example.text_pair for example in examples if example.text_pair is not None]
    if len(pairs) not in (0, len(examples)):
        raise ValueError(f"featurize: {len(pairs)} of {len(examples)} examples are pairs; all or none must be")
    for example in examples:
        if example.label not in labels:
            raise StageError(f"example {example.id} ({example.lang}) has label {example.label!r}; known are {', '.join(sorted(labels))}")
    first = encode([example.text for example in examples])
    second = encode(pairs) if pairs else None

    rows: list[list[int]] = []
    num_truncated = 0
    for e, a in enumerate(first):
        if second is None:
            kept = min(len(a), max_length - 2)
            rows.append([BOS, *a[:kept].tolist(), EOS])
            num_truncated += kept < len(a)
        else:
            b = second[e]
            kept_a, kept_b = pair_lengths(len(a), len(b), max_length - 4)
            rows.append([BOS, *a[:kept_a].tolist(), EOS, EOS, *b[:kept_b].tolist(), EOS])
            num_truncated += kept_a + kept_b < len(a) + len(b)
    return Features(
        ids_N=np.array([token for row in rows for token in row], dtype=np.int64),
        offsets=np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64),
        labels_E=np.array([labels[example.label] for example in examples], dtype=np.int64),
        languages=tuple(example.lang for example in examples),
        examples=tuple(example.id for example in examples),
        num_truncated=num_truncated,
        max_length=max_length,
        langs_E=None if langs is None else np.array(rows_of(langs, (example.lang for example in examples), "examples"), np.int64),
    )


def pair_lengths(length_a: int, length_b: int, budget: int) -> tuple[int, int]:
    """Tokens kept of a pair: as if the longer text lost one token at a time (the second, when equal) until both fit."""
    if length_a + length_b <= budget:
        return length_a, length_b
    if length_a <= budget // 2:
        return length_a, budget - length_a
    if length_b <= budget // 2:
        return budget - length_b, length_b
    return budget - budget // 2, budget // 2


@dataclass(frozen=True, eq=False)
class ClassificationBatch:
    """What one forward pass of one rank takes."""

    input_ids_BT: I64
    """Ids with special tokens and padding."""
    attention_BT: Bool
    """True on tokens, False on padding."""
    positions_BT: I64
    """2, 3, … on tokens, 1 on padding."""
    labels_B: I64
    """Label numbers."""
    weights_B: F32
    """1, or 0 for a row that only fills up."""
    rows_B: I64
    """Number of the example in its Features, −1 for a row that only fills up."""
    langs_BT: I64 | None = None
    """Row of the language embeddings of each token; none where the model has none."""


@dataclass(frozen=True)
class ClassificationFeed:
    """All batches of a fine-tuning, by step: one stream of epochs, each a shuffle fixed by (seed, epoch).

    Steps do not end with an epoch, so every step has the same weight; sample g is the (g mod E)-th of epoch g div E.
    """

    features: Features
    """The training examples."""
    seed: int
    """Seed of the order."""
    global_batch: int
    """Examples of a step, over all ranks and accumulation."""
    trim: bool = True
    """Pad to the longest row of a micro-batch, rounded up to a multiple of 8, instead of max_length."""

    def __post_init__(self) -> None:
        if not len(self.features):
            raise ValueError("ClassificationFeed: no examples; give at least one")

    def steps(self, epochs: int) -> int:
        """Steps that see every example `epochs` times; the last may see the first few of the next epoch."""
        return -(-epochs * len(self.features) // self.global_batch)

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterator[ClassificationBatch]:
        """The micro-batches of one rank in one step; over the ranks they hold each sample of the step once.

        Raises:
            ValueError: world_size × micro_batch does not divide the global batch, or there is no such rank or step.
        """
        for start, stop in cut(step, rank, world_size, micro_batch, self.global_batch):
            epoch_B, place_B = np.divmod(np.arange(start, stop, dtype=np.int64), len(self.features))
            row_B = permute(place_B, len(self.features), bits(derive(self.seed, "examples"), 0, epoch_B))
            yield collate(self.features, row_B, np.ones(len(row_B), dtype=np.bool_), trim=self.trim)

    def weight(self, step: int) -> float:
        """Examples of the global batch: what summed losses are divided by; the same in every step."""
        return float(self.global_batch)


def prediction_batches(features: Features, *, rank: int, world_size: int, micro_batch: int) -> Iterator[ClassificationBatch]:
    """Every example once over all ranks, the longest first so that rows of a batch are alike; `rows_B` says which are which.

    All ranks get equally many batches; what is missing is filled up with weight 0.

    Raises:
        ValueError: no example, or rank outside world_size.
    """
    order_E = np.argsort(-np.diff(features.offsets), kind="stable")
    for index_B, real_B in fill_up(len(features), rank, world_size, micro_batch):
        yield collate(features, order_E[index_B], real_B, trim=True)


def collate(features: Features, row_B: I64, real_B: Bool, *, trim: bool) -> ClassificationBatch:
    """A padded batch of the examples with these numbers; real_B: [B] False for a row that only fills up."""
    first_B = features.offsets[row_B]
    lengths_B = features.offsets[row_B + 1] - first_B
    length = trimmed_length(lengths_B, features.max_length) if trim else features.max_length
    attention_BT, positions_BT = attention_and_positions(lengths_B, length)
    input_ids_BT = np.full((len(row_B), length), PAD, dtype=np.int64)
    for b, (first, count) in enumerate(zip(first_B.tolist(), lengths_B.tolist(), strict=True)):
        input_ids_BT[b, :count] = features.ids_N[first : first + count]
    return ClassificationBatch(
        input_ids_BT=input_ids_BT,
        attention_BT=attention_BT,
        positions_BT=positions_BT,
        labels_B=features.labels_E[row_B],
        weights_B=real_B.astype(np.float32),
        rows_B=np.where(real_B, row_B, -1),
        langs_BT=None if features.langs_E is None else np.repeat(features.langs_E[row_B][:, None], length, axis=1),
    )


def _records(lines: Iterable[bytes], where: str, quoting: Quoting, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and fields, of each record that is not empty."""
    decoded = _decode(lines, where)
    if quoting is Quoting.NONE:
        for number, text in enumerate(decoded, start=1):
            record = text.rstrip("\r\n")
            if record.strip():
                yield number, record.split(separator)
        return
    reader = csv.reader(decoded, delimiter=separator, quoting=csv.QUOTE_MINIMAL, strict=True)
    number = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield number, fields
            number = reader.line_num + 1  # a quoted field may span lines: the next record begins after the last one read
    except csv.Error as error:
        raise StageError(f"{where}:{number}: {error}; quote fields as RFC 4180 does, or read without quoting") from error


def _decode(lines: Iterable[bytes], where: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")  # a byte order mark may stand at the head
        except UnicodeDecodeError as error:
            raise StageError(f"{where}:{number}: not UTF-8 at byte {error.start} of the line; convert the file to UTF-8") from error


def _header(fields: list[str], columns: Columns, where: str) -> dict[str, int]:
    """Number of the column of each part."""
    names = [name.strip() for name in fields]
    for column in columns.given().values():
        if names.count(str(column)) != 1:
            found = "no column" if column not in names else f"{names.count(str(column))} columns"
            raise ConfigError(f"{where}: {found} {column!r}; the header has {', '.join(names)}")
    return {part: names.index(str(column)) for part, column in columns.given().items()}


def _part(fields: list[str], number: int, what: str) -> str:
    if number >= len(fields):
        raise StageError(f"{what} is field {number + 1}, but the line has {len(fields)}; mend the line, or name the columns as they are")
    if not fields[number].strip():
        raise StageError(f"{what} (field {number + 1}) is empty; mend or remove the line")
    return fields[number]
