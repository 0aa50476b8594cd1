"""What translation pairs are worth: sentence retrieval on Tatoeba by three recipes of equal tokens, trained on ntrex128 alone.

    python -m tests.benchmarks.retrieval [--tokens 4000000] [--seeds 3] [--only mlm --only tlm --only tlm+contrast] [--work FOLDER] [--data FOLDER]

    mlm            masked language modelling of the sentences, each language by itself
    tlm            three quarters of the steps on contrast of the word embeddings alone, the cheap start, then translation language modelling of pairs with English
    tlm+contrast   the same start, then tlm and contrast of the encoder in equal parts

    languages  those that ntrex128 and tatoeba-v1 share, and English
    model      2 × 256, a vocabulary of 16,000, rows of 128 tokens, attention within the sentence or pair, 30% masked, Muon: the same for every recipe, on the same text;
               steps of each so that the tokens are equal within a hundredth

TLM alone from random weights finds no more than MLM at such sizes (4.1% of six languages' sentences at 2 million tokens, with its loss still at MLM's): it has to find
by itself which words belong together before it can use a translation; the start on the embeddings gives it that for a quarter of the time a token.

Score: for each of these languages, the share of tatoeba's 1,000 sentences (or what it has) whose nearest English sentence by cosine is their translation (Artetxe and Schwenk
2019; XTREME), in percent, mean over languages. A sentence's vector is the mean over its tokens of one layer, the one that finds most translations among the held-out pairs of ntrex128
(the same rule for every recipe). Tatoeba serves the score alone. Finished runs are kept in the work folder and are not run again: with `--only`, two processes of one thread
each (OMP_NUM_THREADS=1) may share the work, and a third call reads the figures.

The last line is JSON: tatoeba_mlm, tatoeba_tlm, tatoeba_tlm_contrast (means over seeds), gain_tlm, gain_tlm_contrast (smallest gain over mlm of any seed).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.model.build import build_masked_lm, training_module
from pipeline.model.sizes import ModelSize
from pipeline.text.languages import lookup
from pipeline.text.normalise import normalise
from pipeline.text.tokenizer import Tokenizer
from pipeline.training.contract import TrainSettings
from pipeline.training.engine import Alone
from pipeline.training.loop import train
from pipeline.training.objectives.summed import pretraining_loss
from pipeline.training.packed_rows import PackedRows
from pipeline.training.precision import resolve_precision
from stages.pretrain import Config
from stages.pretrain.feeds import feed_of, planned_tokens
from tests.benchmarks.prepared import Prepared, aligned_news, opened, prepare
from tests.benchmarks.pretrain import DATA

NAME = "retrieval"
SIZE = (2, 256, 4, 1024)
GLOBAL_BATCH = 128
EVERY: dict[str, Any] = {
    "global_batch": GLOBAL_BATCH,
    "optimizer": "muon",
    "learning_rate": 3e-3,
    "mask_rate": 0.3,
    "attention": "documents",
    "contrast_temperature": 0.1,
}
"""What the recipes share."""
BATCH = 250
"""Sentences of a forward pass."""
START = {"share": 0.75, "objectives": {"contrast": 1.0}, "contrast_on": "embeddings"}
RECIPES: dict[str, dict[str, Any]] = {
    "mlm": {"objectives": {"mlm": 1.0}},
    "tlm": {"objectives": {"tlm": 1.0}, "phases": (START, {"share": 0.25})},
    "tlm+contrast": {"objectives": {"tlm": 1.0, "contrast": 1.0}, "phases": (START, {"share": 0.25})},
}


def code_of(written: str) -> str | None:
    """The canonical code of a language that a file's name writes so; none where it is not known."""
    try:
        return lookup(written).code
    except ConfigError:
        return None


def languages(data: Path) -> dict[str, Path]:
    """Language -> the English side of its pairs in tatoeba-v1, for those that ntrex128 has too."""
    news = {code_of(path.name.split(".")[1]) for path in (data / "ntrex128").glob("newstest2019-ref.*.txt")}
    files = {code_of(path.name.split(".")[1].partition("-")[0]): path for path in sorted((data / "tatoeba-v1").glob("tatoeba.*-eng.eng"))}
    return {lang: path for lang, path in files.items() if lang is not None and lang in news}


