"""What each objective learns: five trainings from random weights on the same real text, each by its held-out measure against its baseline.

    python -m tests.benchmarks.objectives [--steps 600] [--only nsp …] [--work FOLDER] [--data FOLDER]

    text       Arabic, English, French, German, Italian and Spanish: news (ntrex128), Wikipedia's sentences (sib200, train) and tweets (xlmt-sentiment, train); a tenth held out,
               by alignment group; news and Wikipedia are also pairs with English
    model      2 × 256, a vocabulary of 8,000, rows of 64 tokens, attention within the document or pair, 30% masked in
               training (15% in the measure), Muon
    measures   those of the pretrain stage and its report: nats per masked token (mlm, tlm), per token (clm), per answer (nsp, contrast), each language or pair weighs the same
    baselines  unigrams of the language or pair; a guess (nsp, contrast)

Next-sentence prediction is learned within some hundred steps here because the sources differ in style and topic, its known weakness (Lan et al. 2020, ALBERT): whoever tells a tweet from
news knows half of the answers. On the articles of the Declaration alone it stays at a guess at this size.

The last line is JSON: OBJECTIVE_loss, OBJECTIVE_baseline, OBJECTIVE_untrained for each of the five, in nats.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.model.build import build_masked_lm, training_module
from pipeline.model.sizes import ModelSize
from pipeline.training.contract import TrainSettings
from pipeline.training.engine import Alone
from pipeline.training.loop import train
from pipeline.training.objectives.next_sentence import WithNextSentence
from pipeline.training.objectives.summed import pretraining_loss
from pipeline.training.precision import resolve_precision
from stages.pretrain import Config
from stages.pretrain.feeds import feed_of
from stages.pretrain.heldout import held_out_loss, mean_over_languages, unigram_baselines
from stages.pretrain.measures import baselines, means, measure
from tests.benchmarks.prepared import Prepared, aligned_news, opened, prepare, topics
from tests.benchmarks.pretrain import DATA

NAME = "objectives"
OBJECTIVES = ("mlm", "tlm", "clm", "nsp", "contrast")
SIZE = (2, 256, 4, 1024)
BATCH = 64
TWEETS = {"ar": "arabic", "de": "german", "en": "english", "es": "spanish", "fr": "french", "it": "italian"}
"""Language -> its folder in xlmt-sentiment."""


@dataclass(frozen=True)
class Learned:
    """Held-out nats of one objective: means in which each language, or pair, weighs the same."""

    untrained: float
    loss: float
    baseline: float


def settings(data: Path, work: Path) -> dict[str, Any]:
    """The pipeline file of the data stages; the tweets are linked under their languages' codes."""
    tweets = work / "tweets"
    tweets.mkdir(parents=True, exist_ok=True)
    for lang, folder in TWEETS.items():
        link = tweets / f"{lang}.txt"
        if not link.exists():
            link.symlink_to(data / "xlmt-sentiment" / "data" / "sentiment" / folder / "train_text.txt")
    return {
        "name": NAME,
        "languages": list(TWEETS),
        "stages": {
            "ingest": {
                "sources": [
                    aligned_news(data), topics(data), {"kind": "text", "path": f"{tweets}/{{lang}}.txt", "licence": "source limits apply"},
                ],
                "pivot": "en",
            },
            "heldout": {"share": 0.1},
            "vocabulary": {"size": 8000, "bitext": False},
            "pack": {"length": 64},
        },
        "cluster": {"workers": 2},
    }  # fmt: skip


def learn(name: str, prepared: Prepared, steps: int, seed: int = 0) -> Learned:
    """Train one objective alone for so many steps."""
    config = Config(
        steps=steps, objectives={name: 1.0}, global_batch=BATCH, optimizer="muon", learning_rate=3e-3, mask_rate=0.3, attention="documents",
        dropout=0.0, contrast_temperature=0.1,
    )  # fmt: skip
    feed = feed_of(config, prepared.rows["train"], prepared.vocabulary_size, seed, prepared.pairs["train"])
    model = build_masked_lm(
        ModelSize(*SIZE, prepared.length + 2, None), prepared.vocabulary_size, seed=seed, dropout=0.0, max_length=prepared.length
    )
    module: torch.nn.Module = training_module(model)
    if name == "nsp":
        module = WithNextSentence(module, SIZE[1], seed)

    def held_out() -> dict[str, float]:
        rows, pairs, vocab = prepared.rows["heldout"], prepared.pairs["heldout"], prepared.vocabulary_size
        module.eval()
        with torch.no_grad():
            if name == "mlm":
                return means({name: held_out_loss(module, rows, vocab, 0, 1, within_documents=True)})[name]
            return means(measure(module, config, rows, pairs, vocab, 0, 1))[name]

    untrained = held_out()
    module.train()
    run = TrainSettings(
        steps=steps, micro_batch=BATCH, learning_rate=config.learning_rate, warmup_steps=round(config.warmup * steps), schedule=config.schedule,
        weight_decay=config.weight_decay, betas=config.betas, eps=config.eps, clip=config.clip, precision=resolve_precision("auto", torch.device("cpu")),
        optimizer=config.optimizer, momentum=config.momentum, log_every=50, seed=seed,
    )  # fmt: skip
    train(run, module, feed, pretraining_loss, Alone(), resume_from=None, save=lambda *_: None, watch=lambda _: None, evaluate=None)
    loss, against = held_out(), baseline(name, config, prepared)
    return Learned(*map(mean_over_languages, (untrained, loss, {lang: against[lang] for lang in loss})))


def baseline(name: str, config: Config, prepared: Prepared) -> dict[str, float]:
    """Language, or pair -> nats of what the objective has to beat."""
    rows, pairs, vocab = prepared.rows, prepared.pairs, prepared.vocabulary_size
    if name == "mlm":
        return unigram_baselines(rows["train"], rows["heldout"], vocab)["language_unigram"]
    return baselines(config, rows["train"], rows["heldout"], pairs["train"], pairs["heldout"], vocab)[name]


def made(data: Path, work: Path) -> Prepared:
    """The text of the benchmark, prepared in `work`."""
    prepare(work / "text", settings(data, work))
    return opened(work / "text", NAME)


def main() -> None:
    """Train each objective in turn; print the table, and the figures as the last line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.objectives")
    parser.add_argument("--steps", type=int, default=600, help="steps of each training")
    parser.add_argument("--only", action="append", choices=OBJECTIVES, help="an objective; may be repeated")
    parser.add_argument("--work", type=Path, default=Path.home() / "xlm-pipeline-benchmarks" / NAME, help="folder for all that is made")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real text")
    given = parser.parse_args()
    prepared = made(given.data.resolve(), given.work.resolve())
    print(f"{'objective':10} {'untrained':>10} {'trained':>10} {'baseline':>10}  nats, held out", flush=True)
    figures: dict[str, float] = {}
    for name in given.only or OBJECTIVES:
        learned = learn(name, prepared, given.steps)
        print(f"{name:10} {learned.untrained:10.3f} {learned.loss:10.3f} {learned.baseline:10.3f}", flush=True)
        figures |= {f"{name}_{key}": round(value, 4) for key, value in vars(learned).items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
