"""Batches: from the plan of samples to the arrays a step is computed from. Nothing here has state.

    step s ──▶ samples s·G … (s+1)·G − 1 of the mixture            G = global batch, in rows
           ──▶ rank r's part of them, in micro-batches             the same union for every number of ranks and every cut
           ──▶ rows of packed spans, gathered from memory-mapped token ids, with <s>, </s> and <pad>
           ──▶ masked by the objective                             a function of the sample's index, not of the batch
           ──▶ MicroBatch, and the weight of the whole global batch, by which each micro-batch's summed loss is divided

A micro-batch's mean would give rows another weight with another cut; the sum over the known weight of the whole step
does not, which makes loss and gradient independent of ranks and accumulation.

Legend: B rows of a micro-batch, T places, M predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.model.language_embeddings import Langs, table_of
from pipeline.text.packing import FIRST_POSITION, PAD
from pipeline.training.counter import bits, derive
from pipeline.training.mixture import Mixture
from pipeline.training.objectives.masked import HELD_OUT_SEED, Masked, Scheduled, held_out_mask
from pipeline.training.objectives.translation import sided, swapped
from pipeline.training.packed_rows import I16, Gathered, PackedRows, RowReader, attention_of

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.integer]

TRIM_MULTIPLE = 8  # trimmed lengths are multiples of this: few shapes, and aligned rows


class Objective(Protocol):
    """What an objective's file gives (`objective(**options)`)."""

    def apply(self, ids_BT: I64, lengths_B: Indices, samples_B: Indices, *, seed: int, vocab_size: int) -> Masked:
        """The batch with its predictions; each row a pure function of the row, its sample index and the seed."""
        ...

    def counts(self, lengths_B: Indices, num_special_B: Indices) -> I64:
        """[B] predictions of rows, from their tokens and how many of these are `<s>` or `</s>`."""
        ...


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What one forward pass of one rank takes."""

    input_ids_BT: I64
    """Ids as the model sees them."""
    attention_BT: Bool
    """True on tokens, False on padding."""
    positions_BT: I64
    """2, 3, … on tokens, 1 on padding; of a feed that keeps to documents 2 again at each, and of pairs at each side."""
    segments_BT: I16
    """The number of the document, or pair, within its row that a token belongs to, −1 on padding: attention between equal numbers alone keeps documents apart."""
    masked_index_M: I64
    """Flat places b·T + t of the predictions; unused ones are 0."""
    labels_M: I64
    """True ids at these places."""
    weights_M: F32
    """1, or 0 where unused."""
    languages_B: I32
    """Index into the sorted languages."""
    samples_B: I64
    """Global sample index (row of its language in held-out batches, −1 for a row that only fills up)."""
    is_causal: bool = False
    """Each place sees itself and those before it only."""
    within_documents: bool = False
    """Each place sees those of its own segment only."""
    langs_BT: I64 | None = None
    """Row of the language embeddings of each token; none where the model has none."""


@dataclass(frozen=True)
class Feed:
    """All batches of a training phase, by step."""

    rows: Mapping[str, PackedRows]
    """The packing of each language, all of one length."""
    mixture: Mixture
    """Which row is which sample."""
    objective: Objective | Scheduled
    """What is predicted, in each step alike or as it says."""
    vocab_size: int
    """Ids of the model; `<mask>` is the last."""
    seed: int
    """Seed of the masks."""
    global_batch: int
    """Rows of a step, over all ranks and accumulation."""
    trim: bool = False
    """Pad to the longest row of a micro-batch, rounded up to a multiple of 8, instead of the full length: faster, not static."""
    within_documents: bool = False
    """Attention keeps to the documents, or pairs, of a row, and positions begin anew at each document."""
    swap: bool = False
    """Rows are of pairs, whose sides change places at the toss of a coin; positions begin anew at each side."""
    first_language: int = 0
    """Number of the first language, where several feeds count theirs together."""
    langs_L2: I64 | None = None
    """Row of the language embeddings of each side of each language, or pair, in the order of the mixture's; none without such embeddings."""

    def __post_init__(self) -> None:
        found = {language: len(rows) for language, rows in self.rows.items()}
        if found != dict(self.mixture.rows):
            raise ValueError(f"Feed: the packings have {_first_difference(found, self.mixture.rows)}; make the mixture from these packings")
        lengths = sorted({rows.length for rows in self.rows.values()})
        if len(lengths) != 1:
            raise ValueError(f"Feed: packings of lengths {lengths}; all languages of a phase have the same length")

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterator[MicroBatch]:
        """The micro-batches of one rank in one step; over the ranks they hold each sample of the step once.

        Raises:
            ValueError: world_size × micro_batch does not divide the global batch, or there is no such rank or step.
        """
        objective = self._objective(step)
        for start, stop in cut(step, rank, world_size, micro_batch, self.global_batch):
            plan = self.mixture.samples(start, stop)
            samples_B = np.arange(start, stop, dtype=np.int64)
            gathered, lengths_B = _gather(
                self._reader, plan.language_N, plan.row_N, self._places, self.vocab_size, self.trim, self.within_documents
            )
            if self.swap and self.langs_L2 is not None:
                gathered = sided(gathered, lengths_B)
            if self.swap:
                gathered = swapped(gathered, lengths_B, samples_B, seed=self.seed)
            masked = objective.apply(gathered.ids_BT, lengths_B, samples_B, seed=self.seed, vocab_size=self.vocab_size)
            langs_BT = _langs(self.langs_L2, plan.language_N, gathered)
            numbers_B = plan.language_N + np.int32(self.first_language)
            yield _micro_batch(masked, gathered, numbers_B, samples_B, self.within_documents, langs_BT)

    def weight(self, step: int) -> float:
        """Predictions of the whole global batch: what summed losses are divided by. Reads lengths only, no token."""
        plan = self.mixture.samples(step * self.global_batch, (step + 1) * self.global_batch)
        return float(self._objective(step).counts(*self._reader.measure(plan.language_N, plan.row_N)).sum())

    def _objective(self, step: int) -> Objective:
        return self.objective.at(step) if isinstance(self.objective, Scheduled) else self.objective

    @cached_property
    def _reader(self) -> RowReader:
        return RowReader([self.rows[language] for language in self.mixture.languages])

    @cached_property
    def _places(self) -> int:
        return next(iter(self.rows.values())).length