def settings(data: Path) -> dict[str, Any]:
    """The pipeline file of the data stages."""
    return {
        "name": NAME,
        "languages": ["en", *languages(data)],
        "stages": {
            "ingest": {"sources": [aligned_news(data)], "pivot": "en"},
            "heldout": {"share": 0.05},
            "vocabulary": {"size": 16_000, "bitext": False},
            "pack": {"length": 128},
        },
        "cluster": {"workers": 2},
    }


def config_for(recipe: str, prepared: Prepared, tokens: int) -> Config:
    """The recipe with as many steps as the tokens are enough for."""

    def planned(steps: int) -> int:
        config = Config(steps=steps, **EVERY, **RECIPES[recipe])
        feed = feed_of(config, prepared.rows["train"], prepared.vocabulary_size, 0, prepared.pairs["train"])
        return sum(planned_tokens(feed, steps).values())

    steps = 1000
    for _ in range(4):
        steps = max(20, round(steps * tokens / planned(steps)))
    return Config(steps=steps, **EVERY, **RECIPES[recipe])


def trained(recipe: str, prepared: Prepared, tokens: int, seed: int) -> tuple[Any, dict[str, float]]:
    """The module, and what was done."""
    config = config_for(recipe, prepared, tokens)
    feed = feed_of(config, prepared.rows["train"], prepared.vocabulary_size, seed, prepared.pairs["train"])
    module = training_module(
        build_masked_lm(
            ModelSize(*SIZE, prepared.length + 2, None), prepared.vocabulary_size, seed=seed, dropout=0.0, max_length=prepared.length
        )
    )
    records: list[Any] = []
    run = TrainSettings(
        steps=config.steps, micro_batch=GLOBAL_BATCH, learning_rate=config.learning_rate, warmup_steps=round(config.warmup * config.steps), schedule=config.schedule,
        weight_decay=config.weight_decay, betas=config.betas, eps=config.eps, clip=config.clip, precision=resolve_precision("auto", torch.device("cpu")),
        optimizer=config.optimizer, momentum=config.momentum, log_every=50, seed=seed,
    )  # fmt: skip
    outcome = train(
        run, module, feed, pretraining_loss, Alone(), resume_from=None, save=lambda *_: None, watch=records.extend, evaluate=None
    )
    return module.eval(), {
        "steps": config.steps, "tokens": sum(outcome.tokens_by_language.values()), "seconds": outcome.seconds,
    }  # fmt: skip


@torch.no_grad()
def vectors(module: Any, sentences: list[list[int]], most: int) -> npt.NDArray[np.float32]:
    """[layers + 1, sentences, width]: mean over the tokens of each layer's output, that of the embeddings first; <s> and </s> do not count."""
    order = sorted(range(len(sentences)), key=lambda at: len(sentences[at]))
    found: npt.NDArray[np.float32] | None = None
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        rows = [[0, *sentences[at][: most - 2], 2] for at in part]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
        with torch.autocast("cpu", torch.bfloat16, enabled=resolve_precision("auto", ids.device) == "bf16"):
            hidden = module.model.base_model(input_ids=ids, attention_mask=(ids != 1).long(), output_hidden_states=True).hidden_states
        words = (ids > 2).unsqueeze(-1).float()
        pooled = torch.stack([(layer.float() * words).sum(1) / words.sum(1).clamp_min(1) for layer in hidden]).numpy()
        if found is None:
            found = np.zeros((len(pooled), len(sentences), pooled.shape[2]), np.float32)
        found[:, part] = pooled
    assert found is not None
    return found


