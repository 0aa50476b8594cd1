"""The figures of the report, assembled from manifests; nothing here reads a file or knows of the page.

manifests by slot + cards + curve + scores -> assemble -> Figures -> asdict -> report.json, and the page
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.ledger import Ledger
from stages.report.corpus import corpus, language_name
from stages.report.rows import (
    Book,
    Export,
    Figures,
    FinetuningRow,
    Given,
    Heldout,
    LossRow,
    ObjectiveRow,
    PackingRow,
    Part,
    Pretraining,
    Scored,
    ScoreRow,
    StageRow,
    Vocabulary,
    VocabularyRow,
)  # fmt: skip

GROUP_NAMES = {"zero_shot": "zero-shot: never fine-tuned on", "trained_on": "fine-tuned on", "all": "all"}
SYSTEM_NAMES = {"model": "the model", "untrained": "never pretrained", "majority": "majority class"}


def assemble(given: Given) -> Figures:
    """All figures.

    Raises:
        LedgerError: a ledger does not add up.
    """
    parts = list({part.instance: part for part in given.parts.values()}.values())
    table = corpus(given)
    warnings = [(part.instance, str(text)) for part in parts for text in part.manifest.record.get("warnings", ())]
    decided = given.parts.get("decisions")
    reasons = {} if table is None else {"dropped": _ordered(table.total.dropped), "quarantined": _ordered(table.total.quarantined)}
    return Figures(
        books=[book for part in parts for book in books(part)],
        corpus=table,
        reasons=reasons,
        heldout=heldout(given.parts.get("heldout")),
        contaminants=None if decided is None else decided.manifest.counts.get("contaminants"),
        vocabulary=None if given.card is None else vocabulary(given.card),
        packing=packing(given.parts.get("packing")),
        pretraining=pretraining(given),
        exports=[export(part) for part in given.by_stage("export")],
        finetuning=[row for part in given.by_stage("finetune") for row in finetuning(part)],
        scores=[scored(instance, plain) for instance, plain in sorted(given.scores.items())],
        stages=[stage_row(part) for part in parts],
        libraries=libraries(parts),
        warnings=warnings,
    )


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def ledger(part: Part, name: str) -> Ledger:
    """A ledger of an instance, checked; an empty one where it has none of that name.

    Raises:
        LedgerError: it does not add up.
    """
    plain = part.manifest.ledgers.get(name)
    if plain is None:
        return Ledger("documents")
    found = Ledger.from_plain(plain)
    found.check(f"{part.instance}: {name}")
    return found


def books(part: Part) -> list[Book]:
    """The ledgers of an instance, each checked.

    Raises:
        LedgerError: one does not add up.
    """
    rows = []
    for name in sorted(part.manifest.ledgers):
        found = ledger(part, name)
        rows.append(Book(part.instance, name, found.unit, found.taken, found.kept, found.dropped, found.quarantined))
    return rows


def heldout(part: Part | None) -> Heldout | None:
    """What was held out, or None."""
    if part is None:
        return None
    found = ledger(part, "documents")
    groups = [str(group) for group in part.manifest.counts.get("groups", ())]
    return Heldout(sorted(groups, key=lambda g: (len(g), g)), found.kept, sum(1 for account in found.accounts.values() if account.kept))


def vocabulary(card: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary's card."""
    rows = [_vocabulary_row(lang, entry) for lang, entry in sorted(card["languages"].items())]
    compared = {name: vocabulary(other) for name, other in sorted(card.get("compared", {}).items())}
    return Vocabulary(card["size"], card["pieces_used"], rows, _vocabulary_row("", card["mean"]), card.get("longest", ()), compared)


def _vocabulary_row(lang: str, entry: Mapping[str, Any]) -> VocabularyRow:
    return VocabularyRow(
        lang, language_name(lang) if lang else "", entry["words"], entry["pieces"], entry.get("pieces_used"), entry["fertility"],
        entry["characters_per_piece"], entry["unknown_share"], entry["byte_fallback_share"], entry.get("pieces_used_share"),
        entry.get("parity"),
    )  # fmt: skip


def packing(part: Part | None) -> list[PackingRow]:
    """Training rows by split, train first."""
    if part is None:
        return []
    sums: dict[str, Counter[str]] = {}
    for name, entry in part.manifest.counts["parts"].items():
        sums.setdefault(name.rpartition("/")[2], Counter()).update(entry)
    length = int(part.manifest.counts["length"])
    return [
        PackingRow(split, own["documents"], own["rows"], own["tokens"], own["filled"], own["rows"] * length)
        for split, own in sorted(sums.items(), key=lambda item: (item[0] != "train", item[0]))
    ]


def pretraining(given: Given) -> Pretraining | None:
    """The pretrained model beside its baselines, or None."""
    part, training = given.parts.get("checkpoint"), given.training
    if part is None or training is None:
        return None
    held, about = part.manifest.counts["heldout"], part.manifest.counts["training"]
    trained = part.manifest.counts["tokens"]
    rows = [
        LossRow(
            lang, language_name(lang), loss, held["corpus_unigram"].get(lang), held["language_unigram"].get(lang),
            held.get("bits_per_byte", {}).get(lang), held["masked_tokens"].get(lang, 0), trained.get(lang, 0),
            training.get("planned_tokens", {}).get(lang),
        )
        for lang, loss in sorted(held["loss"].items())
    ]  # fmt: skip
    seconds = sum(record.get("seconds", 0.0) for record in given.curve)
    tokens = sum(record.get("tokens", 0.0) for record in given.curve)
    return Pretraining(
        instance=part.instance,
        model=str(training["model"]),
        parameters=training["parameters"],
        steps=training["steps"],
        length=training["length"],
        world_size=about["world_size"],
        precision=about["precision"],
        trained_tokens=sum(trained.values()),
        summary=held["summary"],
        better_than_corpus=sum(1 for row in rows if row.corpus_unigram is not None and row.loss < row.corpus_unigram),
        better_than_language=sum(1 for row in rows if row.language_unigram is not None and row.loss < row.language_unigram),
        step_seconds=seconds,
        tokens_per_second=tokens / seconds if seconds > 0 else None,
        mfu=_mfu(given.curve),
        rows=rows,
        objectives=_objectives(held, training.get("objectives", ["mlm"])),
    )


