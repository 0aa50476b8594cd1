"""The corpus as the report shows it: the rows of the card, and beside them what later stages made of the same languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.text.languages import lookup
from stages.report.rows import Corpus, CorpusRow, Given, Sample

TEXTS = ("text", "text_a", "text_b")


def language_name(code: str) -> str:
    """English name of a language; empty where the code is not one."""
    try:
        return lookup(code).name
    except ConfigError:
        return ""


def corpus(given: Given) -> Corpus | None:
    """The card's figures, with documents trained on and held out and tokens where those are known; None without a card."""
    card = given.corpus_card
    if card is None:
        return None
    packed = given.parts["packing"].manifest.counts["parts"] if "packing" in given.parts else None
    tokens = given.parts["tokens"].manifest.counts.get("documents_tokens", {}) if "tokens" in given.parts else None

    def row(lang: str, entry: Mapping[str, Any]) -> CorpusRow:
        split = {name: None if packed is None else _packed(packed, lang, name) for name in ("train", "heldout")}
        count = None if tokens is None else tokens.get(lang, 0) if lang else sum(tokens.values())
        return _row(lang, entry, trained=split["train"], heldout=split["heldout"], tokens=count)

    pairs = card.get("pairs", {"languages": {}})
    samples = {
        kind: {reason: [_sample(sample) for sample in found] for reason, found in by_reason.items()}
        for kind, by_reason in card["samples"].items()
        if by_reason
    }
    return Corpus(
        rows=[row(lang, entry) for lang, entry in card["languages"].items()],
        total=row("", card["all"]),
        pairs=[_row(pair, entry) for pair, entry in pairs["languages"].items()],
        pairs_total=_row("", pairs["all"]) if pairs["languages"] else None,
        samples=samples,
        relabelled=card["relabelled"],
        licences=card["all"]["licences"],
        sources=card["sources"],
    )


def _packed(parts: Mapping[str, Any], lang: str, split: str) -> int:
    """Documents in the training rows of a language, or of all where none is named."""
    return sum(
        entry["documents"] for name, entry in parts.items() if name.rpartition("/")[2] == split and lang in ("", name.rpartition("/")[0])
    )


def _row(lang: str, entry: Mapping[str, Any], **more: Any) -> CorpusRow:
    names = ("kept", "quarantined", "bytes_in", "characters_in", "characters_kept", "duplicate_share", "near_duplicate_share")
    dropped = dict(sorted(entry["dropped"].items(), key=lambda item: (-item[1], item[0])))
    figures: dict[str, Any] = {name: entry[name] for name in names}
    figures |= {name: entry.get(name) for name in ("words_in", "words_kept")}
    return CorpusRow(lang=lang, name=language_name(lang), taken=entry["in"], dropped=dropped, **figures, **more)


def _sample(plain: Mapping[str, Any]) -> Sample:
    texts = [plain[name] for name in TEXTS if name in plain]
    return Sample(plain["lang"], language_name(plain["lang"]), plain["source"], plain["offset"], texts)