def accuracy(a_LND: npt.NDArray[np.float32], b_LND: npt.NDArray[np.float32]) -> list[float]:
    """Of each layer: percent of sentences a whose nearest b by cosine is the one of the same number."""
    found = []
    for a_ND, b_ND in zip(a_LND, b_LND, strict=True):
        scores = functional.normalize(torch.from_numpy(a_ND), dim=1) @ functional.normalize(torch.from_numpy(b_ND), dim=1).T
        found.append(100 * float((scores.argmax(1) == torch.arange(len(a_ND))).float().mean()))
    return found


def sides(packed: PackedRows, most: int) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of both sides of at most so many pairs."""
    spans = [
        packed.shards[shard][int(start) : int(start) + int(length)].tolist()
        for shard, start, length in zip(packed.span_shard, packed.span_start, packed.span_length, strict=True)
    ][: 2 * most]
    return spans[::2], spans[1::2]


def best_layer(module: Any, prepared: Prepared) -> int:
    """The layer that finds most translations among the held-out pairs."""
    total: npt.NDArray[np.float64] | float = 0.0
    for packed in prepared.pairs["heldout"].values():
        a, b = sides(packed, 40)
        total = total + np.array(accuracy(vectors(module, a, prepared.length), vectors(module, b, prepared.length)))
    return int(np.argmax(total))


def tatoeba(module: Any, prepared: Prepared, data: Path) -> dict[str, list[float]]:
    """Language -> percent found, by layer."""
    tokenizer = Tokenizer(prepared.vocabulary.read_bytes())
    found = {}
    for lang, path in languages(data).items():
        both = []
        for side in (path.with_suffix(f".{path.name.split('.')[1].partition('-')[0]}"), path):
            lines = [normalise(line) for line in side.read_text(encoding="utf-8").rstrip("\n").split("\n")]
            both.append(vectors(module, [ids.tolist() for ids in tokenizer.encode(lines)], prepared.length))
        found[lang] = accuracy(both[0], both[1])
    return found


def run(given: argparse.Namespace, prepared: Prepared, recipe: str, seed: int) -> float:
    """The score of one training; from the work folder where it is finished."""
    file = given.work / f"{recipe}-{given.tokens}-{seed}.json"
    if not file.exists():
        module, about = trained(recipe, prepared, given.tokens, seed)
        layer = best_layer(module, prepared)
        file.write_text(json.dumps({"layer": layer, "tatoeba": tatoeba(module, prepared, given.data), **about}))
    made = json.loads(file.read_text())
    score = math.fsum(layers[made["layer"]] for layers in made["tatoeba"].values()) / len(made["tatoeba"])
    print(
        f"{recipe}, seed {seed}: {made['steps']:,} steps, {made['tokens']:,} tokens in {made['seconds']:.0f} s; layer {made['layer']}: "
        f"{score:.1f}% of {len(made['tatoeba'])} languages' sentences found",
        flush=True,
    )
    return score


def main() -> None:
    """Train every recipe with every seed in turn, and print the figures as the last line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.retrieval")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="tokens of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each recipe")
    parser.add_argument("--only", action="append", choices=tuple(RECIPES), help="a recipe; may be repeated")
    parser.add_argument(
        "--work", type=Path, default=Path.home() / "xlm-pipeline-benchmarks" / "retrieval", help="folder for all that is made"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real text")
    given = parser.parse_args()
    given.work, given.data = given.work.resolve(), given.data.resolve()
    prepare(given.work / "text", settings(given.data))
    prepared = opened(given.work / "text", NAME)
    scores: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        for recipe in given.only or RECIPES:
            scores.setdefault(recipe, []).append(run(given, prepared, recipe, seed))
    figures: dict[str, float | None] = {}
    for recipe in RECIPES:
        name = recipe.replace("+", "_")
        mine = scores.get(recipe)
        figures[f"tatoeba_{name}"] = round(math.fsum(mine) / len(mine), 2) if mine else None
        if recipe != "mlm":
            both = zip(mine or [], scores.get("mlm", []), strict=False)
            figures[f"gain_{name}"] = round(min((a - b for a, b in both), default=math.nan), 2) if mine and "mlm" in scores else None
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
