"""Contrast of translations: each side of a pair is to find the other among those of the whole global batch (LaBSE, Feng et al. 2022; InfoXLM, Chi et al. 2021).

    pairs of the step -> <s> a </s> and <s> b </s>, each a row of its own -> mean of the hidden states, or of the word embeddings -> unit vectors u, v
    -> s_ij = u_i·v_j / temperature -> ½ (−log softmax_j s_ij − log softmax_i s_ij) at j = i, summed over pairs i

The negatives are all other pairs of the global batch, over all ranks and micro-batches, but for those that share a side with it: a pair that comes twice, or the same sentence
with translations into several languages, which are all right. A step goes over its
micro-batches twice (GradCache, Gao et al. 2021): without gradient for the vectors of the whole batch, from which the loss's gradient by each vector follows, then with
gradient, each micro-batch against its own. Dropout is the same both times. So the cut changes nothing, and memory is that of one micro-batch.

Departure: no additive margin (LaBSE), no queue and no momentum encoder (InfoXLM).

Legend: G pairs of the global batch, B = 2·(pairs of a micro-batch) rows, first all sides a and then all sides b; T places, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from pipeline.model.language_embeddings import langs_given
from pipeline.text.packing import PAD
from pipeline.training.batches import cut, trimmed_length
from pipeline.training.counter import bits, derive
from pipeline.training.mixture import Mixture
from pipeline.training.packed_rows import PackedRows, RowReader, attention_of

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

DEFAULT_TEMPERATURE = 0.05
"""What similarities are divided by (LaBSE and InfoXLM scale unit vectors likewise)."""


@dataclass(frozen=True, eq=False)
class PairBatch:
    """What one forward pass of one rank takes."""

    input_ids_BT: I64
    """Ids."""
    attention_BT: Bool
    """True on tokens."""
    positions_BT: I64
    """2, 3, … on tokens, 1 on padding."""
    languages_B: I32
    """Number of the pair of languages."""
    samples_B: I64
    """2g and 2g + 1 for the sides of sample g."""
    place_B: I64
    """Of each row's vector among those of the global batch: i for the sides a, G + i for b."""
    digest_B: I64
    """Equal where rows have the same ids."""
    pairs: int
    """G."""
    temperature: float
    """What similarities are divided by."""
    on_embeddings: bool
    """Vectors are means of the word embeddings, rather than of the last hidden states."""
    gradients_BD: F32 | None = None
    """Of the step's summed loss by this batch's vectors, once known."""
    share: F32 | None = None
    """[1] this batch's part of the summed loss."""
    langs_BT: I64 | None = None
    """Row of the language embeddings of each token; none where the model has none."""


@dataclass(frozen=True)
class PairFeed:
    """All batches of pairs of a training phase, by step; see `pipeline.training.mixing.StepFeed`."""

    sides: Mapping[str, PackedRows]
    """Of each pair of languages; rows 2p and 2p + 1 are the sides of pair p (`sides_of`)."""
    mixture: Mixture
    """Which pair is which sample."""
    vocab_size: int
    """Ids of the model."""
    global_batch: int
    """Pairs of a step, over all ranks and accumulation; at least 2."""
    temperature: float = DEFAULT_TEMPERATURE
    """See `PairBatch`."""
    on_embeddings: bool = False
    """See `PairBatch`."""
    first_language: int = 0
    """Number of the first pair of languages, where several feeds count together."""
    langs_L2: I64 | None = None
    """See `pipeline.training.batches.Feed`."""

    def __post_init__(self) -> None:
        if {lang: len(rows) for lang, rows in self.sides.items()} != {lang: 2 * pairs for lang, pairs in self.mixture.rows.items()}:
            raise ValueError("PairFeed: the sides are not two for each pair of the mixture; make the mixture from these sides")
        if self.global_batch < 2:
            raise ValueError(f"contrast: a global batch of {self.global_batch} pair holds no negative; give at least 2")

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch: int) -> Iterator[PairBatch]:
        """The micro-batches of one rank in one step, `micro_batch` pairs each; errors as `batches.cut`."""
        first = step * self.global_batch
        plan = self.mixture.samples(first, first + self.global_batch)
        for start, stop in cut(step, rank, world_size, micro_batch, self.global_batch):
            here = np.arange(start, stop, dtype=np.int64)
            language_B = np.tile(plan.language_N[start - first : stop - first], 2)
            row_B = np.concatenate([2 * plan.row_N[start - first : stop - first] + side for side in (0, 1)])
            yield pair_batch(
                self._reader, language_B, row_B, self.vocab_size, samples_B=np.concatenate([2 * here, 2 * here + 1]),
                place_B=np.concatenate([here - first, here - first + self.global_batch]), pairs=self.global_batch, temperature=self.temperature,
                on_embeddings=self.on_embeddings, first_language=self.first_language, langs_L2=self.langs_L2,
            )  # fmt: skip

    def weight(self, step: int) -> float:
        """Pairs of the global batch."""
        return float(self.global_batch)

    @cached_property
    def _reader(self) -> RowReader:
        return RowReader([self.sides[language] for language in self.mixture.languages])


