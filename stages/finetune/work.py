"""The work of finetune: for the encoder, then for its untrained twin, a gang trains the head and all weights below it."""

from __future__ import annotations

import json
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
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import Storage, canonical
from stages.finetune import Config

TOKENIZER_FILES = (MODEL_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Train both; see the package."""
    base = inputs["model"].folder("model")
    examples = read_split(context.storage, inputs["examples"].reference(), config.examples, "train")
    about: dict[str, Any] = {}
    for slot in ("model", "baseline"):
        steps = -(-config.epochs * len(examples) // config.global_batch)
        about[slot] = _train_one(config, slot, steps, base, inputs, output, context)
    languages = Counter(example.lang for example in examples)
    return Summary(
        counts={
            "examples": len(examples),
            "languages": dict(sorted(languages.items())),
            "labels": about["model"]["labels"],
            "training": about,
        },
        metrics={f"finetune/{slot}_final_loss": about[slot]["final_loss"] for slot in about if about[slot]["final_loss"] is not None},
    )


def _train_one(
    config: Config, slot: str, steps: int, base: Path, inputs: Mapping[str, Input], output: Output, context: Context
) -> dict[str, Any]:
    folder = f"{context.work}/{slot}"
    argument = {
        "root": context.storage.root,
        "attempt": context.storage.attempt,
        "config": config.model_dump(mode="json"),
        "seed": context.seed,
        "base": str(base),
        "files": {name: {"path": p.path, "sha256": p.sha256} for name, p in inputs["model"].content.files.items()},
        "pretrained": slot == "model",
        "examples": inputs["examples"].reference(),
        "checkpoints": f"{folder}/checkpoints",
        "spool": f"{folder}/spool" if slot == "baseline" else context.spool,
        "exported": f"{folder}/exported",
    }
    given = context.settings.cluster
    values = run_gang(
        context.cluster(), context.storage, f"{folder}/checkpoints", "stages.finetune.work:train_rank", argument, global_batch=config.global_batch,
        workers=given.workers, name=f"{context.instance}-{slot}-{context.key[:8]}", max_restarts=config.max_restarts, deadline_s=given.deadline_s,
        on_poll=context.on_poll, fence=context.fence, curve=Curve(context.storage, str(argument["spool"])), steps=steps,
    )  # fmt: skip
    for path in context.storage.list(f"{folder}/exported"):
        with output.file(slot, f"model/{path.rpartition('/')[2]}") as target:
            shutil.copyfile(context.storage.local(path), target)
    with output.file(slot, "lineage.json") as target:
        target.write_bytes(
            canonical(
                {"base": inputs["model"].digest if slot == "model" else None, "task": config.task, "examples": inputs["examples"].digest}
            )
        )
    if slot == "model":
        records = Curve(context.storage, context.spool).merged()
        _plot(records, Curve(context.storage, f"{folder}/spool").merged(), output)
    for old in checkpoints(context.storage, f"{folder}/checkpoints"):
        context.storage.remove(old)
    return {**values[0]["training"], **values[0]["about"]}


def _plot(records: list[dict[str, Any]], baseline: list[dict[str, Any]], output: Output) -> None:
    from pipeline.plots import curves

    series = {
        name: ([r["step"] for r in rows], [r["loss"] for r in rows])
        for name, rows in (("pretrained", records), ("untrained", baseline))
        if rows
    }
    with output.evidence("loss.svg") as path:
        curves(series, path, title="Fine-tuning", xlabel="step", ylabel="nats per example")


# ---------------------------------------------------------------- on a rank


def train_rank(gang: Any, argument: dict[str, Any]) -> dict[str, Any]:
    """One rank: read, train, save, export."""
    import torch

    from pipeline.model.build import build_classifier
    from pipeline.model.masked_lm import SequenceClassifier, classifier_loss
    from pipeline.saving import save_checkpoint, start_folder
    from pipeline.tasks.classification import ClassificationFeed, featurize, label_ids
    from pipeline.text.tokenizer import Tokenizer
    from pipeline.training.counter import derive
    from pipeline.training.loop import TrainSettings, train

    storage = Storage.at(argument["root"], argument["attempt"])
    config = Config.model_validate_json(json.dumps(argument["config"]))
    base, seed = _base(storage, argument), argument["seed"]
    examples = read_split(storage, argument["examples"], config.examples, "train")
    labels = label_ids(examples)
    tokenizer = Tokenizer((base / MODEL_FILE).read_bytes())
    features = featurize(examples, tokenizer.encode, labels=labels, max_length=config.max_length)
    feed = ClassificationFeed(features, derive(seed, "order") >> 1, config.global_batch)
    steps = feed.steps(config.epochs)
    names = sorted(labels, key=lambda label: labels[label])
    model = build_classifier(base, names, seed=seed, dropout=config.dropout)
    if not argument["pretrained"]:
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

    def save(step: int, engine: Any, meta: Any) -> None:
        save_checkpoint(storage, argument["checkpoints"], step, engine, meta, gang, keep=1)

    resume = None if argument["resume"] is None else start_folder(storage, argument["resume"])
    outcome = train(settings, module, feed, classifier_loss, gang, resume_from=resume, save=save, watch=curve.append, evaluate=None)
    if outcome.interrupted:
        return {"about": {"interrupted": True}}
    if gang.rank == 0:
        _export(storage, module, base, argument)
    final_loss = None if outcome.final_loss != outcome.final_loss else outcome.final_loss
    return {
        "training": {"steps": outcome.steps, "final_loss": final_loss, "labels": names, "truncated": features.num_truncated},
        "about": {
            "interrupted": False,
            "world_size": outcome.world_size,
            "precision": outcome.precision,
            "seconds": round(outcome.seconds, 3),
        },
    }


def _base(storage: Storage, argument: dict[str, Any]) -> Path:
    """The encoder's directory on this node."""
    if storage.is_local:
        return Path(argument["base"])
    paths = [storage.local(entry["path"], entry["sha256"]) for name, entry in argument["files"].items() if name.startswith("model/")]
    return paths[0].parent


def _export(storage: Storage, module: Any, base: Path, argument: dict[str, Any]) -> None:
    """The final weights as a directory, from the last checkpoint, so that bf16 training exports its float32 master weights."""
    from pipeline.model.export import export_huggingface, restore_weights
    from pipeline.saving import start_folder
    from pipeline.training.checkpoint import load_checkpoint_weights

    last = checkpoints(storage, argument["checkpoints"])[-1]
    module.float()
    restore_weights(module, load_checkpoint_weights(start_folder(storage, last)))
    with tempfile.TemporaryDirectory() as scratch:
        export_huggingface(module, Path(scratch))
        for name in TOKENIZER_FILES:
            if (base / name).exists():
                shutil.copyfile(base / name, Path(scratch) / name)
        for path in sorted(Path(scratch).iterdir()):
            storage.write(f"{argument['exported']}/{path.name}", path.read_bytes())
