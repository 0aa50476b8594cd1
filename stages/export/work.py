"""The work of export, as one unit on a worker: sample lines, write the directory, reopen and compare, publish."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.vocabulary import MODEL_FILE
from pipeline.errors import IntegrityError
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import canonical, digest
from pipeline.tables import rows
from pipeline.task import Task
from pipeline.units import Phase, Unit
from stages.export import Config

LOGITS_TOLERANCE = 1e-5
LOGIT_LINES = 32


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Export and verify; see the package."""
    checkpoint, vocabulary, documents = inputs["checkpoint"], inputs["vocabulary"], inputs["documents"]
    files = {name: _entry(checkpoint, name) for name in checkpoint.names()}
    argument = {"checkpoint": files, "vocabulary": _entry(vocabulary, MODEL_FILE), "documents": documents.reference()}
    unit = Unit(
        digest([checkpoint.digest, vocabulary.digest, documents.digest]), argument, sum(f["bytes"] for f in files.values()), "model"
    )
    phase = Phase("export", "stages.export.work:export", {"lines_per_language": config.lines_per_language}, "lines")
    result = context.map(phase, [unit])[0]
    for name, shard in sorted(result.files.items()):
        with output.file("model", f"model/{name}") as path:
            shutil.copyfile(context.storage.local(shard.path, shard.sha256), path)
    with output.file("model", "lineage.json") as path:
        path.write_bytes(canonical({"base": None, "task": None, "checkpoint": checkpoint.digest}))
    return Summary(ledgers={"lines": result.ledger}, counts=dict(result.counts))


def _entry(given: Input, name: str) -> dict[str, Any]:
    published = given.content.files[name]
    return {"path": published.path, "sha256": published.sha256, "bytes": published.bytes}


def _sample(task: Task, most: int) -> Iterator[tuple[str, str]]:
    """Up to `most` lines of each language, in the order of the corpus."""
    taken: dict[str, int] = {}
    for plain in task.argument["documents"]:
        shard = Shard(**plain)
        for row in rows(task.storage.local(shard.path, shard.sha256), ("lang", "text")):
            for line in row["text"].split("\n"):
                if line and taken.get(row["lang"], 0) < most:
                    taken[row["lang"]] = taken.get(row["lang"], 0) + 1
                    yield row["lang"], line


def export(task: Task) -> None:
    """Worker: write the directory, reopen it, compare ids and logits."""
    from pipeline.model.build import model_from_plain, training_module
    from pipeline.model.export import export_huggingface as export_model
    from pipeline.model.export import restore_weights, without_heads
    from pipeline.text.tokenizer import Tokenizer
    from pipeline.text.tokenizer_export import export_huggingface, verify_export
    from pipeline.training.checkpoint import load_checkpoint_weights

    local = {name: task.storage.local(entry["path"], entry["sha256"]) for name, entry in task.argument["checkpoint"].items()}
    about = json.loads(local["training.json"].read_text())
    model_bytes = task.storage.local(task.argument["vocabulary"]["path"], task.argument["vocabulary"]["sha256"]).read_bytes()
    tokenizer = Tokenizer(model_bytes)
    module = training_module(model_from_plain(about["config"], about["seed"]))
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, directory = Path(scratch) / "checkpoint", Path(scratch) / "model"
        checkpoint.mkdir()
        for name, path in local.items():
            if name.startswith("final/"):
                (checkpoint / name.removeprefix("final/")).symlink_to(path)
        restore_weights(module, without_heads(load_checkpoint_weights(checkpoint)))
        export_model(module, directory)
        export_huggingface(model_bytes, directory, about["length"])
        sample = list(_sample(task, task.settings["lines_per_language"]))
        verified = verify_export(model_bytes, directory, [line for _, line in sample])
        difference = _logit_difference(module, directory, tokenizer, [line for _, line in sample[:: max(1, len(sample) // LOGIT_LINES)]])
        if difference > LOGITS_TOLERANCE:
            raise IntegrityError(
                f"export: the reopened model's logits differ by {difference:.2e}; allowed is {LOGITS_TOLERANCE:.0e}. Nothing was exported."
            )
        for lang, _ in task.records(sample, lambda pair: pair[0]):
            task.ledger.keep(lang)
        for path in sorted(directory.iterdir()):
            with task.file(path.name) as target:
                shutil.copyfile(path, target)
    task.counts.update({"lines_verified": verified, "languages_verified": len(task.ledger.accounts)})


def _logit_difference(module: Any, directory: Path, tokenizer: Any, lines: list[str]) -> float:
    """Largest difference between our model's logits and those of the directory opened by `AutoModelForMaskedLM`."""
    import torch
    from transformers import AutoModelForMaskedLM

    from pipeline.model.language_embeddings import ids_of

    reopened = AutoModelForMaskedLM.from_pretrained(directory, local_files_only=True, use_safetensors=True).eval()
    module.eval()
    most = int(reopened.config.max_position_embeddings) - 2
    own = reopened.config.model_type == "xlm-roberta"  # the others count positions from 0, which they do by themselves
    worst = 0.0
    with torch.no_grad():
        for ids in tokenizer.encode(lines):
            ids_BT = torch.tensor([[0, *ids[: most - 2].tolist(), 2]])
            places = {"position_ids": torch.arange(2, 2 + ids_BT.shape[1])[None]} if own else {}
            more = {"langs": torch.full_like(ids_BT, len(langs) - 1)} if (langs := ids_of(reopened.config)) else {}
            ours = module.model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), **places, **more).logits
            theirs = reopened(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), **more).logits
            worst = max(worst, float((ours - theirs).abs().max()))
    return worst
