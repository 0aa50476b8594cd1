"""The work of vocabulary; the package's docstring draws its phases."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipeline.artifacts.vocabulary import MODEL_FILE
from pipeline.corpus import decided, kept_text, pair_up
from pipeline.errors import EmptyCorpusError
from pipeline.ledger import total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import canonical, digest
from pipeline.tables import open_file, rows
from pipeline.task import Task, UnitResult
from pipeline.text.hashing import hash64, partition
from pipeline.text.tokenizer import Tokenizer, train
from pipeline.text.words import count_words
from pipeline.units import Phase, Unit
from stages.vocabulary import Config
from stages.vocabulary.weights import language_weights, weighted

_WORDS = pa.schema(
    [
        pa.field("lang", pa.string(), nullable=False),
        pa.field("word", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
BYTES_PER_WORD = 2_000
"""Generous memory per distinct word while merging; sentencepiece holds each word's symbols and their positions."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Count, merge, train, write the card; see the package."""
    counted = _count(config, inputs, context)
    ledger = total((result.ledger for result in counted), "rows")
    merged = _merge(config, counted, context)
    characters: Counter[str] = Counter()
    for result in merged:
        characters.update(result.counts["characters"])
    if not characters:
        raise EmptyCorpusError(
            f"{context.instance}: there is no text to learn words from. Check `show … dedup ledger` for why documents were dropped."
        )
    words = sum(result.files["words"].rows for result in merged)
    settings = config.model_dump(mode="json", exclude={"memory", "partitions", "bitext"}) | {
        "weights": language_weights(characters, config.alpha)
    }
    shards = [result.files["words"].plain() for result in merged]
    content = digest([shard["sha256"] for shard in shards])
    unit = Unit(content, {"shards": shards}, sum(s["bytes"] for s in shards), "all words")
    memory = config.memory or (200 << 20) + BYTES_PER_WORD * words
    phase = Phase("train", "stages.vocabulary.work:train_vocabulary", settings, "words", memory_bytes=_within(memory, context))
    trained = context.map(phase, [unit])[0]
    for name in (MODEL_FILE, "card.json"):
        shard = trained.files[name]
        with output.file("vocabulary", name) as path:
            path.write_bytes(context.storage.local(shard.path, shard.sha256).read_bytes())
    card = json.loads(context.storage.read(trained.files["card.json"].path))
    _evidence(card, output)
    return Summary(
        ledgers={"rows": ledger, "words": trained.ledger},
        counts={"distinct_words": words, "characters": dict(sorted(characters.items())), "weights": settings["weights"]},
        metrics={
            "vocabulary/fertility_mean": card["mean"]["fertility"] / 10_000,
            "vocabulary/byte_fallback_share": card["mean"]["byte_fallback_share"] / 10_000,
            "vocabulary/unknown_share": card["mean"]["unknown_share"] / 10_000,
        },
    )


def _within(memory: int, context: Context) -> int | None:
    """The reservation, capped at what the largest node has, so that a small machine can still try; None on a local Ray without one."""
    largest = max((node.memory_bytes for node in context.cluster().nodes()), default=0.0)
    return int(min(memory, largest * 0.9)) or None


def _count(config: Config, inputs: Mapping[str, Input], context: Context) -> list[UnitResult]:
    settings = {"partitions": config.partitions}
    pairings = pair_up(inputs["documents"].shards, inputs["decisions"].shards)
    phase = Phase("count", "stages.vocabulary.work:count_documents", settings, "rows")
    results = context.map(phase, [pairing.unit() for pairing in pairings])
    if config.bitext and "bitext" in inputs and "pair_decisions" in inputs:
        pairings = pair_up(inputs["bitext"].shards, inputs["pair_decisions"].shards)
        phase = Phase("count_pairs", "stages.vocabulary.work:count_pairs", settings, "rows")
        results += context.map(phase, [pairing.unit() for pairing in pairings])
    return results


def _merge(config: Config, counted: list[UnitResult], context: Context) -> list[UnitResult]:
    shards = [result.files["words"] for result in counted]
    plain = [shard.plain() for shard in shards]
    # In the order of their digests, so that the order of the shards does not matter.
    plain.sort(key=lambda shard: str(shard["sha256"]))
    content = digest([shard["sha256"] for shard in plain])
    size = sum(shard.bytes for shard in shards) // config.partitions
    units = [Unit(f"{content}:{p}", {"partition": p, "shards": plain}, size, f"partition {p}") for p in range(config.partitions)]
    return context.map(Phase("merge", "stages.vocabulary.work:merge_partition", {}, "words"), units)


def count_documents(task: Task) -> None:
    """Worker: the words of a shard's training documents, by language."""
    counts: dict[str, Counter[str]] = {}
    pairs = decided(task.storage, task.argument, ("id", "lang", "text"))
    for row, decision in task.records(pairs, lambda pair: str(pair[0]["lang"])):
        if not decision["keep"] or decision["split"] != "train":
            task.ledger.drop(row["lang"], "held_out" if decision["keep"] else "not_kept")
            continue
        counts.setdefault(row["lang"], Counter()).update(count_words([kept_text(row["text"], decision["dropped_lines"])]))
        task.ledger.keep(row["lang"])
    _write_counts(task, counts)


def count_pairs(task: Task) -> None:
    """Worker: the words of both sides of a shard's pairs, by language."""
    counts: dict[str, Counter[str]] = {}
    for row, decision in task.records(decided(task.storage, task.argument), lambda pair: f"{pair[0]['lang_a']}-{pair[0]['lang_b']}"):
        name = f"{row['lang_a']}-{row['lang_b']}"
        if not decision["keep"]:
            task.ledger.drop(name, "not_kept")
            continue
        for side in "ab":
            counts.setdefault(row[f"lang_{side}"], Counter()).update(count_words([row[f"text_{side}"]]))
        task.ledger.keep(name)
    _write_counts(task, counts)