MEASURES = {
    "mlm": ("hidden tokens of text", "unigram of the language"),
    "tlm": ("hidden tokens of translation pairs", "unigram of the pair's languages"),
    "clm": ("tokens of text from those before", "unigram of the language"),
    "nsp": ("whether a segment goes on where another ends", "a guess"),
    "contrast": ("a translation among a group of pairs", "a guess among the group"),
}
"""Objective -> what its held-out loss is of, and what it is set beside."""


def _objectives(held: Mapping[str, Any], trained: Collection[str]) -> list[ObjectiveRow]:
    """One row an objective that was trained and has held-out text, masked language modelling first."""
    found = {name: (own["loss"], own["baseline"]) for name, own in held.get("objectives", {}).items()}
    if "mlm" in trained and held["loss"] and held["language_unigram"]:
        found = {"mlm": (held["loss"], held["language_unigram"])} | found
    rows = []
    for name, (loss, baseline) in found.items():
        both = [lang for lang in loss if lang in baseline]
        if both:
            measured, against = MEASURES.get(name, (name, "its baseline"))
            own, other = (math.fsum(values[lang] for lang in both) / len(both) for values in (loss, baseline))
            rows.append(ObjectiveRow(name, measured, against, own, other, len(both), sum(loss[lang] < baseline[lang] for lang in both)))
    return rows


def _mfu(curve: Sequence[Mapping[str, float]]) -> float | None:
    """By time: of a step that takes twice as long its share counts twice."""
    told = [(record["mfu"], record["seconds"]) for record in curve if "mfu" in record]
    return sum(mfu * seconds for mfu, seconds in told) / sum(seconds for _, seconds in told) if told else None


def export(part: Part) -> Export:
    """An exported encoder's verification."""
    counts, files = part.manifest.counts, part.manifest.outputs["model"].files
    return Export(
        part.instance,
        counts.get("lines_verified", 0),
        counts.get("languages_verified", 0),
        len(files),
        sum(f.bytes for f in files.values()),
    )


def finetuning(part: Part) -> list[FinetuningRow]:
    """The two trainings of a fine-tuning."""
    counts = part.manifest.counts
    names = {"model": "pretrained", "baseline": "never pretrained"}
    return [
        FinetuningRow(
            part.instance,
            names.get(slot, slot),
            counts["examples"],
            len(about["labels"]),
            about["steps"],
            about["final_loss"],
            sorted(counts["languages"]),
        )
        for slot, about in sorted(counts["training"].items(), key=lambda item: item[0] != "model")
    ]


def scored(instance: str, plain: Mapping[str, Any]) -> Scored:
    """One evaluation."""
    systems = [name for name in SYSTEM_NAMES if name in plain["systems"]]
    own, trained_on = plain["systems"]["model"], plain["trained_on"]
    rows = [_score_row(plain, systems, "groups", name, GROUP_NAMES[name], False) for name in GROUP_NAMES if name in own["groups"]]
    rows += [_score_row(plain, systems, "languages", lang, language_name(lang), lang in trained_on) for lang in sorted(own["languages"])]
    return Scored(
        instance, plain["set"], plain["split"], plain["task"], plain["labels"], list(trained_on), bool(plain["text_seen_unlabelled"]),
        plain["verdict"], systems, rows,
    )  # fmt: skip


def _score_row(plain: Mapping[str, Any], systems: Sequence[str], kind: str, key: str, name: str, fine_tuned: bool) -> ScoreRow:
    entries = {system: plain["systems"][system][kind][key] for system in systems}
    measures: dict[str, dict[str, tuple[int, int, int]]] = {}
    for measure in ("accuracy", "macro_f1"):
        measures[measure] = {}
        for system, entry in entries.items():
            value, low, high = entry[measure]
            measures[measure][system] = (value, low, high)
    own = entries["model"]
    return ScoreRow(key, name, kind == "groups", own["examples"], own["languages"], fine_tuned, measures["accuracy"], measures["macro_f1"])


def stage_row(part: Part) -> StageRow:
    """An instance's record."""
    record = part.manifest.record
    return StageRow(
        part.instance, part.manifest.stage, str(record.get("run", "")), float(record.get("seconds", 0)), int(record.get("peak_bytes", 0)),
        str(record.get("host", "")), str(record.get("python", "")), flatten(record.get("settings", {})),
    )  # fmt: skip


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as (`a.b`, JSON) in their order; an empty mapping is one line, so that nothing is lost."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows.extend(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value):
                rows.extend(flatten({str(number): item}, f"{prefix}{name}."))
        else:
            rows.append((f"{prefix}{name}", json.dumps(value, ensure_ascii=False)))
    return rows


def libraries(parts: Sequence[Part]) -> dict[str, list[str]]:
    """Versions of each library that shaped an artifact; more than one where stages ran at different times."""
    found: dict[str, set[str]] = {}
    for part in parts:
        for name, version in part.manifest.record.get("libraries", {}).items():
            found.setdefault(name, set()).add(version)
        if part.manifest.record.get("python"):
            found.setdefault("Python", set()).add(part.manifest.record["python"])
    return {name: sorted(versions) for name, versions in sorted(found.items(), key=lambda item: (item[0] != "Python", item[0]))}
