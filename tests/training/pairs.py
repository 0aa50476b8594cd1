"""Packed translation pairs that are written by hand, and a feed of all objectives over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.model.build import build_masked_lm
from pipeline.model.masked_lm import MaskedLM
from pipeline.text.pairs import pack_pairs
from pipeline.training.batches import Feed
from pipeline.training.contract import Record, TrainSettings
from pipeline.training.engine import Alone
from pipeline.training.loop import train
from pipeline.training.objectives.next_sentence import WithNextSentence
from pipeline.training.objectives.summed import pretraining_loss
from pipeline.training.packed_rows import PackedRows
from pipeline.training.phases import Phased
from stages.pretrain import Config
from stages.pretrain.feeds import feed_of
from tests.training.cases import SIZE
from tests.training.harness import RankGang
from tests.training.test_batches import VOCAB, packing

LENGTH = 24
PHASES = [{"share": 0.2, "objectives": {"contrast": 1.0}, "contrast_on": "embeddings"}, {"share": 0.8}]
STEPS = 10
ALL = {"mlm": 1.0, "tlm": 1.0, "clm": 1.0, "nsp": 1.0, "contrast": 1.0}


def pair_packing(seed: int, count: int = 20) -> tuple[PackedRows, list[tuple[list[int], list[int]]]]:
    """A pair packing in one shard, and its pairs in order."""
    random = np.random.default_rng(seed)
    pairs = [tuple(random.integers(4, VOCAB - 1, int(random.integers(1, 7))).tolist() for _ in range(2)) for _ in range(count)]
    lengths = np.array([[len(a), len(b)] for a, b in pairs])
    packed, dropped = pack_pairs(lengths, max_tokens=LENGTH, best_fit=False)
    assert not any(dropped.values())
    begins = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))])[:-1]
    flat = np.array([token for a, b in pairs for token in (*a, *b)], np.uint16)
    starts = (begins[packed.span_document] + packed.span_start).astype(np.uint64)
    shard = np.zeros(len(starts), np.uint32)
    rows = PackedRows((flat,), packed.row_offsets, shard, starts, packed.span_length.astype(np.uint32), LENGTH, 2)
    return rows, pairs  # type: ignore[return-value]


def texts() -> dict[str, PackedRows]:
    return {lang: packing(seed, documents)[0] for lang, seed, documents in (("en", 2, 30), ("sw", 1, 9))}


def pairs() -> dict[str, PackedRows]:
    return {"en-sw": pair_packing(3)[0], "en-zh": pair_packing(4, 7)[0]}


def config(**changes: Any) -> Config:
    return Config.model_validate_json(json.dumps({"steps": STEPS, "global_batch": 8, "objectives": ALL, "phases": PHASES} | changes))


def feed(**changes: Any) -> Phased:
    return feed_of(config(**changes), texts(), VOCAB, 5, pairs())


def token_feed(name: str) -> Feed:
    """The feed of one objective that predicts tokens."""
    (found,) = feed(objectives={name: 1.0}, phases=[]).feeds
    assert isinstance(found, Feed)
    return found


def module(dropout: float = 0.0) -> MaskedLM:
    return MaskedLM(build_masked_lm(SIZE, VOCAB, seed=1, dropout=dropout, max_length=LENGTH))


def with_heads(dropout: float = 0.0) -> WithNextSentence:
    """A module that every objective can train.

    Its head tells rows apart from the start: at its real start the gradients of both labels all but cancel, and what is left of them is rounding.
    """
    made = WithNextSentence(module(dropout), SIZE.hidden, seed=3)
    with torch.no_grad():
        made.next_sentence.dense.weight.mul_(20)
        made.next_sentence.out.weight.mul_(20)
    return made


def run(
    gang: RankGang | Alone, *, zero: int = 0, micro_batch: int = 8, dropout: float = 0.0, resume_from: str | None = None
) -> list[Record]:
    """The records of one training on all objectives."""
    records: list[Record] = []
    settings = TrainSettings(steps=STEPS, micro_batch=micro_batch, learning_rate=1e-3, precision="fp32", zero=zero, threads=1, seed=7)
    train(
        settings, with_heads(dropout), feed(), pretraining_loss, gang, resume_from=None if resume_from is None else Path(resume_from),
        save=lambda step, engine, meta: None, watch=records.extend, evaluate=None,
    )  # fmt: skip
    return records


def suite(gang: RankGang) -> dict[str, list[Record]]:
    """Every ZeRO stage with one and four micro-batches a rank, and one with dropout."""
    whole = 8 // gang.world_size
    found = {f"{zero}-{cut}": run(gang, zero=zero, micro_batch=whole // cut) for zero in range(4) for cut in (1, 4)}
    found["dropout"] = run(gang, micro_batch=whole // 2, dropout=0.1)
    return found