def pair_batch(
    reader: RowReader, language_B: I32, row_B: I64, vocab_size: int, *, samples_B: I64, place_B: I64, pairs: int, temperature: float,
    on_embeddings: bool = False, first_language: int = 0, langs_L2: I64 | None = None,
) -> PairBatch:  # fmt: skip
    """Sides as rows, padded to the longest, rounded up to a multiple of 8."""
    lengths_B, _ = reader.measure(language_B, row_B)
    gathered = reader.gather(language_B, row_B, trimmed_length(lengths_B, 1 << 30), vocab_size=vocab_size)
    return PairBatch(
        gathered.ids_BT, attention_of(gathered.positions_BT), gathered.positions_BT, (language_B + first_language).astype(np.int32), samples_B,
        place_B, digests(gathered.ids_BT), pairs, temperature, on_embeddings,
        langs_BT=None if langs_L2 is None else np.repeat(langs_L2[language_B, row_B % 2][:, None], gathered.ids_BT.shape[1], axis=1),
    )  # fmt: skip


def digests(ids_BT: I64) -> I64:
    """[B] a hash of each row's tokens; padding does not count."""
    placed_BT = bits(derive(0, "side"), 0, np.arange(ids_BT.shape[1])[None, :], ids_BT)
    with np.errstate(over="ignore"):  # modulo 2^64
        return np.where(ids_BT != PAD, placed_BT, np.uint64(0)).sum(axis=1, dtype=np.uint64).astype(np.int64)


def shared_sides(digest_2G: torch.Tensor) -> torch.Tensor:
    """[G, G] whether two pairs share a side; never a pair with itself."""
    first_G, second_G = digest_2G.view(2, -1)
    same_GG = (first_G[:, None] == first_G) | (second_G[:, None] == second_G)
    return same_GG & ~torch.eye(len(first_G), dtype=torch.bool)


def sides_of(pairs: PackedRows) -> PackedRows:
    """Each side of each pair of a pair packing as a row of its own; copies no token."""
    count = len(pairs.span_shard)
    offsets = np.arange(count + 1, dtype=np.int32)
    return PackedRows(pairs.shards, offsets, pairs.span_shard, pairs.span_start, pairs.span_length, pairs.length)


def info_nce(vectors_2GD: torch.Tensor, shared_GG: torch.Tensor, temperature: float) -> torch.Tensor:
    """[G] nats: the mean over both directions of −log softmax at the translation; vectors of any length, float32. `shared_GG` are no negatives."""
    unit_2GD = functional.normalize(vectors_2GD, dim=-1)
    scores_GG = (unit_2GD[0] @ unit_2GD[1].T / temperature).masked_fill(shared_GG, float("-inf"))
    target_G = torch.arange(len(shared_GG), device=shared_GG.device)
    return (
        functional.cross_entropy(scores_GG, target_G, reduction="none") + functional.cross_entropy(scores_GG.T, target_G, reduction="none")
    ) / 2


class _Ranks(Protocol):
    """What is needed of `pipeline.training.engine.Engine`."""

    @property
    def module(self) -> Any:
        """Gives the vectors."""

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Collective."""


def contrasted(batches: Iterable[Any], engine: _Ranks, fields: Callable[[Any, int], Mapping[str, torch.Tensor]]) -> Iterator[Any]:
    """The batches of a rank's step as they are, or, of pairs, with the gradient by their vectors; collective for pairs.

    engine: its module gives the vectors. fields: (batch, number in the step) -> tensors, with the state of random numbers set as in training.
    """
    waiting: list[PairBatch] = []
    for batch in batches:
        if isinstance(batch, PairBatch):
            waiting.append(batch)
        else:
            yield batch
    if not waiting:
        return
    pairs = waiting[0].pairs
    digest_2G = torch.zeros(2 * pairs, dtype=torch.int64)
    found: torch.Tensor | None = None
    for number, batch in enumerate(waiting):
        with torch.no_grad():
            vectors_BD = vectors_of(engine.module, fields(batch, number)).float().cpu()
        if found is None:
            found = torch.zeros(2 * pairs, vectors_BD.shape[1])
        found[torch.from_numpy(batch.place_B)] = vectors_BD
        digest_2G[torch.from_numpy(batch.place_B)] = torch.from_numpy(batch.digest_B)
    assert found is not None
    # The others' places are zeros, so the sums are the vectors and digests themselves.
    vectors_2GD = engine.sum_over_ranks(found).view(2, pairs, -1).requires_grad_()
    nll_G = info_nce(vectors_2GD, shared_sides(engine.sum_over_ranks(digest_2G)), waiting[0].temperature)
    (gradient_2GD,) = torch.autograd.grad(nll_G.sum(), vectors_2GD)
    gradient, nll = gradient_2GD.flatten(0, 1).numpy(), nll_G.detach().numpy()
    for batch in waiting:
        mine = batch.place_B[batch.place_B < pairs]
        share = nll[mine].sum(dtype=np.float64, keepdims=True).astype(np.float32)
        yield dataclasses.replace(batch, gradients_BD=gradient[batch.place_B], share=share)


def vectors_of(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[B, D] the vectors of a batch of pairs."""
    none_M = batch["input_ids_BT"].flatten()[:0]
    vectors_BD: torch.Tensor = module(
        input_ids_BT=batch["input_ids_BT"], attention_BT=batch["attention_BT"], positions_BT=batch["positions_BT"], masked_index_M=none_M,
        labels_M=none_M, weights_M=none_M.float(), dropout_keys_B=batch.get("dropout_keys_B"), is_full=bool(batch["is_full"]),
        pool="embeddings" if bool(batch["on_embeddings"]) else "encoder", **langs_given(batch),
    )  # fmt: skip
    return vectors_BD


def contrast_loss(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A scalar whose value is the batch's share of the step's summed loss and whose gradient that of the whole by its vectors."""
    product = (vectors_of(module, batch) * batch["gradients_BD"]).sum()
    return product - product.detach() + batch["share"][0]
