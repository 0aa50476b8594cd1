"""The work of evaluate.

examples -> predict (map, one unit a group of languages, for the model and for its baseline) -> label ids -> scores (exact) -> scores.json, plots
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.vocabulary import MODEL_FILE
from pipeline.errors import StageError
from pipeline.labelled import read_split
from pipeline.ledger import Ledger
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import canonical, digest
from pipeline.tables import read_table
from pipeline.task import Task
from pipeline.tasks.classification import Example
from pipeline.tasks.scores import Baseline, Estimate, Score, Scores, constant_predictions, score
from pipeline.units import Phase, Unit
from stages.evaluate import Config

GROUPS = 8
"""Units a model: languages are dealt out so that all workers have work."""
_PREDICTIONS = pa.schema([pa.field("example", pa.string(), nullable=False), pa.field("predicted", pa.int32(), nullable=False)])


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Predict and score; see the package."""
    shards = inputs["examples"].reference()
    examples = read_split(context.storage, shards, config.examples, config.split)
    train = read_split(context.storage, shards, config.examples, "train")
    labels = _labels(inputs["model"])
    unknown = sorted({e.label for e in examples} - set(labels))
    if unknown:
        raise StageError(
            f"{context.instance}: {config.split} labels {', '.join(unknown[:5])} were never trained on; trained: {', '.join(labels)}"
        )
    gold_E = np.array([labels[e.label] for e in examples], np.int64)
    languages = [e.lang for e in examples]
    predictions = {"model": _predict(config, "model", inputs, examples, context)}
    if "baseline" in inputs:
        predictions["untrained"] = _predict(config, "baseline", inputs, examples, context)
    train_E = np.array([labels[e.label] for e in train], np.int64)
    predictions["majority"] = constant_predictions(Baseline.TRAIN_MAJORITY, train_labels=train_E, gold_E=gold_E, languages=languages)
    trained_on = sorted({e.lang for e in train})
    groups = {
        "zero_shot": sorted(set(languages) - set(trained_on)),
        "trained_on": sorted(set(languages) & set(trained_on)),
        "all": sorted(set(languages)),
    }
    groups = {name: members for name, members in groups.items() if members}
    scored = {
        name: score(gold_E, p, languages, groups=groups, seed=context.seed, resamples=config.resamples) for name, p in predictions.items()
    }
    plain = {
        "set": config.examples,
        "split": config.split,
        "task": json.loads(inputs["model"].path("lineage.json").read_text())["task"],
        "trained_on": trained_on,
        "text_seen_unlabelled": _seen(shards, config.examples, context),
        "labels": len(labels),
        "systems": {name: _plain(s) for name, s in scored.items()},
        "verdict": _verdict(scored),
    }
    with output.file("scores", "scores.json") as path:
        path.write_bytes(canonical(plain))
    with output.file("scores", "predictions.tsv") as path:
        names = sorted(labels, key=lambda label: labels[label])
        lines = ["\t".join(["example", "lang", "gold", *sorted(predictions)])]
        for number, example in enumerate(examples):
            lines.append(
                "\t".join([example.id, example.lang, example.label, *(names[predictions[s][number]] for s in sorted(predictions))])
            )
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _plots(plain, output)
    ledger = Ledger("examples")
    for lang in languages:
        ledger.keep(lang)
    group = "zero_shot" if "zero_shot" in groups else "all"
    metrics = {f"{group}/{name}_accuracy": s.groups[group].accuracy.value / 10_000 for name, s in scored.items()}
    metrics |= {f"{group}/{name}_macro_f1": s.groups[group].macro_f1.value / 10_000 for name, s in scored.items()}
    return Summary(ledgers={"examples": ledger}, counts={"verdict": plain["verdict"], "examples": len(examples)}, metrics=metrics)


def _labels(model: Input) -> dict[str, int]:
    names = json.loads(model.path("model/config.json").read_text())["id2label"]
    return {label: int(number) for number, label in names.items()}


def _seen(shards: list[dict[str, Any]], name: str, context: Context) -> bool:
    """Whether the set's text was allowed to be trained on, unlabelled."""
    from pipeline.manifest import Shard

    for plain in shards:
        shard = Shard(**plain)
        table = read_table(context.storage.local(shard.path, shard.sha256), ("set", "decontaminate")).to_pylist()
        if any(row["set"] == name and not row["decontaminate"] for row in table):
            return True
    return False


