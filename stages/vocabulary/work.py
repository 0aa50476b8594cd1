"""The work of vocabulary; the package's docstring draws its phases."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.vocabulary import MODEL_FILE, ROWS_FILE
from pipeline.corpus import decided, decided_batches, kept_texts, pair_up
from pipeline.errors import EmptyCorpusError
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import canonical, digest
from pipeline.tables import ROWS_PER_BATCH
from pipeline.task import Task, UnitResult
from pipeline.text.tokenizer import Tokenizer, language_token, train_words
from pipeline.text.unigram import train_unigram
from pipeline.units import Phase, Unit
from stages.vocabulary import Config
from stages.vocabulary.card import MEASURED, assemble, measure
from stages.vocabulary.counts import WORDS, WordCounter, merge_words, write_words
from stages.vocabulary.parity import longest, opened, parity, share_of
from stages.vocabulary.weights import required_characters, weighted_words, weights_for

BYTES_PER_WORD = 120
"""Generous memory per distinct word while merging: about 7 bytes for each of its characters, and 20."""

PARTITION_BYTES = 32 << 20
"""Text whose words make a partition: merging one takes some 100 MB."""
THREADS = 2
"""Of the training task, where the cluster has so many cores: they change nothing but its time."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Count, merge, train, write the card; see the package."""
    partitions = config.partitions or _partitions(sum(shard.bytes for shard in inputs["documents"].shards))
    counted = _count(config, partitions, inputs, context)
    ledger = total((result.ledger for result in counted), "rows")
    merged = _merge(partitions, counted, context)
    characters: Counter[str] = Counter()
    for result in merged:
        characters.update(result.counts["characters"])
    if not characters:
        raise EmptyCorpusError(
            f"{context.instance}: there is no text to learn words from. Check `show … dedup ledger` for why documents were dropped."
        )
    words = sum(result.files["words"].rows for result in merged)
    shaping = ("size", "model", "byte_fallback", "coverage", "language_coverage", "split_digits", "max_words")
    settings = config.model_dump(mode="json", include={*shaping}) | {
        "weights": weights_for(config, characters),
        "language_tokens": sorted(context.languages) if config.language_tokens else [],
        "draws": {"words": config.sample_words, "seed": context.seed} if config.model == "unigram" else {},
    }
    if config.start is None:
        trained = _train(config, settings, merged, words, context)
    else:
        from stages.vocabulary.starting import adapted

        trained = adapted(config, config.start, settings, merged, context)
        rows = trained.files[ROWS_FILE]
        with output.file("vocabulary", ROWS_FILE) as path:
            path.write_bytes(context.storage.local(rows.path, rows.sha256).read_bytes())
    model = trained.files[MODEL_FILE]
    with output.file("vocabulary", MODEL_FILE) as path:
        path.write_bytes(context.storage.local(model.path, model.sha256).read_bytes())
    card, ledger_of_words = _measured(settings["weights"], model, merged, inputs, context)
    tokenizer = Tokenizer(context.storage.local(model.path, model.sha256).read_bytes())
    card |= {"longest": longest(tokenizer), "kind": tokenizer.kind}
    others = {} if config.start is None else {"before": trained.files["start.model"]}
    if config.compare:
        from stages.vocabulary.fetching import converted

        others |= converted(config.compare, context)
    card["compared"] = {name: _measured(settings["weights"], other, merged, inputs, context)[0] for name, other in others.items()}
    with output.file("vocabulary", "card.json") as path:
        path.write_bytes(canonical(card))
    _evidence(card, output)
    pruned = {name: trained.counts.get(name, 0) for name in ("pruned_words", "pruned_millionths")}
    return Summary(
        ledgers={"rows": ledger, "words": ledger_of_words},
        counts={"distinct_words": words, "characters": dict(sorted(characters.items())), "weights": settings["weights"], **pruned},
        metrics={
            "vocabulary/fertility_mean": card["mean"]["fertility"] / 10_000,
            "vocabulary/byte_fallback_share": card["mean"]["byte_fallback_share"] / 10_000,
            "vocabulary/unknown_share": card["mean"]["unknown_share"] / 10_000,
        },
    )


