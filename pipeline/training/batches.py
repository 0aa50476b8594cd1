"""Batches: from the plan of samples to the arrays a step is computed from. Pure numpy; nothing here has state.

    step s ──▶ samples s·G … (s+1)·G − 1 of the mixture            G = global batch, in rows
           ──▶ rank r's part of them, in micro-batches             the same union for every number of ranks and every cut
           ──▶ rows of packed spans, gathered from memory-mapped token ids, with <s>, </s> and <pad>
           ──▶ masked by the objective                             a function of the sample's index, not of the batch
           ──▶ MicroBatch, and the weight of the whole global batch, by which each micro-batch's summed loss is divided

A micro-batch's mean would give rows another weight with another cut; the sum over the known weight of the whole step
does not, which makes loss and gradient independent of ranks and accumulation.

Legend: B rows of a micro-batch, T places, M predictions, R rows of a packing, S spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.text.packing import BOS, EOS, FIRST_POSITION, PAD
from pipeline.training.counter import bits, derive
from pipeline.training.mixture import Mixture
from pipeline.training.objectives.masked import HELD_OUT_SEED, Masked, held_out_mask

I16 = npt.NDArray[np.int16]
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
class PackedRows:
    """The packing of one language over its token shards; the arrays may be memory-mapped."""

    shards: tuple[npt.NDArray[np.integer], ...]
    """Flat token ids without special tokens, one array a shard."""
    row_offsets: Indices
    """[R+1] row r has the spans row_offsets[r] … row_offsets[r+1] − 1."""
    span_shard: Indices
    """[S] index into `shards`."""
    span_start: Indices
    """[S] in tokens, within the shard."""
    span_length: Indices
    """[S] in tokens."""
    length: int
    """Places of a row, special tokens included."""

    def __len__(self) -> int:
        return len(self.row_offsets) - 1

    def num_special(self, rows: Indices | None = None) -> I64:
        """[B] how many tokens of each row are `<s>` or `</s>`."""
        return self._spans(rows)[1] + 1

    def row_lengths(self, rows: Indices | None = None) -> I64:
        """[B] tokens of each row with `<s>` and `</s>`, without padding; of all rows when none are named."""
        first_B, count_B = self._spans(rows)
        length_S = np.asarray(self.span_length[_ranges(first_B, count_B)], dtype=np.int64)
        total_S = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(length_S)))
        end_B = np.cumsum(count_B)
        return 1 + count_B + total_S[end_B] - total_S[end_B - count_B]

    def gather(self, rows: Indices) -> tuple[I64, I64, I16]:
        """The rows as trained.

        rows: [B]. Returns ids [B, length] int64 with special tokens and padding, lengths [B], and segments [B, length]:
        the number of the span each token belongs to (`<s>` to the first), −1 for padding; attention kept within equal
        segments treats the documents of a row as if they were alone.

        Raises:
            ValueError: a row without spans or longer than `length`, a span outside its shard, or a structure id
                (`<s>`, `<pad>`, `</s>`) among a document's ids.
        """
        first_B, count_B = self._spans(rows)
        num_rows = len(count_B)
        ids_BT = np.full((num_rows, self.length), PAD, dtype=np.int64)
        segments_BT = np.full((num_rows, self.length), -1, dtype=np.int16)
        if not num_rows:
            return ids_BT, np.zeros(0, dtype=np.int64), segments_BT
        if int(count_B.min()) < 1:
            raise ValueError("gather: a row has no span; the packing is damaged: pack again")
        lengths_B = self.row_lengths(rows)
        if int(lengths_B.max()) > self.length:
            raise ValueError(f"gather: a row has {int(lengths_B.max())} tokens, more than its {self.length}; pack again")

        span_S = _ranges(first_B, count_B)
        row_S = np.repeat(np.arange(num_rows), count_B)
        number_S = _ranges(np.zeros(num_rows, dtype=np.int64), count_B)
        length_S = np.asarray(self.span_length[span_S], dtype=np.int64)
        start_S = np.asarray(self.span_start[span_S], dtype=np.int64)
        shard_S = np.asarray(self.span_shard[span_S], dtype=np.int64)
        self._check_spans(shard_S, start_S, length_S)
        # Within a row a span begins after <s> and after each span before it with its </s>.
        before_S = np.cumsum(length_S + 1) - (length_S + 1)
        column_S = 1 + before_S - before_S[number_S == 0][row_S]

        token_N = _ranges(start_S, length_S)
        place_N = _ranges(row_S * self.length + column_S, length_S)
        shard_N = np.repeat(shard_S, length_S)
        flat_ids, flat_segments = ids_BT.reshape(-1), segments_BT.reshape(-1)  # views
        for shard in np.unique(shard_S):
            here_N = shard_N == shard
            flat_ids[place_N[here_N]] = self.shards[shard][token_N[here_N]]
        if int(flat_ids[place_N].min(initial=EOS + 1)) <= EOS:
            raise ValueError(f"gather: a document holds an id of 0..{EOS} (<s>, <pad>, </s>); tokens are stored without: encode again")
        flat_segments[place_N] = np.repeat(number_S, length_S)
        ids_BT[:, 0], segments_BT[:, 0] = BOS, 0
        ids_BT[row_S, column_S + length_S] = EOS
        segments_BT[row_S, column_S + length_S] = number_S
        return ids_BT, lengths_B, segments_BT

    def _spans(self, rows: Indices | None) -> tuple[I64, I64]:
        """[B] first span and [B] number of spans."""
        rows_B = np.arange(len(self)) if rows is None else np.asarray(rows)
        if rows_B.size and (int(rows_B.min()) < 0 or int(rows_B.max()) >= len(self)):
            raise ValueError(f"rows {int(rows_B.min())}..{int(rows_B.max())} are asked for; there are 0..{len(self) - 1}")
        first_B = np.asarray(self.row_offsets[rows_B], dtype=np.int64)
        return first_B, np.asarray(self.row_offsets[rows_B + 1], dtype=np.int64) - first_B

    def _check_spans(self, shard_S: I64, start_S: I64, length_S: I64) -> None:
        if int(shard_S.min()) < 0 or int(shard_S.max()) >= len(self.shards):
            raise ValueError(f"gather: spans lie in shards {int(shard_S.min())}..{int(shard_S.max())} of {len(self.shards)}; pack again")
        shard_sizes = np.array([len(shard) for shard in self.shards], dtype=np.int64)
        if bool(((start_S < 0) | (length_S < 1) | (start_S + length_S > shard_sizes[shard_S])).any()):
            raise ValueError("gather: a span lies outside its shard; packing and tokens do not belong together: pack again")


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What one forward pass of one rank takes."""

    input_ids_BT: I64
    """Ids as the model sees them."""
    attention_BT: Bool
    """True on tokens, False on padding."""
    positions_BT: I64
    """2, 3, … on tokens, 1 on padding."""
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


