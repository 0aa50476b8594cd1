"""Next-sentence prediction: does the second segment go on where the first one ends (Devlin et al. 2019, section 3.1)?

    row -> its longest span, a piece of one document -> first half A, second half B -> <s> A </s> B </s>                        label 1
    half of the samples: B is the second half of another row's longest span, of the same language                              label 0
    hidden state of <s> -> dense, tanh -> two logits -> cross-entropy

Which row, which of the two, and which other row are pure functions of (seed, sample), so any rank and any resume see the same. Departures: segments are halves of a packed
span rather than of a drawn length; the objective has steps of its own in the mixture rather than a part in each step of masked language modelling; one row is one example.

Legend: B rows, T places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from pipeline.model.language_embeddings import langs_given
from pipeline.text.packing import BOS, EOS, PAD
from pipeline.training.batches import attention_and_positions, cut, trimmed_length
from pipeline.training.counter import bits, derive
from pipeline.training.mixture import Mixture
from pipeline.training.packed_rows import PackedRows

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

NUM_SPECIAL = 3
"""<s> and two </s>."""


@dataclass(frozen=True, eq=False)
class NextBatch:
    """What one forward pass of one rank takes."""

    input_ids_BT: I64
    attention_BT: Bool
    positions_BT: I64
    languages_B: I32
    samples_B: I64
    next_B: I64
    """1 where the second segment goes on, else 0."""
    weights_B: F32
    """1, or 0 where a row only fills up."""
    langs_BT: I64 | None = None
    """Row of the language embeddings of each token; none where the model has none."""


@dataclass(frozen=True)
class NextFeed:
    """All batches of a training phase, by step; see `pipeline.training.mixing.StepFeed`."""

    rows: Mapping[str, PackedRows]
    """The packing of each language."""
    mixture: Mixture
    """Which row is which sample."""
    seed: int
    """Of labels and of the other rows."""
    global_batch: int
    """Examples of a step, over all ranks and accumulation."""
    langs_L2: I64 | None = None
    """See `pipeline.training.batches.Feed`."""

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterator[NextBatch]:
        """The micro-batches of one rank in one step; errors as `batches.cut`."""
        languages = self.mixture.languages
        for start, stop in cut(step, rank, world_size, micro_batch, self.global_batch):
            plan = self.mixture.samples(start, stop)
            here = np.arange(start, stop, dtype=np.int64)
            rows = [self.rows[languages[int(number)]] for number in plan.language_N]
            lang_B = None if self.langs_L2 is None else self.langs_L2[plan.language_N, 0]
            yield next_batch(rows, plan.row_N, plan.language_N, here, np.ones(len(here), np.float32), seed=self.seed, lang_B=lang_B)

    def weight(self, step: int) -> float:
        """Examples of the global batch."""
        return float(self.global_batch)


def next_batch(
    rows: list[PackedRows], row_B: I64, language_B: I32, samples_B: I64, weights_B: F32, *, seed: int, keys_B: I64 | None = None,
    lang_B: I64 | None = None,
) -> NextBatch:  # fmt: skip
    """The examples of some rows, each of its own packing, padded to the longest, rounded up to a multiple of 8.

    keys_B: what labels and other rows follow from, with the seed; the samples where none are given. lang_B: rows of the language embeddings.
    """
    drawn_B = bits(derive(seed, "next"), 0, samples_B if keys_B is None else keys_B)
    examples = [example(packed, int(row), int(drawn)) for packed, row, drawn in zip(rows, row_B, drawn_B, strict=True)]
    lengths_B = np.array([len(ids) for ids, _ in examples], np.int64)
    places = trimmed_length(lengths_B, 1 << 30)
    ids_BT = np.full((len(examples), places), PAD, np.int64)
    for at, (ids, _) in enumerate(examples):
        ids_BT[at, : len(ids)] = ids
    attention_BT, positions_BT = attention_and_positions(lengths_B, places)
    labels_B = np.array([label for _, label in examples], np.int64)
    langs_BT = None if lang_B is None else np.repeat(lang_B[:, None], places, axis=1)
    return NextBatch(ids_BT, attention_BT, positions_BT, language_B.astype(np.int32), samples_B, labels_B, weights_B, langs_BT)


def example(packed: PackedRows, row: int, drawn: int) -> tuple[I64, int]:
    """Ids of an example with its special tokens, and its label. `drawn` are 64 random bits: the lowest is the label, the others choose the other row.

    A span of a single token has no continuation, and a packing of a single row no other one: their labels are 0 and 1.
    """
    span = longest_span(packed, row)
    middle = (len(span) + 1) // 2
    first, second, label = span[:middle], span[middle:], drawn & 1
    if len(packed) == 1:
        label = 1
    elif not len(second):
        label = 0
    if not label and len(packed) > 1:
        other = longest_span(packed, (row + 1 + (drawn >> 1) % (len(packed) - 1)) % len(packed))
        second = other[len(other) // 2 :]
    second = second[: packed.length - NUM_SPECIAL - len(first)]
    ids = np.empty(len(first) + len(second) + NUM_SPECIAL, np.int64)
    ids[0], ids[1 : len(first) + 1], ids[len(first) + 1] = BOS, first, EOS
    ids[len(first) + 2 : -1], ids[-1] = second, EOS
    return ids, int(label)


def longest_span(packed: PackedRows, row: int) -> npt.NDArray[np.integer]:
    """The ids of the longest span of a row, the first among equals."""
    begin, end = int(packed.row_offsets[row]), int(packed.row_offsets[row + 1])
    at = begin + int(np.argmax(np.asarray(packed.span_length[begin:end])))
    start = int(packed.span_start[at])
    return packed.shards[int(packed.span_shard[at])][start : start + int(packed.span_length[at])]


class NextSentence(nn.Module):
    """The head: BERT's pooler and two logits. Zeros where it is not asked, so that it takes part in every step at every ZeRO stage."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, 2)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.dense, self.out):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.02)
                layer.bias.zero_()

    def forward(self, hidden_BD: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2]."""
        logits_B2: torch.Tensor = self.out(torch.tanh(self.dense(hidden_BD.to(self.dense.weight.dtype))))
        return logits_B2


class WithNextSentence(nn.Module):
    """A training module and the head beside it; what is asked of the module itself goes through it.

    `model` is the Hugging Face model, for export, which leaves the head out.
    """

    def __init__(self, module: nn.Module, width: int, seed: int) -> None:
        super().__init__()
        self.trained = module
        self.next_sentence = NextSentence(width, seed)

    @property
    def model(self) -> nn.Module:
        """See `MaskedLM.model`."""
        inner: nn.Module = self.trained.model
        return inner

    def forward(self, *args: object, of_first: bool = False, **named: object) -> object:
        """As the module's own; of_first: the logits [B, 2] of each row's first hidden state are asked for instead."""
        if of_first:
            hidden_BD = self.trained(*args, **named, pool="first")
            return self.next_sentence(hidden_BD).float()
        found = self.trained(*args, **named)
        loss = found[0] if isinstance(found, tuple) else found
        nothing = self.next_sentence(loss.new_zeros(0, self.next_sentence.dense.in_features)).sum() * 0
        return (loss + nothing, *found[1:]) if isinstance(found, tuple) else loss + nothing


def next_nats(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[B] nats of each example's label, float32."""
    none_M = batch["input_ids_BT"].flatten()[:0]
    logits_B2 = module(
        input_ids_BT=batch["input_ids_BT"], attention_BT=batch["attention_BT"], positions_BT=batch["positions_BT"], masked_index_M=none_M,
        labels_M=none_M, weights_M=none_M.float(), dropout_keys_B=batch.get("dropout_keys_B"), is_full=bool(batch["is_full"]), of_first=True,
        **langs_given(batch),
    )  # fmt: skip
    return functional.cross_entropy(logits_B2, batch["next_B"], reduction="none")


def next_loss(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Σ weight · nats of a `WithNextSentence`, under an engine or not."""
    return (next_nats(module, batch) * batch["weights_B"]).sum()
