"""Whole sentences into rows of a fixed length: which tokens of which documents make a training sequence.

    documents   |aaaa aaa aa|bb bbbbbb|ccc …            lengths of sentences, in tokens
    rows        <s> aaaa aaa aa </s> bb </s> <pad>      a row: <s>, then each document's span closed by </s>
                <s> bbbbbb </s> ccc … </s>

FULL-SENTENCES of RoBERTa (Liu et al. 2019, section 4.2; `complete` in fairseq): sentences are added in order while they
fit, and a row may go on into the next document. No token moves: a row is a range of the corpus read as one stream, so
only the starts of rows are searched for, one binary search a row; spans then follow from row and document borders.

Departure: fairseq gives a sentence longer than a row a block of its own; here it is cut, and its pieces fill the rows,
beginning with what is left of the present one, so that text without sentence ends packs without waste.

Only lengths come in and only an index goes out; the tokens themselves stay where `encode` wrote them.

Legend: N sentences, R rows, S spans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

BOS, PAD, EOS, UNK = 0, 1, 2, 3
"""Ids of `<s>`, `<pad>`, `</s>` and `<unk>`; `<mask>` is the vocabulary's size − 1."""

FIRST_POSITION = PAD + 1
"""Position of a row's first token in the XLM-R family: the padding's position is its id, 1, and tokens count from 2."""

MIN_TOKENS = 3  # <s>, one token, </s>


@dataclass(frozen=True, eq=False)
class Packed:
    """An index of rows over documents; every token of every document lies in exactly one span."""

    row_offsets: I64
    """[R+1] row r has the spans row_offsets[r] … row_offsets[r+1] − 1, at least one."""
    span_document: I64
    """[S] the document, as numbered by the caller."""
    span_start: I64
    """[S] in tokens, within the document."""
    span_length: I64
    """[S] in tokens, without `</s>`; at least 1."""
    max_tokens: int
    """Most tokens of a row, `<s>` and `</s>` included."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_offsets) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows, `<s>` and `</s>` included, padding not."""
        return self.num_rows + int(self.span_length.sum()) + len(self.span_length)

    @property
    def num_cut_documents(self) -> int:
        """Documents that lie in more than one row, or in more than one piece of a row."""
        return int((np.unique(self.span_document, return_counts=True)[1] > 1).sum())

    @property
    def fill(self) -> float:
        """Share of the rows that is not padding; 0 when there is no row."""
        return self.num_tokens / (self.num_rows * self.max_tokens) if self.num_rows else 0.0


def pack_sentences(sentence_lengths: npt.NDArray[np.integer], document_of_sentence: npt.NDArray[np.integer], *, max_tokens: int) -> Packed:
    """Fill rows with whole sentences, in order.

    sentence_lengths: [N] in tokens, without special tokens; empty sentences are allowed and take no room.
    document_of_sentence: [N] document numbers, never falling.
    max_tokens: length of a row, with `<s>` and one `</s>` for each span.

    Raises:
        ValueError: arrays of different lengths, a negative length, falling document numbers, or max_tokens below 3.
    """
    lengths_N = np.asarray(sentence_lengths, dtype=np.int64)
    documents_N = np.asarray(document_of_sentence, dtype=np.int64)
    if lengths_N.ndim != 1 or lengths_N.shape != documents_N.shape:
        raise ValueError(f"pack_sentences: {lengths_N.shape} lengths for {documents_N.shape} document numbers; give one of each a sentence")
    if max_tokens < MIN_TOKENS:
        raise ValueError(f"pack_sentences: max_tokens is {max_tokens}; a row of <s>, one token and </s> needs at least {MIN_TOKENS}")
    if lengths_N.size and int(lengths_N.min()) < 0:
        raise ValueError(f"pack_sentences: a sentence has {int(lengths_N.min())} tokens; lengths are 0 or more")
    if bool((documents_N[1:] < documents_N[:-1]).any()):
        raise ValueError("pack_sentences: document numbers fall; give the sentences of each document together, in order")
    kept = lengths_N > 0
    lengths_N, documents_N = lengths_N[kept], documents_N[kept]
    if not lengths_N.size:
        empty = np.zeros(0, dtype=np.int64)
        return Packed(np.zeros(1, dtype=np.int64), empty, empty, empty, max_tokens)

    is_first_N = np.concatenate(([True], documents_N[1:] != documents_N[:-1]))
    ends_N = np.cumsum(lengths_N)
    row_starts_R = _row_starts(lengths_N, ends_N, np.cumsum(is_first_N), max_tokens)
    document_starts_D = (ends_N - lengths_N)[is_first_N]

    # A span ends where a row or a document does: the borders of both, in order.
    starts_S = np.union1d(row_starts_R, document_starts_D)
    document_S = np.searchsorted(document_starts_D, starts_S, side="right") - 1
    return Packed(
        row_offsets=np.append(np.searchsorted(starts_S, row_starts_R), len(starts_S)).astype(np.int64),
        span_document=documents_N[is_first_N][document_S],
        span_start=starts_S - document_starts_D[document_S],
        span_length=np.diff(starts_S, append=ends_N[-1]),
        max_tokens=max_tokens,
    )


def _row_starts(lengths_N: I64, ends_N: I64, document_rank_N: I64, max_tokens: int) -> I64:
    """[R] token of the stream with which each row begins.

    A row that begins at token t, in sentence i, takes sentences up to j when 1 + (ends[j] − t) + documents(i…j) ≤ max_tokens,
    so when ends[j] + rank[j] ≤ t + rank[i] + max_tokens − 2. The left side rises with j: a binary search finds the last j.
    """
    capacity = max_tokens - 2  # tokens of a row that lies in one document
    cost_N = ends_N + document_rank_N
    num_sentences, num_tokens = len(lengths_N), int(ends_N[-1])
    starts: list[int] = []
    token, sentence = 0, 0
    while token < num_tokens:
        starts.append(token)
        limit = token + int(document_rank_N[sentence]) + capacity
        # Each sentence costs at least one token, so the end lies within this window and the search stays short.
        following = sentence + int(cost_N[sentence : sentence + max_tokens].searchsorted(limit, side="right"))
        if following > sentence:
            token = int(ends_N[following - 1])
        if following < num_sentences and lengths_N[following] > capacity:
            # Too long for any row: its next piece fills what is left of this one, less the </s> of a document begun.
            room = limit - token - int(document_rank_N[following])
            token += max(0, room)
        sentence = following
    return np.asarray(starts, dtype=np.int64)
