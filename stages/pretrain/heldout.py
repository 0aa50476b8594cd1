"""The held-out measure: masked tokens of the held-out rows at fixed positions, by model and by unigram baselines.

Everything is a sum of nats and a count per language, so that means over tokens and over languages follow from the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from pipeline.model.documents import Within
from pipeline.model.language_embeddings import Langs, langs_given, table_of
from pipeline.training.batches import Objective, fill_up, held_out_batches
from pipeline.training.counter import derive
from pipeline.training.kernels import add_counts
from pipeline.training.loop import tensors_of
from pipeline.training.objectives.contrast import PairBatch, info_nce, pair_batch, shared_sides, sides_of, vectors_of
from pipeline.training.objectives.masked import HELD_OUT_SEED
from pipeline.training.objectives.next_sentence import next_batch, next_nats
from pipeline.training.packed_rows import PackedRows, RowReader

MICRO_BATCH = 16
GROUP = 16
"""Held-out pairs among which a translation is looked for."""


def unigram_baselines(
    train: Mapping[str, PackedRows],
    held: Mapping[str, PackedRows],
    vocab_size: int,
    *,
    restart: bool = False,
    objective: Objective | None = None,
) -> dict[str, dict[str, float]]:
    """Mean nats per masked held-out token of each language under add-one unigrams: of the whole corpus, and of the language itself.

    Counts are of the training rows' tokens; the masked positions are those the model is measured on, those of `objective` where one is given.
    """
    own = {lang: token_counts(rows, vocab_size) for lang, rows in train.items()}
    corpus = np.sum(list(own.values()), axis=0)
    languages = sorted(held)
    sums = {name: np.zeros(len(languages)) for name in ("corpus_unigram", "language_unigram")}
    counts = np.zeros(len(languages))
    for batch in held_out_batches(
        held, vocab_size=vocab_size, rank=0, world_size=1, micro_batch=MICRO_BATCH, restart=restart, objective=objective
    ):
        language_M = batch.languages_B[batch.masked_index_M // batch.input_ids_BT.shape[1]]
        for number in np.unique(language_M):
            here = (language_M == number) & (batch.weights_M > 0)
            labels = batch.labels_M[here]
            counts[number] += len(labels)
            for name, table in (
                ("corpus_unigram", corpus),
                ("language_unigram", own.get(languages[number], np.zeros(vocab_size, np.int64))),
            ):
                sums[name][number] -= np.log((table[labels] + 1) / (table.sum() + vocab_size)).sum()
    return {name: {lang: float(values[i] / counts[i]) for i, lang in enumerate(languages) if counts[i]} for name, values in sums.items()}


def masked_bytes(held: Mapping[str, PackedRows], piece_bytes: np.ndarray[Any, np.dtype[np.int64]], vocab_size: int) -> dict[str, int]:
    """Language -> UTF-8 bytes of its masked pieces, so that losses under different vocabularies can be compared.

    piece_bytes: [V] bytes of each piece, a leading `▁` counting as one space.
    """
    languages = sorted(held)
    total = np.zeros(len(languages), np.int64)
    for batch in held_out_batches(held, vocab_size=vocab_size, rank=0, world_size=1, micro_batch=MICRO_BATCH):
        language_M = batch.languages_B[batch.masked_index_M // batch.input_ids_BT.shape[1]]
        real = batch.weights_M > 0
        np.add.at(total, language_M[real], piece_bytes[batch.labels_M[real]])
    return {lang: int(total[i]) for i, lang in enumerate(languages)}


def bits_per_byte(sums: Mapping[str, tuple[float, int]], covered: Mapping[str, int]) -> dict[str, float]:
    """Language -> bits for each UTF-8 byte of its masked pieces, of sums of nats; `covered` is what `masked_bytes` gave."""
    return {lang: nats / math.log(2) / covered[lang] for lang, (nats, _) in sorted(sums.items()) if covered.get(lang)}


def by_byte(sums: Mapping[str, tuple[float, int]], covered: Mapping[str, int]) -> dict[str, float]:
    """`perplexity/LANG` and `bits_per_byte/LANG` for the record of a step, and `heldout/bits_per_byte`, in which each language weighs the same."""
    bits = bits_per_byte(sums, covered)
    found = {f"perplexity/{lang}": math.exp(min(700.0, nats / count)) for lang, (nats, count) in sorted(sums.items()) if count}
    found |= {f"bits_per_byte/{lang}": value for lang, value in bits.items()}
    return found | ({"heldout/bits_per_byte": mean_over_languages(bits)} if bits else {})


def bytes_of_pieces(model: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[V] UTF-8 bytes that each id stands for; special ids stand for none."""
    from pipeline.text.tokenizer import SPACE, Tokenizer

    tokenizer = Tokenizer(model)
    sizes = np.array([len(piece.replace(SPACE, " ").encode()) for piece in tokenizer.pieces()], np.int64)
    sizes[sorted(tokenizer.byte_ids)] = 1
    sizes[:4] = 0
    sizes[tokenizer.mask_id] = 0
    return sizes