def _predict(
    config: Config, slot: str, inputs: Mapping[str, Input], examples: list[Example], context: Context
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[E] predicted label ids, in the order of the examples."""
    files = {name.removeprefix("model/"): inputs[slot].content.files[name] for name in inputs[slot].names("model/")}
    model = {name: {"path": p.path, "sha256": p.sha256} for name, p in files.items()}
    by_lang: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        by_lang.setdefault(example.lang, []).append(number)
    dealt = [sorted(by_lang)[n::GROUPS] for n in range(min(GROUPS, len(by_lang)))]
    units = []
    for members in dealt:
        rows = [examples[number] for lang in members for number in by_lang[lang]]
        argument = {"examples": [[e.id, e.lang, e.text, e.text_pair, e.label] for e in rows], "model": model, "batch": config.batch}
        units.append(Unit(digest(argument["examples"]), argument, len(rows) << 16, f"{slot} {', '.join(members[:3])} …"))
    settings = {"max_length": config.max_length, "threads": 1}
    phase = Phase(f"predict_{slot}", "stages.evaluate.work:predict", settings, "examples", (inputs[slot].digest,))
    predicted: dict[tuple[str, str], int] = {}
    for members, result in zip(dealt, context.map(phase, units), strict=True):
        shard = result.files["predictions"]
        values = read_table(context.storage.local(shard.path, shard.sha256)).to_pylist()
        keys = [(lang, examples[number].id) for lang in members for number in by_lang[lang]]
        for key, row in zip(keys, values, strict=True):
            predicted[key] = row["predicted"]
    return np.array([predicted[(e.lang, e.id)] for e in examples], np.int64)


@lru_cache(maxsize=1)
def _model(directory: str) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(directory, local_files_only=True, use_safetensors=True).eval()


def predict(task: Task) -> None:
    """Worker: label ids of some examples."""
    import torch

    from pipeline.model.language_embeddings import ids_of
    from pipeline.tasks.classification import featurize, prediction_batches
    from pipeline.text.tokenizer import Tokenizer

    torch.set_num_threads(task.settings["threads"])
    paths = {name: task.storage.local(entry["path"], entry["sha256"]) for name, entry in task.argument["model"].items()}
    directory = paths["config.json"].parent
    model = _model(str(directory))
    tokenizer = Tokenizer((Path(directory) / MODEL_FILE).read_bytes())
    examples = [Example(*row) for row in task.records(task.argument["examples"], lambda row: str(row[1]))]
    features = featurize(
        examples, tokenizer.encode, labels=dict(model.config.label2id), max_length=task.settings["max_length"], langs=ids_of(model.config)
    )
    predicted = np.zeros(len(features), np.int32)
    with torch.no_grad():
        for batch in prediction_batches(features, rank=0, world_size=1, micro_batch=task.argument["batch"]):
            ids_BT, attention_BT = torch.from_numpy(batch.input_ids_BT), torch.from_numpy(batch.attention_BT)
            more = {} if batch.langs_BT is None else {"langs": torch.from_numpy(batch.langs_BT)}
            best_B = model(input_ids=ids_BT, attention_mask=attention_BT.long(), **more).logits.argmax(-1).numpy()
            real = batch.rows_B >= 0
            predicted[batch.rows_B[real]] = best_B[real]
    with task.table("predictions", _PREDICTIONS) as table:
        for example, value in zip(examples, predicted.tolist(), strict=True):
            table.row({"example": example.id, "predicted": value})
            task.ledger.keep(example.lang)


# ---------------------------------------------------------------- figures


def _estimate(value: Estimate) -> list[int]:
    return [value.value, value.low, value.high]


def _one(value: Score) -> dict[str, Any]:
    return {
        "examples": value.num_examples, "languages": value.num_languages, "accuracy": _estimate(value.accuracy), "macro_f1": _estimate(value.macro_f1)
    }  # fmt: skip


def _plain(scores: Scores) -> dict[str, Any]:
    return {"languages": {k: _one(v) for k, v in scores.languages.items()}, "groups": {k: _one(v) for k, v in scores.groups.items()}}


def _verdict(scored: Mapping[str, Scores]) -> str:
    """In plain words, whether the model is better than its baselines where it was not fine-tuned."""
    group = "zero_shot" if "zero_shot" in scored["model"].groups else "all"
    where = "in languages it was not fine-tuned on" if group == "zero_shot" else "over all languages"
    mine = scored["model"].groups[group].accuracy
    names = {"majority": "always giving the majority class", "untrained": "the same encoder without pretraining"}
    theirs = {name: scored[name].groups[group].accuracy for name in names if name in scored}
    worse = [names[name] for name, other in theirs.items() if mine.high < other.low]
    alike = [names[name] for name, other in theirs.items() if mine.low <= other.high and mine.high >= other.low]
    parts = [f"worse than {' and '.join(worse)}"] if worse else []
    parts += [f"no better than {' and '.join(alike)} (the 95% intervals meet)"] if alike else []
    if not parts:
        return f"The model is better {where} than each baseline, with 95% intervals apart."
    return f"{where[0].upper()}{where[1:]}, the model is {', and '.join(parts)}."


def _plots(plain: Mapping[str, Any], output: Output) -> None:
    from pipeline.plots import intervals

    group = "zero_shot" if "zero_shot" in plain["systems"]["model"]["groups"] else "all"
    rows = {lang: tuple(v / 100 for v in entry["accuracy"]) for lang, entry in plain["systems"]["model"]["languages"].items()}
    lines = {name: s["groups"][group]["accuracy"][0] / 100 for name, s in plain["systems"].items() if name != "model"}
    with output.evidence("accuracy.svg") as path:
        intervals(rows, path, title=f"{plain['set']}: accuracy by language, 95% intervals", xlabel="accuracy, %", lines=lines)