def _train(config: Config, settings: Mapping[str, Any], merged: list[UnitResult], words: int, context: Context) -> UnitResult:
    shards = [result.files["words"].plain() for result in merged]
    unit = Unit(digest([shard["sha256"] for shard in shards]), {"shards": shards}, sum(s["bytes"] for s in shards), "all words")
    memory = config.memory or (300 << 20) + BYTES_PER_WORD * words
    threads = max(1, min(THREADS, math.floor(max((node.cpus for node in context.cluster().nodes()), default=1.0))))
    phase = Phase(
        "train", "stages.vocabulary.work:train_vocabulary", settings, "words", given={"threads": threads}, memory_bytes=_within(memory, context), cpus=threads
    )  # fmt: skip
    return context.map(phase, [unit])[0]


def _measured(
    weights: Mapping[str, int], model: Shard, merged: list[UnitResult], inputs: Mapping[str, Input], context: Context
) -> tuple[dict[str, Any], Ledger]:
    """The card of a vocabulary from all partitions, measured side by side, and from aligned documents."""
    given = {"path": model.path, "sha256": model.sha256}
    phase = Phase("measure", "stages.vocabulary.work:measure_partition", {}, "words", (model.sha256,), given)
    shards = [result.files["words"] for result in merged]
    measured = context.map(
        phase, [Unit(shard.sha256, {"shard": shard.plain()}, shard.bytes, f"partition {p}") for p, shard in enumerate(shards)]
    )
    paths = [context.storage.local(result.files["measured"].path, result.files["measured"].sha256) for result in measured]
    card, counted = assemble(paths, Tokenizer(context.storage.local(model.path, model.sha256).read_bytes()).size, weights)
    for lang, value in _parity(model, inputs, context).items():
        if lang in card["languages"]:
            card["languages"][lang]["parity"] = value
    ledger = Ledger("words")
    for lang, count in counted.items():
        ledger.keep(lang, count)
    return card, ledger


def _parity(model: Shard, inputs: Mapping[str, Input], context: Context) -> dict[str, int]:
    """Pieces against English's on aligned documents, by language."""
    given = {"path": model.path, "sha256": model.sha256}
    pairings = pair_up(inputs["documents"].shards, inputs["decisions"].shards)
    settings = {"share": share_of(sum(pairing.text.rows for pairing in pairings))}
    phase = Phase("parity", "stages.vocabulary.parity:count_pieces", settings, "documents", (model.sha256,), given)
    files = [result.files["sizes"] for result in context.map(phase, [pairing.unit() for pairing in pairings])]
    return parity(context.storage.local(file.path, file.sha256) for file in files)


def _within(memory: int, context: Context) -> int | None:
    """The reservation, capped at what the largest node has, so that a small machine can still try; None on a local Ray without one."""
    largest = max((node.memory_bytes for node in context.cluster().nodes()), default=0.0)
    return int(min(memory, largest * 0.9)) or None