@dataclass(frozen=True)
class Feed:
    """All batches of a training phase, by step."""

    rows: Mapping[str, PackedRows]
    """The packing of each language, all of one length."""
    mixture: Mixture
    """Which row is which sample."""
    objective: Objective
    """What is predicted."""
    vocab_size: int
    """Ids of the model; `<mask>` is the last."""
    seed: int
    """Seed of the masks."""
    global_batch: int
    """Rows of a step, over all ranks and accumulation."""
    trim: bool = False
    """Pad to the longest row of a micro-batch, rounded up to a multiple of 8, instead of the full length: faster, not static."""

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
        for start, stop in cut(step, rank, world_size, micro_batch, self.global_batch):
            plan = self.mixture.samples(start, stop)
            samples_B = np.arange(start, stop, dtype=np.int64)
            ids_BT, lengths_B = _gather(self.rows, self.mixture.languages, plan.language_N, plan.row_N, self.vocab_size, self.trim)
            masked = self.objective.apply(ids_BT, lengths_B, samples_B, seed=self.seed, vocab_size=self.vocab_size)
            yield _micro_batch(masked, lengths_B, plan.language_N, samples_B)

    def weight(self, step: int) -> float:
        """Predictions of the whole global batch: what summed losses are divided by. Reads lengths only, no token."""
        plan = self.mixture.samples(step * self.global_batch, (step + 1) * self.global_batch)
        total = 0
        for number in np.unique(plan.language_N):
            rows = self.rows[self.mixture.languages[number]]
            chosen = plan.row_N[plan.language_N == number]
            total += int(self.objective.counts(rows.row_lengths(chosen), rows.num_special(chosen)).sum())
        return float(total)


def held_out_batches(
    rows: Mapping[str, PackedRows],
    *,
    vocab_size: int,
    rank: int,
    world_size: int,
    micro_batch: int,
    seed: int = HELD_OUT_SEED,
    trim: bool = True,
) -> Iterator[MicroBatch]:
    """Every row of the held-out packings once over all ranks, languages in code order, with fixed masks.

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
    for index_B, real_B in fill_up(len(row_N), rank, world_size, micro_batch):
        language_B, row_B = language_N[index_B], row_N[index_B]
        ids_BT, lengths_B = _gather(rows, languages, language_B, row_B, vocab_size, trim)
        masked = held_out_mask(ids_BT, lengths_B, bits(keys_L[language_B], 0, row_B), vocab_size=vocab_size, seed=seed)
        weights_M = masked.weights_M * np.repeat(real_B, len(masked.weights_M) // len(real_B)).astype(np.float32)
        filled = Masked(masked.input_ids_BT, masked.masked_index_M, masked.labels_M, weights_M)
        yield _micro_batch(filled, lengths_B, language_B, np.where(real_B, row_B, -1))


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
    rows: Mapping[str, PackedRows], languages: tuple[str, ...], language_B: I32, row_B: I64, vocab_size: int, trim: bool
) -> tuple[I64, I64]:
    """Ids [B, T] and lengths [B] of rows of several languages."""
    length = rows[languages[0]].length
    ids_BT = np.full((len(row_B), length), PAD, dtype=np.int64)
    lengths_B = np.zeros(len(row_B), dtype=np.int64)
    for number in np.unique(language_B):
        here_B = language_B == number
        ids_BT[here_B], lengths_B[here_B], _ = rows[languages[number]].gather(row_B[here_B])
    if int(ids_BT.max(initial=0)) >= vocab_size - 1:
        raise ValueError(
            f"a row holds id {int(ids_BT.max())}; the vocabulary has ids 0..{vocab_size - 2} and <mask> {vocab_size - 1}: "
            "tokens and vocabulary do not belong together"
        )
    if trim:
        ids_BT = np.ascontiguousarray(ids_BT[:, : trimmed_length(lengths_B, length)])
    return ids_BT, lengths_B


def _micro_batch(masked: Masked, lengths_B: I64, language_B: I32, samples_B: I64) -> MicroBatch:
    attention_BT, positions_BT = attention_and_positions(lengths_B, masked.input_ids_BT.shape[1])
    return MicroBatch(
        input_ids_BT=masked.input_ids_BT,
        attention_BT=attention_BT,
        positions_BT=positions_BT,
        masked_index_M=masked.masked_index_M,
        labels_M=masked.labels_M,
        weights_M=masked.weights_M,
        languages_B=language_B,
        samples_B=samples_B,
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