def held_out_batches(
    rows: Mapping[str, PackedRows],
    *,
    vocab_size: int,
    rank: int,
    world_size: int,
    micro_batch: int,
    seed: int = HELD_OUT_SEED,
    trim: bool = True,
    restart: bool = False,
    within_documents: bool = False,
    objective: Objective | None = None,
    langs: Langs | None = None,
) -> Iterator[MicroBatch]:
    """Every row of the held-out packings once over all ranks, languages in code order, with fixed masks, or the predictions of `objective`.

    restart: positions begin anew at each document, or side of a pair, as they do with `within_documents` (see `Feed`).
    langs: rows of the language embeddings, where the model has them.

    All ranks get equally many micro-batches, since a collective call waits for each of them: what is missing is filled with
    the last row at weight 0. A row's masks depend on its language's code and its number there only.

    Raises:
        ValueError: no row, or rank outside world_size.
    """
    languages = tuple(sorted(rows))
    counts_L = np.array([len(rows[language]) for language in languages], dtype=np.int64)
    language_N = np.repeat(np.arange(len(languages), dtype=np.int32), counts_L)
    row_N = _ranges(np.zeros_like(counts_L), counts_L)
    keys_L = np.array([derive(seed, "language", language) for language in languages], dtype=np.uint64)
    langs_L2 = table_of(langs, languages)
    reader, places = RowReader([rows[language] for language in languages]), max((own.length for own in rows.values()), default=0)
    for index_B, real_B in fill_up(len(row_N), rank, world_size, micro_batch):
        language_B, row_B = language_N[index_B], row_N[index_B]
        gathered, lengths_B = _gather(reader, language_B, row_B, places, vocab_size, trim, restart or within_documents)
        if langs_L2 is not None and rows[languages[0]].spans_a_text == 2:
            gathered = sided(gathered, lengths_B)
        keys_B = bits(keys_L[language_B], 0, row_B)
        if objective is None:
            masked = held_out_mask(gathered.ids_BT, lengths_B, keys_B, vocab_size=vocab_size, seed=seed)
        else:
            masked = objective.apply(gathered.ids_BT, lengths_B, keys_B, seed=seed, vocab_size=vocab_size)
        weights_M = masked.weights_M * np.repeat(real_B, len(masked.weights_M) // len(real_B)).astype(np.float32)
        filled = Masked(masked.input_ids_BT, masked.masked_index_M, masked.labels_M, weights_M, masked.is_causal)
        langs_BT = _langs(langs_L2, language_B, gathered)
        yield _micro_batch(filled, gathered, language_B, np.where(real_B, row_B, -1), within_documents, langs_BT)


def cut(step: int, rank: int, world_size: int, micro_batch: int, global_batch: int) -> list[tuple[int, int]]:
    """[start, stop) of each micro-batch of a rank, as global sample indices.

    Raises:
        ValueError: world_size × micro_batch does not divide the global batch, or there is no such rank or step.
    """
    _check_rank(rank, world_size, micro_batch)
    if step < 0:
        raise ValueError(f"step is {step}; steps count from 0")
    if global_batch < 1 or global_batch % (world_size * micro_batch):
        raise ValueError(
            f"world size {world_size} × micro-batch {micro_batch} = {world_size * micro_batch} does not divide "
            f"the global batch of {global_batch}; change the micro-batch or the number of workers"
        )
    share = global_batch // world_size
    first = step * global_batch + rank * share
    return [(start, start + micro_batch) for start in range(first, first + share, micro_batch)]


def fill_up(num_rows: int, rank: int, world_size: int, micro_batch: int) -> Iterator[tuple[I64, Bool]]:
    """Row numbers [B] of each micro-batch of a rank, and [B] whether the row is real or only fills up (then it is the last row).

    Every row is real once over all ranks; all ranks get equally many micro-batches of equal size.

    Raises:
        ValueError: no row, or rank outside world_size.
    """
    _check_rank(rank, world_size, micro_batch)
    if num_rows < 1:
        raise ValueError("there is no row to evaluate on; give at least one")
    for start in range(0, num_rows, world_size * micro_batch):
        index_B = start + rank * micro_batch + np.arange(micro_batch, dtype=np.int64)
        yield np.minimum(index_B, num_rows - 1), index_B < num_rows


def trimmed_length(lengths_B: Indices, most: int) -> int:
    """The longest row, rounded up to a multiple of 8, at most `most`."""
    longest = int(lengths_B.max(initial=1))
    return min(most, -(-longest // TRIM_MULTIPLE) * TRIM_MULTIPLE)


def attention_and_positions(lengths_B: Indices, length: int) -> tuple[Bool, I64]:
    """[B, T] True on tokens, and [B, T] positions 2, 3, … on tokens and 1 on padding (XLM-R's numbering)."""
    places_T = np.arange(length, dtype=np.int64)
    attention_BT: Bool = places_T < np.asarray(lengths_B)[:, None]
    return attention_BT, np.where(attention_BT, places_T + FIRST_POSITION, PAD)


def _gather(
    reader: RowReader, language_B: I32, row_B: I64, length: int, vocab_size: int, trim: bool, restart: bool
) -> tuple[Gathered, I64]:
    """Rows of several languages [B, T], and their lengths [B]."""
    lengths_B, _ = reader.measure(language_B, row_B)
    places = trimmed_length(lengths_B, length) if trim else length
    return reader.gather(language_B, row_B, places, vocab_size=vocab_size, restart=restart), lengths_B


def _langs(langs_L2: I64 | None, language_B: I32, gathered: Gathered) -> I64 | None:
    """[B, T] rows of the language embeddings."""
    if langs_L2 is None:
        return None
    rows_B2 = langs_L2[language_B]
    if gathered.sides_BT is None:
        return np.repeat(rows_B2[:, :1], gathered.ids_BT.shape[1], axis=1)
    return np.take_along_axis(rows_B2, gathered.sides_BT, axis=1)


def _micro_batch(
    masked: Masked, gathered: Gathered, language_B: I32, samples_B: I64, within_documents: bool, langs_BT: I64 | None
) -> MicroBatch:
    return MicroBatch(
        input_ids_BT=masked.input_ids_BT,
        attention_BT=attention_of(gathered.positions_BT),
        positions_BT=gathered.positions_BT,
        segments_BT=gathered.segments_BT,
        masked_index_M=masked.masked_index_M,
        labels_M=masked.labels_M,
        weights_M=masked.weights_M,
        languages_B=language_B,
        samples_B=samples_B,
        is_causal=masked.is_causal,
        within_documents=within_documents,
        langs_BT=langs_BT,
    )


def _check_rank(rank: int, world_size: int, micro_batch: int) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of {world_size}; ranks count from 0 to world size − 1")
    if micro_batch < 1:
        raise ValueError(f"micro-batch is {micro_batch}; it must be at least 1 row")


def _ranges(starts: I64, counts: I64) -> I64:
    """starts[0] … starts[0] + counts[0] − 1, then the next range, one after the other."""
    return np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


def _first_difference(found: Mapping[str, int], planned: Mapping[str, int]) -> str:
    """The first language whose number of rows is not the mixture's, in words; of 100 languages one is enough."""
    language = min(code for code in {*found, *planned} if found.get(code) != planned.get(code))
    return f"{found.get(language, 0)} rows of {language}, the mixture was made for {planned.get(language, 0)}"
