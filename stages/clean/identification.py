"""Language identification of clean: the built-in combination, or a fastText model that the file names, per document and per line.

`identify_model` -> `stored`: its bytes, copied into storage by one unit (its sha256 is in every key) -> read once by each worker
texts -> `Identification.columns`: identified, identified_score, foreign_line_share
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.manifest import Shard
from pipeline.stage import Context
from pipeline.storage import open_source
from pipeline.task import Task
from pipeline.text import fasttext_model, languages
from pipeline.text.foreign import foreign_shares
from pipeline.text.identify import UNDETERMINED, Found, identify_all, supported
from pipeline.units import Phase, Unit
from stages.clean import Config
from stages.clean.models import PREFIX


def settings_of(config: Config) -> dict[str, Any]:
    """What of the configuration shapes the columns."""
    named = config.identify and config.identify_model is not None
    return {
        "identify": config.identify,
        "identify_lines": config.identify and config.identify_lines,
        "fasttext": fasttext_model.installed() if named else None,
    }


def stored(context: Context) -> Shard | None:
    """The model as a file of the storage, which all workers reach; None where there is none."""
    for source, sha256 in context.sources:
        if source.name.startswith(PREFIX):
            unit = Unit(sha256, {"url": source.url, "sha256": sha256}, source.size, f"model {source.name.removeprefix(PREFIX)}")
            (result,) = context.map(Phase("model", "stages.clean.identification:store", {}, "files"), [unit])
            return result.files["model"]
    return None


def store(task: Task) -> None:
    """Worker: copy the model into the storage."""
    with task.file("model") as path, open_source(task.argument["url"]) as stream, path.open("wb") as sink:
        for _ in task.records(["model"], lambda _: UNDETERMINED):
            shutil.copyfileobj(stream, sink, 1 << 20)
            task.ledger.keep(UNDETERMINED)


class Identification:
    """The settings of a task at work."""

    def __init__(self, settings: Mapping[str, Any], task: Task | None = None) -> None:
        """Read the model where the task was given one."""
        self._documents, self._lines = settings["identify"], settings.get("identify_lines", False)
        self._identify_all = identify_all
        self._supported: Collection[str] = supported() if self._lines else ()
        model = task.given.get("model") if task is not None else None
        if model is not None and task is not None:
            shard = Shard(**model)
            self._identify_all = fasttext_model.model_at(task.storage.local(shard.path, shard.sha256)).identify_all
            self._supported = {language.code for language in languages.known()} if self._lines else ()

    def columns(self, texts: Sequence[str], langs: Sequence[str]) -> dict[str, Any]:
        """`identified`, `identified_score` and `foreign_line_share` of a batch."""
        found: Found = self._identify_all(texts) if self._documents else ([UNDETERMINED] * len(texts), [0] * len(texts))
        shares = foreign_shares(texts, langs, found, self._identify_all, self._supported) if self._lines else [-1] * len(texts)
        return {
            "identified": pa.array(found[0], pa.string()),
            "identified_score": pa.array(found[1], pa.int32()),
            "foreign_line_share": pa.array(shares, pa.int32()),
        }