def token_counts(rows: PackedRows, vocab_size: int, spans: int | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[V] how often each id stands in the rows; spans: in the first so many alone.

    Raises:
        ValueError: a span outside its shard, or an id outside the vocabulary.
    """
    total = np.zeros(vocab_size, np.int64)
    for number, shard in enumerate(rows.shards):
        here = np.flatnonzero(rows.span_shard[:spans] == number)
        if not add_counts(np.asarray(shard), rows.span_start[here], rows.span_length[here], total):
            raise ValueError(
                f"a span lies outside its shard or holds an id above {vocab_size - 1}; packing, tokens and vocabulary do not belong together"
            )
    return total


def held_out_loss(
    module: nn.Module,
    held: Mapping[str, PackedRows],
    vocab_size: int,
    rank: int,
    world_size: int,
    *,
    restart: bool = False,
    within_documents: bool = False,
    objective: Objective | None = None,
    langs: Langs | None = None,
) -> dict[str, tuple[float, int]]:
    """Language -> (sum of nats, number of masked tokens, or of predictions of `objective`) over all ranks; collective. langs: see `held_out_batches`."""
    device = next(module.parameters()).device
    sums = torch.zeros(len(held), 2, dtype=torch.float64)
    for batch in held_out_batches(
        held, vocab_size=vocab_size, rank=rank, world_size=world_size, micro_batch=MICRO_BATCH, restart=restart,
        within_documents=within_documents, objective=objective, langs=langs,
    ):  # fmt: skip
        fields = tensors_of(batch, device)
        names = ("input_ids_BT", "attention_BT", "positions_BT", "masked_index_M", "labels_M", "weights_M")
        within = Within(fields["segments_BT"], batch.is_causal) if within_documents else None
        about = {name: fields[name] for name in names} | langs_given(fields)
        _, _, nll_M = module(**about, per_position=True, is_causal=batch.is_causal, within=within)
        language_M = batch.languages_B[batch.masked_index_M // batch.input_ids_BT.shape[1]]
        index_M = torch.from_numpy(language_M.astype(np.int64))
        weights_M = torch.from_numpy(batch.weights_M).double()
        sums[:, 0].index_add_(0, index_M, nll_M.detach().double().cpu() * weights_M)
        sums[:, 1].index_add_(0, index_M, weights_M)
    return _over_ranks(sums, sorted(held), device, world_size)


def _over_ranks(sums: torch.Tensor, names: Sequence[str], device: torch.device, world_size: int) -> dict[str, tuple[float, int]]:
    if world_size > 1:
        on_device = sums.to(device)
        dist.all_reduce(on_device)
        sums = on_device.cpu()
    return {lang: (float(sums[i, 0]), int(sums[i, 1])) for i, lang in enumerate(names)}


def held_out_next(
    module: nn.Module, held: Mapping[str, PackedRows], rank: int, world_size: int, langs: Langs | None = None
) -> dict[str, tuple[float, int]]:
    """Language -> (sum of nats, number of examples) of next-sentence prediction, one example a row, over all ranks; collective."""
    device, names = next(module.parameters()).device, sorted(held)
    numbers = np.repeat(np.arange(len(names), dtype=np.int32), [len(held[lang]) for lang in names])
    rows_N = np.concatenate([np.arange(len(held[lang]), dtype=np.int64) for lang in names])
    sums, langs_L2 = torch.zeros(len(held), 2, dtype=torch.float64), table_of(langs, names)
    for index_B, real_B in fill_up(len(rows_N), rank, world_size, MICRO_BATCH):
        number_B, row_B = numbers[index_B], rows_N[index_B]
        keys_B = np.array(
            [derive(HELD_OUT_SEED, "next", names[number], int(row)) >> 1 for number, row in zip(number_B, row_B, strict=True)]
        )
        packed = [held[names[number]] for number in number_B]
        batch = next_batch(
            packed, row_B, number_B, row_B, real_B.astype(np.float32), seed=HELD_OUT_SEED, keys_B=keys_B,
            lang_B=None if langs_L2 is None else langs_L2[number_B, 0],
        )  # fmt: skip
        flags = {"is_full": torch.tensor(bool(batch.attention_BT.all()))}
        nats_B = next_nats(module, tensors_of(batch, device) | flags).detach().double().cpu()
        weights_B = torch.from_numpy(batch.weights_B).double()
        sums.index_add_(0, torch.from_numpy(number_B.astype(np.int64)), torch.stack([nats_B * weights_B, weights_B], 1))
    return _over_ranks(sums, names, device, world_size)


def contrast_groups(held: Mapping[str, PackedRows]) -> list[tuple[int, int, int]]:
    """(number of the pair of languages, first pair, end) of groups of at most `GROUP` held-out pairs in order, none of a single pair."""
    groups = []
    for number, lang in enumerate(sorted(held)):
        pairs = len(held[lang].span_shard) // 2
        groups += [(number, start, min(start + GROUP, pairs)) for start in range(0, pairs, GROUP) if min(start + GROUP, pairs) - start > 1]
    return groups


def contrast_baseline(held: Mapping[str, PackedRows], vocab_size: int) -> dict[str, float]:
    """Mean nats of a guess among the pairs of each group that share no side with the one looked for, of each pair of languages."""
    sums = np.zeros((len(held), 2))
    reader = RowReader([sides_of(held[lang]) for lang in sorted(held)])
    for number, start, stop in contrast_groups(held):
        shared_GG = shared_sides(torch.from_numpy(_group(reader, number, start, stop, vocab_size, 1.0, False).digest_B))
        sums[number] += (float(torch.log((~shared_GG).sum(1).double()).sum()), stop - start)
    return {lang: float(sums[i, 0] / sums[i, 1]) for i, lang in enumerate(sorted(held)) if sums[i, 1]}


def _group(
    reader: RowReader, number: int, start: int, stop: int, vocab_size: int, temperature: float, on_embeddings: bool,
    langs_L2: npt.NDArray[np.int64] | None = None,
) -> PairBatch:  # fmt: skip
    """The sides of a group, first all a and then all b."""
    pair_G = np.arange(start, stop, dtype=np.int64)
    row_B = np.concatenate([2 * pair_G, 2 * pair_G + 1])
    return pair_batch(
        reader, np.full(len(row_B), number, np.int32), row_B, vocab_size, samples_B=row_B, place_B=np.arange(len(row_B)), pairs=len(pair_G),
        temperature=temperature, on_embeddings=on_embeddings, langs_L2=langs_L2,
    )  # fmt: skip


def held_out_contrast(
    module: nn.Module,
    held: Mapping[str, PackedRows],
    vocab_size: int,
    rank: int,
    world_size: int,
    *,
    temperature: float,
    on_embeddings: bool,
    langs: Langs | None = None,
) -> dict[str, tuple[float, int]]:
    """Pair of languages -> (sum of nats, number of pairs) of finding translations within `contrast_groups`, over all ranks; collective.

    The vectors are those that the objective trains; pairs that share a side are not told from each other.
    """
    device, names = next(module.parameters()).device, sorted(held)
    groups, langs_L2 = contrast_groups(held), table_of(langs, names)
    sums = torch.zeros(len(held), 2, dtype=torch.float64)
    reader = RowReader([sides_of(held[lang]) for lang in names])
    for at in range(0, len(groups), world_size):
        # Where a rank has no group left, it repeats the last, uncounted: a collective call waits for all.
        number, start, stop = groups[min(at + rank, len(groups) - 1)]
        batch = _group(reader, number, start, stop, vocab_size, temperature, on_embeddings, langs_L2)
        flags = {"is_full": torch.tensor(bool(batch.attention_BT.all())), "on_embeddings": torch.tensor(on_embeddings)}
        vectors_BD = vectors_of(module, tensors_of(batch, device) | flags).detach().float().cpu()
        if at + rank < len(groups):
            nll_G = info_nce(vectors_BD.view(2, stop - start, -1), shared_sides(torch.from_numpy(batch.digest_B)), temperature)
            sums[number] += torch.tensor([float(nll_G.double().sum()), stop - start], dtype=torch.float64)
    return _over_ranks(sums, names, device, world_size)


def mean_over_languages(by_lang: Mapping[str, float]) -> float:
    """The macro mean, each language weighing the same."""
    return math.fsum(by_lang.values()) / len(by_lang)