def _partitions(size: int) -> int:
    """Partitions for a corpus of so many bytes: a power of two, so that few corpora of different sizes differ in it, that leaves about `PARTITION_BYTES` of text in each."""
    return min(4096, max(8, 1 << (-(-size // PARTITION_BYTES) - 1).bit_length()))


def _count(config: Config, partitions: int, inputs: Mapping[str, Input], context: Context) -> list[UnitResult]:
    settings = {"partitions": partitions}
    pairings = pair_up(inputs["documents"].shards, inputs["decisions"].shards)
    phase = Phase("count", "stages.vocabulary.work:count_documents", settings, "rows")
    results = context.map(phase, [pairing.unit() for pairing in pairings])
    if config.bitext and "bitext" in inputs and "pair_decisions" in inputs:
        pairings = pair_up(inputs["bitext"].shards, inputs["pair_decisions"].shards)
        phase = Phase("count_pairs", "stages.vocabulary.work:count_pairs", settings, "rows")
        results += context.map(phase, [pairing.unit() for pairing in pairings])
    return results


def _merge(partitions: int, counted: list[UnitResult], context: Context) -> list[UnitResult]:
    shards = [result.files["words"] for result in counted]
    plain = [shard.plain() for shard in shards]
    # In the order of their digests, so that the order of the shards does not matter.
    plain.sort(key=lambda shard: str(shard["sha256"]))
    content = digest([shard["sha256"] for shard in plain])
    size = sum(shard.bytes for shard in shards) // partitions
    units = [Unit(f"{content}:{p}", {"partition": p, "shards": plain}, size, f"partition {p}") for p in range(partitions)]
    return context.map(Phase("merge", "stages.vocabulary.work:merge_partition", {}, "words"), units)


def count_documents(task: Task) -> None:
    """Worker: the words of a shard's training documents, by language."""
    counter = WordCounter()
    for batch, decisions in decided_batches(task.storage, task.argument, ("id", "lang", "text")):
        langs = batch.column("lang").to_pylist()
        keep, train = decisions["keep"].to_pylist(), pc.equal(decisions["split"], "train").to_pylist()
        chosen = []
        for row in task.records(range(batch.num_rows), langs.__getitem__):
            if keep[row] and train[row]:
                chosen.append(row)
            else:
                task.ledger.drop(langs[row], "held_out" if keep[row] else "not_kept")
        for lang, count in Counter(langs[row] for row in chosen).items():
            task.ledger.keep(lang, count)
        rows = pa.array(chosen, pa.int64())
        counter.add(kept_texts(batch.column("text").take(rows), decisions["dropped_lines"].take(rows)), [langs[row] for row in chosen])
    write_words(task, counter)


def count_pairs(task: Task) -> None:
    """Worker: the words of both sides of a shard's pairs, by language."""
    counter = WordCounter()
    sides: dict[str, list[str]] = {"text": [], "lang": []}
    for row, decision in task.records(decided(task.storage, task.argument), lambda pair: f"{pair[0]['lang_a']}-{pair[0]['lang_b']}"):
        name = f"{row['lang_a']}-{row['lang_b']}"
        if not decision["keep"] or decision["split"] != "train":
            task.ledger.drop(name, "held_out" if decision["keep"] else "not_kept")
            continue
        for side in "ab":
            sides["text"].append(row[f"text_{side}"])
            sides["lang"].append(row[f"lang_{side}"])
        task.ledger.keep(name)
        if len(sides["text"]) >= ROWS_PER_BATCH:
            counter.add(pa.array(sides["text"], pa.large_string()), sides["lang"])
            sides = {"text": [], "lang": []}
    counter.add(pa.array(sides["text"], pa.large_string()), sides["lang"])
    write_words(task, counter)


def merge_partition(task: Task) -> None:
    """Worker: one partition of all counts, summed by (word, language), sorted."""
    merged = merge_words(task, task.argument["shards"], task.argument["partition"])
    with task.table("words", WORDS) as table:
        table.batch(merged)
    characters = merged.select(["lang"]).append_column(
        "characters", pc.multiply(pc.utf8_length(merged["word"]).cast(pa.int64()), merged["count"])
    )
    sums = characters.group_by("lang", use_threads=False).aggregate([("characters", "sum")])
    task.counts["characters"] = dict(sorted(zip(sums["lang"].to_pylist(), sums["characters_sum"].to_pylist(), strict=True)))


def train_vocabulary(task: Task) -> None:
    """Worker: weight the counts, train."""
    settings = task.settings
    paths = [task.storage.local(shard.path, shard.sha256) for shard in (Shard(**plain) for plain in task.argument["shards"])]
    words = weighted_words(paths, settings["weights"], settings["max_words"])
    required = required_characters(paths, settings["language_coverage"])
    shape: dict[str, Any] = {
        "size": settings["size"], "byte_fallback": settings["byte_fallback"], "character_coverage": settings["coverage"], "required_chars": required,
        "split_digits": settings["split_digits"], "controls": [language_token(lang) for lang in settings["language_tokens"]],
    }  # fmt: skip
    if settings["model"] == "unigram":
        model = train_unigram(words, draws=settings["draws"]["words"], seed=settings["draws"]["seed"], **shape)
    else:
        model = train_words(words, threads=task.given["threads"], **shape)
    task.counts.update({"pruned_words": words.pruned_words, "pruned_millionths": words.pruned_millionths})
    with task.file(MODEL_FILE) as path:
        path.write_bytes(model)


def measure_partition(task: Task) -> None:
    """Worker: what the vocabulary does to the words of one partition, by language."""
    shard = Shard(**task.argument["shard"])
    tokenizer = opened(task.storage.root, task.given["path"], task.given["sha256"])
    with task.table("measured", MEASURED) as table:
        table.batch(measure(task.storage.local(shard.path, shard.sha256), tokenizer))


def _evidence(card: Mapping[str, Any], output: Output) -> None:
    from stages.vocabulary.plots import compared_plot, fallback_plot, fertility_plot, parity_plot

    with output.evidence("fertility.svg") as path:
        fertility_plot(card, path)
    if card["compared"]:
        with output.evidence("compared.svg") as path:
            compared_plot(card, path)
    with output.evidence("byte_fallback.svg") as path:
        fallback_plot(card, path)
    if sum("parity" in entry for entry in card["languages"].values()) > 1:
        with output.evidence("parity.svg") as path:
            parity_plot(card, path)
