"""Language identification of clean: the built-in combination, or a fastText model that the file names, per document and per line.

`identify_model` -> `stored`: its bytes, copied into storage by one unit (its sha256 is in every key) -> read once by each worker
texts -> `Identification.columns`: identified, identified_score, foreign_line_share
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.manifest import Shard
from pipeline.sources import open_source
from pipeline.stage import Context
from pipeline.task import Task
from pipeline.text import fasttext_model, languages
from pipeline.text.foreign import foreign_shares
from pipeline.text.identify import UNDETERMINED, Found, identify_all, supported
from pipeline.units import Phase, Unit
from stages.clean import Config
from stages.clean.models import PREFIX


def settings_of(config: Config, *, lines: bool = True) -> dict[str, Any]:
    """What of the configuration shapes the columns; `lines` says whether lines of these rows are identified at all."""
    named = config.identify and config.identify_model is not None
    return {
        "identify": config.identify,
        "identify_lines": lines and config.identify and config.identify_lines,
        "fasttext": fasttext_model.installed() if named else None,
    }


def stored(context: Context) -> dict[str, Shard]:
    """The model as a file of the storage, which all workers reach; empty where there is none."""
    for source, sha256 in context.sources:
        if source.name.startswith(PREFIX):
            unit = Unit(sha256, {"url": source.url, "sha256": sha256}, source.size, f"model {source.name.removeprefix(PREFIX)}")
            (result,) = context.map(Phase("model", "stages.clean.identification:store", {}, "files"), [unit])
            return {"model": result.files["model"]}
    return {}


def store(task: Task) -> None:
    """Worker: copy the model into the storage."""
    with task.file("model") as path, open_source(task.argument["url"]) as stream, path.open("wb") as sink:
        for _ in task.records(["model"], lambda _: UNDETERMINED):
            shutil.copyfileobj(stream, sink, 1 << 20)
            task.ledger.keep(UNDETERMINED)


class Identification:
    """The settings of a task at work."""

    def __init__(self, settings: Mapping[str, Any], model: Path | None = None) -> None:
        """With the fastText model at a path, or the built-in combination."""
        self._documents, lines = settings["identify"], settings["identify_lines"]
        self._lines: Collection[str] | None = None
        self._all = identify_all
        if model is not None:
            self._all = fasttext_model.model_at(model).identify_all
            self._lines = {language.code for language in languages.known()} if lines else None
        elif lines:
            self._lines = supported()

    @classmethod
    def of(cls, task: Task) -> Identification:
        """As the settings of a task say, with the model where the task was given one."""
        if "model" not in task.given:
            return cls(task.settings)
        shard = Shard(**task.given["model"])
        return cls(task.settings, task.storage.local(shard.path, shard.sha256))

    def identify_all(self, texts: Sequence[str]) -> Found:
        """The language and score of each text; `und` and 0 where nothing is to be identified."""
        return self._all(texts) if self._documents else ([UNDETERMINED] * len(texts), [0] * len(texts))

    def columns(self, texts: Sequence[str], langs: Sequence[str]) -> dict[str, Any]:
        """`identified`, `identified_score` and `foreign_line_share` of a batch."""
        found = self.identify_all(texts)
        shares = [-1] * len(texts) if self._lines is None else foreign_shares(texts, langs, found, self._all, self._lines)
        return {
            "identified": pa.array(found[0], pa.string()),
            "identified_score": pa.array(found[1], pa.int32()),
            "foreign_line_share": pa.array(shares, pa.int32()),
        }
