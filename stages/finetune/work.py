"""The work of finetune: for the encoder, then for its untrained twin, a gang trains the head and all weights below it."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.vocabulary import MODEL_FILE
from pipeline.curve import Curve
from pipeline.gang_sizes import default_micro_batch
from pipeline.jobs import checkpoints, run_gang
from pipeline.labelled import read_split
from pipeline.retention import Retention
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import Storage, canonical
from stages.finetune import Config

TOKENIZER_FILES = (MODEL_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


SLOTS = ("model", "baseline")
"""The task model, and its twin whose encoder was never pretrained."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Train both; see the package."""
    examples = read_split(context.storage, inputs["examples"].reference(), config.examples, "train")
    steps = -(-config.epochs * len(examples) // config.global_batch)
    folder = f"{context.work}/checkpoints"
    argument = {
        "root": context.storage.root,
        "attempt": context.storage.attempt,
        "config": config.model_dump(mode="json"),
        "seed": context.seed,
        "base": str(inputs["model"].folder("model")),
        "files": {name: {"path": p.path, "sha256": p.sha256} for name, p in inputs["model"].content.files.items()},
        "examples": inputs["examples"].reference(),
        "checkpoints": folder,
        "spool": context.spool,
        "exported": f"{context.work}/exported",
    }
    given = context.settings.cluster
    values = run_gang(
        context.cluster(), context.storage, folder, "stages.finetune.work:train_rank", argument, global_batch=config.global_batch,
        workers=given.workers, name=f"{context.instance}-{context.key[:8]}", max_restarts=config.max_restarts, deadline_s=given.deadline_s,
        on_poll=context.on_poll, fence=context.fence, curve=Curve(context.storage, context.spool), steps=steps,
    )  # fmt: skip
    base = inputs["model"].digest
    for slot in SLOTS:
        for path in context.storage.list(f"{argument['exported']}/{slot}"):
            with output.file(slot, f"model/{path.rpartition('/')[2]}") as target:
                shutil.copyfile(context.storage.local(path), target)
        lineage = {"base": base if slot == "model" else None, "task": config.task, "examples": inputs["examples"].digest}
        with output.file(slot, "lineage.json") as target:
            target.write_bytes(canonical(lineage))
    _plot(Curve(context.storage, context.spool).merged(), output)
    for old in checkpoints(context.storage, folder):
        context.storage.remove(old)
    languages = Counter(example.lang for example in examples)
    trained, about = values[0]["training"], values[0]["about"]
    return Summary(
        counts={"examples": len(examples), "languages": dict(sorted(languages.items())), "labels": trained["model"]["labels"], "training": trained, "about": about},
        metrics={f"finetune/{slot}_final_loss": trained[slot]["final_loss"] for slot in SLOTS if trained[slot]["final_loss"] is not None},
    )  # fmt: skip


def _plot(records: list[dict[str, Any]], output: Output) -> None:
    from pipeline.plots import curves

    series = {}
    for name, key in (("pretrained", "loss"), ("untrained", "untrained/loss")):
        rows = [r for r in records if key in r]
        if rows:
            series[name] = ([r["step"] for r in rows], [r[key] for r in rows])
    with output.evidence("loss.svg") as path:
        curves(series, path, title="Fine-tuning", xlabel="step", ylabel="nats per example")


# ---------------------------------------------------------------- on a rank


def train_rank(gang: Any, argument: dict[str, Any]) -> dict[str, Any]:
    """One rank: both models, one after the other."""
    trained, about = {}, {}
    for slot in SLOTS:
        value = _train(gang, argument, slot)
        if value["about"]["interrupted"]:
            return value
        trained[slot] = value["training"]
        about = value["about"]
    return {"training": trained, "about": about}


def _train(gang: Any, argument: dict[str, Any], slot: str) -> dict[str, Any]:
    """Read, train, save, export."""
    import torch

    from pipeline.launches import Launch
    from pipeline.model.build import build_classifier
    from pipeline.model.language_embeddings import ids_of
    from pipeline.model.masked_lm import SequenceClassifier, classifier_loss
    from pipeline.saving import save_checkpoint, start_folder
    from pipeline.tasks.classification import ClassificationFeed, featurize, label_ids
    from pipeline.text.tokenizer import Tokenizer
    from pipeline.training.contract import TrainSettings
    from pipeline.training.counter import derive
    from pipeline.training.loop import train

    storage = Storage.at(argument["root"], argument["attempt"])
    config = Config.model_validate_json(json.dumps(argument["config"]))
    launch = Launch.of(storage, argument["launch"])
    launch.meet(platform.node())
    base, seed, folder = _base(storage, argument), argument["seed"], f"{argument['checkpoints']}/{slot}"
    examples = read_split(storage, argument["examples"], config.examples, "train")
    labels = label_ids(examples)
    tokenizer = Tokenizer((base / MODEL_FILE).read_bytes())
    names = sorted(labels, key=lambda label: labels[label])
    model = build_classifier(base, names, seed=seed, dropout=config.dropout)
    features = featurize(examples, tokenizer.encode, labels=labels, max_length=config.max_length, langs=ids_of(model.config))
    feed = ClassificationFeed(features, derive(seed, "order") >> 1, config.global_batch)
    steps = feed.steps(config.epochs)
    if slot == "baseline":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "untrained") >> 1)
            model = type(model)(model.config).train()
    micro = config.micro_batch or default_micro_batch(config.global_batch, gang.world_size)
    settings = TrainSettings(
        steps=steps, micro_batch=micro, learning_rate=config.learning_rate, warmup_steps=round(config.warmup * steps), schedule=config.schedule,
        weight_decay=config.weight_decay, betas=(0.9, 0.999), eps=1e-8, clip=config.clip, zero=config.zero, precision=config.precision,
        seed=derive(seed, "dropout") >> 1, log_every=config.log_every, checkpoint_every=config.checkpoint_every,
    )  # fmt: skip
    module = SequenceClassifier(model)
    curve = Curve(storage, argument["spool"])
    prefix = "" if slot == "model" else "untrained/"

    def watch(records: list[dict[str, float]]) -> None:
        launch.require()
        curve.append([{name if name == "step" else prefix + name: value for name, value in record.items()} for record in records])

    def save(step: int, engine: Any, meta: Any) -> None:
        save_checkpoint(storage, folder, step, engine, meta, gang, keep=Retention(1), launch=launch)

    whole = checkpoints(storage, folder)
    resume = start_folder(storage, whole[-1]) if whole else None
    outcome = train(settings, module, feed, classifier_loss, gang, resume_from=resume, save=save, watch=watch, evaluate=None)
    if outcome.interrupted:
        return {"about": {"interrupted": True}}
    if gang.rank == 0:
        _export(storage, module, base, folder, f"{argument['exported']}/{slot}")
    final_loss = None if outcome.final_loss != outcome.final_loss else outcome.final_loss
    return {
        "training": {"steps": outcome.steps, "final_loss": final_loss, "labels": names, "truncated": features.num_truncated},
        "about": {"interrupted": False, "world_size": outcome.world_size, "precision": outcome.precision},
    }


def _base(storage: Storage, argument: dict[str, Any]) -> Path:
    """The encoder's directory on this node."""
    if storage.is_local:
        return Path(argument["base"])
    paths = [storage.local(entry["path"], entry["sha256"]) for name, entry in argument["files"].items() if name.startswith("model/")]
    return paths[0].parent


def _export(storage: Storage, module: Any, base: Path, folder: str, exported: str) -> None:
    """The final weights as a directory, from the last checkpoint, so that bf16 training exports its float32 master weights."""
    from pipeline.model.export import export_huggingface, restore_weights
    from pipeline.saving import start_folder
    from pipeline.training.checkpoint import load_checkpoint_weights

    last = checkpoints(storage, folder)[-1]
    module.float()
    restore_weights(module, load_checkpoint_weights(start_folder(storage, last)))
    with tempfile.TemporaryDirectory() as scratch:
        export_huggingface(module, Path(scratch))
        for name in TOKENIZER_FILES:
            if (base / name).exists():
                shutil.copyfile(base / name, Path(scratch) / name)
        for path in sorted(Path(scratch).iterdir()):
            storage.write(f"{exported}/{path.name}", path.read_bytes())
