"""A vocabulary to start from: fetched, cut to what the corpus needs, grown by what the corpus has.

    start.path -> fetch (`fetching`) -> trace (a unit a partition of the words): ids that come up -> adapt: cut, grown -> vocabulary.model, rows.json

`rows.json`: `{"size_before": ids there, "identity": of the pieces there, "rows": [[old ids of id 0], …]}`; the new row of an embedding is the mean of those
(`pipeline.model.rows`), and only of a model whose tokenizer has that identity (`pipeline.text.imported`).

New pieces are learned from the corpus alone, as many as are asked for and twice more, and set behind the old. Of them those are taken that come up most early in the
order they were learned in and that the grown vocabulary uses on the corpus at all: where old merges always cut across a new piece it would never be used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.vocabulary import MODEL_FILE, ROWS_FILE
from pipeline.errors import StageError
from pipeline.manifest import Shard
from pipeline.stage import Context
from pipeline.storage import canonical, digest, without_userinfo
from pipeline.tables import open_file
from pipeline.task import Task, UnitResult
from pipeline.text.imported import NONE, imported
from pipeline.text.tokenizer import Tokenizer, train_words
from pipeline.text.unigram import train_unigram
from pipeline.text.vocabulary_change import composed, grown, kept_only, needed, rows
from pipeline.units import Phase, Unit
from stages.vocabulary import Config, Start
from stages.vocabulary.fetching import fetched
from stages.vocabulary.weights import required_characters, weighted_words

_WORDS_AT_ONCE = 20_000


def adapted(config: Config, start: Start, settings: Mapping[str, Any], merged: Sequence[UnitResult], context: Context) -> UnitResult:
    """The vocabulary cut and grown; its files are the model and the rows."""
    file = fetched(("start", "path"), context)
    shards = [result.files["words"] for result in merged]
    given = {"start": file.plain(), "name": without_userinfo(start.path)}
    traced: list[UnitResult] = []
    if start.trim:
        phase = Phase("trace", "stages.vocabulary.starting:trace", {}, "words", (file.sha256,), given)
        traced = context.map(
            phase, [Unit(shard.sha256, {"shard": shard.plain()}, shard.bytes, f"partition {p}") for p, shard in enumerate(shards)]
        )
    plain = [shard.plain() for shard in shards]
    argument = {"shards": plain, "traced": [result.files["ids"].plain() for result in traced]}
    unit = Unit(digest([shard["sha256"] for shard in plain]), argument, sum(shard.bytes for shard in shards), "all words")
    shaping = dict(settings) | {"trim": start.trim, "add": start.add, "draws": {"words": config.sample_words, "seed": context.seed}}
    return context.map(Phase("adapt", "stages.vocabulary.starting:adapt", shaping, "words", (file.sha256,), given), [unit])[0]


def _opened(task: Task, languages: Sequence[str] = ()) -> Any:
    shard = Shard(**task.given["start"])
    return imported(task.storage.local(shard.path, shard.sha256), task.given["name"], languages)


def trace(task: Task) -> None:
    """Worker: ids that come up in the words of one partition."""
    shard = Shard(**task.argument["shard"])
    tokenizer = Tokenizer(_opened(task).model)
    found: set[int] = set()
    for words in _words(task.storage.local(shard.path, shard.sha256)):
        found |= needed(tokenizer, words)
    with task.file("ids") as path:
        path.write_bytes(canonical(sorted(found)))


def _words(path: Path) -> Iterator[list[str]]:
    reader = open_file(path)
    for number in range(reader.num_record_batches):
        column = reader.get_batch(number).column("word")
        for at in range(0, len(column), _WORDS_AT_ONCE):
            yield column.slice(at, _WORDS_AT_ONCE).to_pylist()


def adapt(task: Task) -> None:
    """Worker: cut, grow, and say which old rows each id is made of."""
    settings = task.settings
    old = _opened(task, settings["language_tokens"])
    model, origins = old.model, list(range(len(old.origins)))
    if settings["trim"]:
        wanted: set[int] = set()
        for plain in task.argument["traced"]:
            shard = Shard(**plain)
            wanted.update(json.loads(task.storage.local(shard.path, shard.sha256).read_bytes()))
        model, origins = kept_only(Tokenizer(model), model, wanted)
    if settings["add"]:
        model, behind = _grown(task, model, settings)
        origins = composed(origins, behind)
    before = Tokenizer(old.model)
    # From the ids here to the ids there: what the old vocabulary lacked (a special string) has no row.
    found = [[old.origins[index] for index in row if old.origins[index] != NONE] for row in rows(before, Tokenizer(model), origins)]
    with task.file(MODEL_FILE) as path:
        path.write_bytes(model)
    with task.file("start.model") as path:  # the old vocabulary in this layout, for the card
        path.write_bytes(old.model)
    with task.file(ROWS_FILE) as path:
        path.write_bytes(canonical({"size_before": old.size_before, "identity": old.identity, "rows": found}))


def _grown(task: Task, model: bytes, settings: Mapping[str, Any]) -> tuple[bytes, list[int]]:
    """The vocabulary with at most `add` new pieces, each used on the corpus."""
    paths = [task.storage.local(shard.path, shard.sha256) for shard in (Shard(**plain) for plain in task.argument["shards"])]
    words = weighted_words(paths, settings["weights"], settings["max_words"])
    tokenizer, most = Tokenizer(model), settings["add"]
    shape: dict[str, Any] = {
        "byte_fallback": bool(tokenizer.byte_ids), "character_coverage": settings["coverage"],
        "required_chars": required_characters(paths, settings["language_coverage"]), "split_digits": settings["split_digits"],
    }  # fmt: skip

    def learned(size: int) -> Tokenizer:
        if tokenizer.kind == "bpe":
            return Tokenizer(train_words(words, size=size, **shape))
        return Tokenizer(train_unigram(words, size=size, draws=settings["draws"]["words"], seed=settings["draws"]["seed"], **shape))

    try:
        fresh = learned(max(tokenizer.size, 1_000) + 3 * most)
    except StageError as error:
        if "at_most" not in error.attributes:
            raise
        fresh = learned(error.attributes["at_most"])
    held = set(tokenizer.pieces())
    scores, names = fresh.scores(), fresh.pieces()
    new = [index for index in range(fresh.mask_id) if fresh.is_ordinary(index) and names[index] not in held]
    # Characters first: without them nothing of a new script is more than bytes.
    new.sort(key=lambda index: (len(names[index]) > 1, -scores[index], index))
    candidates = [(names[index], scores[index]) for index in new]
    larger, _ = grown(tokenizer, model, candidates)
    trial = Tokenizer(larger)
    met = np.zeros(trial.size, np.bool_)
    for path in paths:
        for part in _words(path):
            met[list(needed(trial, part))] = True
    return grown(tokenizer, model, [pair for pair in candidates if met[trial.id_of(pair[0])]][:most])
