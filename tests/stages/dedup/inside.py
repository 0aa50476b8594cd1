"""The stage run in this process, without Ray: documents from plain records, every unit worked here, and a count of the units of each phase that were worked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from pipeline.artifacts import documents, examples
from pipeline.manifest import Shard
from pipeline.stage import Output, Summary
from pipeline.storage import Storage
from pipeline.tables import rows, utf8, write_table
from pipeline.task import Apart, Task, UnitResult, find, function_of
from pipeline.text.hashing import hash128
from pipeline.text.measures import Measurer
from pipeline.units import Phase, Unit, Workshop, unit_key
from stages import dedup
from stages.dedup import work

Record = Mapping[str, Any]


def never() -> Any:
    raise AssertionError("no cluster is needed here")


@dataclass
class Run:
    """A stage's run: what it gave, and how many units of each phase were worked."""

    summary: Summary
    output: Output
    worked: Counter[str]
    rows: dict[str, dict[str, Any]]
    """Name of a record -> its decision."""

    def reasons(self) -> dict[str, str]:
        """Why each record that was dropped was."""
        return {name: row["reason"] for name, row in self.rows.items() if row["reason"]}


@dataclass
class Stage:
    """A storage in which dedup runs, again and again."""

    folder: Path
    worked: Counter[str] = field(default_factory=Counter)

    @property
    def storage(self) -> Storage:
        """The storage."""
        return Storage.at(str(self.folder), "test")

    def shard(self, records: Sequence[Record]) -> Shard:
        """Records as one shard of cleaned documents: `name`, `text`, and any of id (else the name makes it), lang, source, url, group, identified, identified_score."""
        texts = pa.array([record["text"] for record in records], pa.large_string())
        langs = [record.get("lang", "en") for record in records]
        given = {
            "id": [hash128(record.get("id", record["name"]), "test") for record in records], "lang": langs, "text": texts.cast(pa.string()),
            "source": [record.get("source", "web") for record in records], "offset": list(range(len(records))),
            "url": [record.get("url") for record in records], "licence": [record["name"] for record in records],
            "group": [record.get("group") for record in records], "raw_characters": [0] * len(records),
            "identified": [record.get("identified", record.get("lang", "en")) for record in records],
            "identified_score": [record.get("identified_score", 9_900) for record in records],
        }  # fmt: skip
        given |= {name: pa.array(values, pa.int32()) for name, values in Measurer().measure(*utf8(texts), langs).items()}
        schema = documents.cleaned_schema()
        return self._publish(schema, {name: given.get(name, [0] * len(records)) for name in schema.names})

    def examples(self, found: Sequence[Record]) -> Shard:
        """Evaluation text: `text`, and any of set, lang, group, split."""
        plain = {"set": "nli", "lang": "en", "split": "test", "task": "classification", "decontaminate": True}
        every = [{**dict.fromkeys(examples.schema().names), **plain, "id": str(number), **each} for number, each in enumerate(found)]
        return self._publish(examples.schema(), {name: [each[name] for each in every] for name in examples.schema().names})

    def _publish(self, schema: pa.Schema, columns: Mapping[str, Any]) -> Shard:
        path = self.storage.temporary()
        with write_table(path, schema) as table:
            table.batch(columns)
        published = self.storage.publish(path, f"units/test/{len(list(self.folder.rglob('*')))}.arrow")
        return Shard("0" * 64, published.path, published.sha256, published.bytes, table.rows)

    def run(
        self, shards: Sequence[Shard], settings: Mapping[str, Any] | None = None, evaluation: Sequence[Shard] = (), poison: Mapping[str, frozenset[int]] | None = None
    ) -> Run:  # fmt: skip
        """Decide; `poison` names, by phase, records (by number, in each unit) that count as killers of their worker."""
        config = dedup.Config.model_validate({"rules": ("length",), **(settings or {})})
        output = Output(self.storage, "artifacts/dedup/0", dedup.OUTPUT)
        self.worked = Counter()
        context = SimpleNamespace(instance="dedup", storage=self.storage, map=self._mapper(poison or {}))
        inputs = {"documents": SimpleNamespace(shards=tuple(shards))}
        if evaluation:
            inputs["examples"] = SimpleNamespace(shards=tuple(evaluation))
        summary = work.run(config, inputs, output, context)  # type: ignore[arg-type]
        found: dict[str, dict[str, Any]] = {}
        for text, made in zip(shards, output.shards["decisions"], strict=True):
            pairs = zip(rows(self.storage.local(text.path)), rows(self.storage.local(made.path)), strict=True)
            found |= {row["licence"]: {**decision, "id": row["id"]} for row, decision in pairs}
        return Run(summary, output, self.worked, found)

    def _mapper(self, poison: Mapping[str, frozenset[int]]) -> Callable[[Phase, Sequence[Unit]], list[UnitResult]]:
        def mapped(phase: Phase, units: Sequence[Unit]) -> list[UnitResult]:
            workshop = Workshop(self.storage, "dedup", dedup.VERSION, {}, never, 60.0, 99, "test")
            results = []
            for unit in units:
                key = unit_key(workshop, phase, unit)
                found = find(self.storage, "dedup", phase.name, key)
                if found is None:
                    skip = tuple(sorted(poison.get(phase.name, frozenset())))
                    task = Task(
                        self.storage,
                        "dedup",
                        phase.name,
                        key,
                        phase.unit,
                        dict(unit.argument),
                        dict(phase.settings),
                        dict(phase.given),
                        Apart(skip),
                        None,
                    )
                    function_of(phase.function)(task)
                    task.ledger.check(phase.name)
                    task.publish()
                    self.worked[phase.name] += 1
                    found = find(self.storage, "dedup", phase.name, key)
                assert found is not None
                results.append(found)
            return results

        return mapped