def _write_counts(task: Task, counts: Mapping[str, Counter[str]]) -> None:
    parts: list[list[tuple[str, str, int]]] = [[] for _ in range(task.settings["partitions"])]
    for lang, words in counts.items():
        for word, count in words.items():
            parts[partition(hash64(word, "word"), len(parts))].append((word, lang, count))
    with task.table("words", _WORDS) as table:
        for part in parts:
            part.sort()
            table.partition({"lang": [r[1] for r in part], "word": [r[0] for r in part], "count": [r[2] for r in part]})


def merge_partition(task: Task) -> None:
    """Worker: one partition of all counts, summed by (word, language) in a merge of sorted streams."""
    number = task.argument["partition"]

    def stream(shard: Shard) -> Iterator[tuple[str, str, int]]:
        batch = open_file(task.storage.local(shard.path, shard.sha256)).get_batch(number)
        for start in range(0, batch.num_rows, 4096):
            columns = batch.slice(start, 4096).to_pydict()
            yield from zip(columns["word"], columns["lang"], columns["count"], strict=True)

    characters: Counter[str] = Counter()
    streams = [stream(Shard(**plain)) for plain in task.argument["shards"]]
    with task.table("words", _WORDS) as table:
        for (word, lang), entries in groupby(heapq.merge(*streams), key=lambda entry: entry[:2]):
            count = sum(entry[2] for entry in entries)
            table.row({"lang": lang, "word": word, "count": count})
            characters[lang] += count * len(word)
    task.counts["characters"] = dict(sorted(characters.items()))


def _all_words(task: Task) -> Iterator[dict[str, Any]]:
    for plain in task.argument["shards"]:
        shard = Shard(**plain)
        yield from rows(task.storage.local(shard.path, shard.sha256))


def train_vocabulary(task: Task) -> None:
    """Worker: weight the counts, train, measure per language."""
    settings = task.settings
    weights = settings["weights"]
    counts: dict[str, int] = {}
    by_character: dict[str, Counter[str]] = {}
    for row in _all_words(task):
        counts[row["word"]] = counts.get(row["word"], 0) + weighted(row["count"], weights[row["lang"]])
        own = by_character.setdefault(row["lang"], Counter())
        for character in row["word"]:
            own[character] += row["count"]
    required = sorted(set().union(*(_covering(own, settings["language_coverage"]) for own in by_character.values())))
    model = train(
        counts, size=settings["size"], byte_fallback=settings["byte_fallback"], character_coverage=settings["coverage"],
        required_chars="".join(required), split_digits=settings["split_digits"],
    )  # fmt: skip
    with task.file(MODEL_FILE) as path:
        path.write_bytes(model)
    card = _card(task, Tokenizer(model), weights)
    with task.file("card.json") as path:
        path.write_bytes(canonical(card))


def _covering(characters: Counter[str], share: float) -> set[str]:
    """The most frequent characters that make up `share` of a language's text; ties in code point order."""
    needed = -(-sum(characters.values()) * round(share * 1_000_000) // 1_000_000)
    found: set[str] = set()
    for character, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        if needed <= 0:
            break
        found.add(character)
        needed -= count
    return found


def _card(task: Task, tokenizer: Tokenizer, weights: Mapping[str, int]) -> dict[str, Any]:
    """Per language, from the word counts: everything in 1/10000 where it is a share or a ratio."""
    sums: dict[str, Counter[str]] = {}
    used: dict[str, set[int]] = {}
    batch: list[dict[str, Any]] = []

    def measure(batch: list[dict[str, Any]]) -> None:
        # Pieces of one word are those it has within a text: its own leading mark stands for the space.
        for row, ids in zip(batch, tokenizer.encode_words([row["word"] for row in batch]), strict=True):
            values = ids.tolist()
            own = sums.setdefault(row["lang"], Counter())
            own["words"] += row["count"]
            own["pieces"] += row["count"] * len(values)
            own["characters"] += row["count"] * len(row["word"].replace("▁", ""))
            own["unknown"] += row["count"] * sum(v == 3 for v in values)
            own["bytes"] += row["count"] * sum(v in tokenizer.byte_ids for v in values)
            used.setdefault(row["lang"], set()).update(values)
            task.ledger.keep(row["lang"], row["count"])

    for row in _all_words(task):
        batch.append(row)
        if len(batch) >= 20_000:
            measure(batch)
            batch = []
    measure(batch)

    def figures(own: Mapping[str, int]) -> dict[str, int]:
        pieces = max(1, own["pieces"])
        return {
            "words": own["words"],
            "pieces": own["pieces"],
            "characters": own["characters"],
            "fertility": own["pieces"] * 10_000 // max(1, own["words"]),
            "characters_per_piece": own["characters"] * 10_000 // pieces,
            "unknown_share": own["unknown"] * 10_000 // pieces,
            "byte_fallback_share": own["bytes"] * 10_000 // pieces,
        }

    everything: Counter[str] = Counter()
    languages = {}
    for lang in sorted(sums):
        everything.update(sums[lang])
        languages[lang] = {**figures(sums[lang]), "pieces_used": len(used[lang]), "weight": weights[lang]}
    return {"size": tokenizer.size, "languages": languages, "mean": figures(everything), "pieces_used": len(set().union(*used.values()))}


def _evidence(card: Mapping[str, Any], output: Output) -> None:
    from stages.vocabulary.plots import fertility_plot

    with output.evidence("fertility.svg") as path:
        fertility_plot(card, path)
