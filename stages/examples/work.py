"""The work of examples: one unit a file, or one unit a shard of documents for sets drawn from the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.artifacts import examples
from pipeline.errors import ConfigError
from pipeline.ledger import Ledger
from pipeline.manifest import Shard
from pipeline.sources import open_source
from pipeline.stage import Context, Input, Output, Summary
from pipeline.tables import rows
from pipeline.task import Task
from pipeline.tasks import TASKS
from pipeline.tasks.classification import Columns, Quoting, parse_examples
from pipeline.text import languages
from pipeline.text.normalise import normalise
from pipeline.units import Phase, Unit
from stages.examples import Config


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Collect all sets; see the package."""
    ledger = Ledger("examples")
    counts: dict[str, Any] = {}
    for name, wanted in sorted(config.sets.items()):
        if wanted.task not in TASKS:
            raise ConfigError(f"stages.{context.instance}.sets.{name}.task: unknown task {wanted.task!r}; known: {', '.join(TASKS)}")
        settings = wanted.model_dump(mode="json", exclude={"train", "dev", "test", "lang"}) | {"set": name}
        if wanted.corpus is not None:
            settings["train_languages"] = list(languages.resolve(list(wanted.train_languages)))
            shards = [shard for shard in inputs["documents"].shards if shard.rows]
            units = [Unit(s.sha256, {"shard": s.plain()}, s.bytes, f"documents shard {s.key[:12]}") for s in shards]
            phase = Phase("corpus", "stages.examples.work:from_corpus", settings, "examples")
        else:
            units = []
            for source, sha256 in context.sources:
                mine, split, _ = source.name.split("/", 2)
                if mine == name:
                    argument = {"url": source.url, "name": source.name, "lang": source.lang, "split": split}
                    units.append(Unit(f"{sha256}:{source.lang}:{split}:{source.name}", argument, source.size, source.name))
            phase = Phase("files", "stages.examples.work:from_file", settings, "examples")
        results = context.map(phase, units)
        output.add("examples", [result.files["examples"] for result in results if result.files["examples"].rows])
        splits: dict[str, int] = {}
        for result in results:
            ledger.add(result.ledger)
            for split, count in result.counts["splits"].items():
                splits[split] = splits.get(split, 0) + count
        counts[name] = dict(sorted(splits.items()))
    return Summary(ledgers={"examples": ledger}, counts={"sets": counts})


def from_corpus(task: Task) -> None:
    """Worker: the paragraphs of a shard's documents, labelled by alignment group."""
    shard = Shard(**task.argument["shard"])
    path = task.storage.local(shard.path, shard.sha256)
    train = set(task.settings["train_languages"])
    splits: dict[str, int] = {}
    with task.table("examples", examples.schema()) as table:
        for row in task.records(rows(path, ("id", "lang", "group", "text")), lambda row: str(row["lang"])):
            if row["group"] is None:
                task.ledger.drop(row["lang"], "no_group")
                continue
            split = "train" if row["lang"] in train else "test"
            for number, text in enumerate(row["text"].split("\n")):
                if len(text) < task.settings["min_characters"]:
                    task.ledger.drop(row["lang"], "too_short")
                    continue
                table.row(
                    {"id": f"{row['id'].hex()}-{number}", "set": task.settings["set"], "split": split, "task": task.settings["task"], "lang": row["lang"],
                     "group": row["group"], "text": text, "label": row["group"], "decontaminate": task.settings["decontaminate"], "document": row["id"]}
                )  # fmt: skip
                task.ledger.keep(row["lang"])
                splits[split] = splits.get(split, 0) + 1
    task.counts["splits"] = splits


def from_file(task: Task) -> None:
    """Worker: the examples of one file."""
    settings, lang, name = task.settings, task.argument["lang"], task.argument["name"]
    is_csv = name.lower().endswith(".csv")
    with open_source(task.argument["url"]) as stream:
        found = parse_examples(
            stream,
            _columns(settings),
            where=name,
            lang=lang,
            quoting=Quoting.DOUBLE if is_csv else Quoting.NONE,
            separator="," if is_csv else "\t",
        )
    with task.table("examples", examples.schema()) as table:
        for example in task.records(found, lambda _: str(lang)):
            table.row(
                {"id": f"{name}:{example.id}", "set": settings["set"], "split": task.argument["split"], "task": settings["task"], "lang": lang,
                 "text": normalise(example.text), "text_pair": None if example.text_pair is None else normalise(example.text_pair),
                 "label": example.label, "decontaminate": settings["decontaminate"]}
            )  # fmt: skip
            task.ledger.keep(lang)
    task.counts["splits"] = {task.argument["split"]: task.ledger.kept}


def _columns(settings: dict[str, Any]) -> Columns:
    """Where the parts stand: by the header's names, or by their places in `columns` for a file without a header."""
    names = settings["columns"]
    wanted = {part: settings[part] for part in ("text", "label", "text_pair") if settings[part] is not None}
    if names is None:
        return Columns(**wanted)
    for part, column in wanted.items():
        if column not in names:
            raise ConfigError(f"examples set {settings['set']}: {part} is column {column!r}, which is not among `columns` {list(names)}")
    return Columns(**{part: names.index(column) for part, column in wanted.items()})
