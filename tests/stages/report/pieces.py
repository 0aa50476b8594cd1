"""Small manifests of every stage, as the real ones are shaped: three languages, one of them lossy, one evaluation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest, SlotContent
from pipeline.stage import Input, Output
from pipeline.storage import Storage, canonical

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" id="same"><defs><path id="same"/></defs></svg>'
HOSTILE = "<script>alert('x')</script>"


def documents(dropped: dict[str, dict[str, int]], taken: dict[str, int], quarantined: int = 0) -> Ledger:
    ledger = Ledger("documents")
    for lang, count in taken.items():
        out = sum(dropped.get(lang, {}).values())
        for reason, number in dropped.get(lang, {}).items():
            ledger.drop(lang, reason, number)
        if lang == "en" and quarantined:
            ledger.quarantine(lang, "bad_utf8", quarantined)
            out += quarantined
        ledger.keep(lang, count - out)
    return ledger


HEADLINE = {
    "languages": 3, "kept_languages": 3, "in": 30, "kept": 22, "dropped": {"empty": 1, "near_duplicate": 2, "too_short": 3}, "quarantined": {"bad_utf8": 2},
}  # fmt: skip


def card() -> dict[str, Any]:
    """The corpus's card of the ledgers below, with one pair of languages and hostile samples."""

    def row(taken: int, kept: int, dropped: dict[str, int], quarantined: int = 0) -> dict[str, Any]:
        return {
            "in": taken, "kept": kept, "dropped": dropped, "quarantined": {"bad_utf8": quarantined} if quarantined else {}, "gained": 0, "lost": 0,
            "bytes_in": 40 * taken, "characters_in": 30 * taken, "words_in": 6 * taken, "characters_kept": 29 * kept, "words_kept": 5 * kept,
            "duplicate_share": 0, "near_duplicate_share": 2500 if "near_duplicate" in dropped else 0, "licences": {"CC0": taken},
        }  # fmt: skip

    pair = {name: value for name, value in row(4, 3, {"length_ratio": 1}).items() if not name.startswith("words")}
    shown = {"id": "00", "lang": "fr", "source": f"{HOSTILE}.txt", "offset": 7, "text": f"{HOSTILE}\x00"}
    both = {"id": "01", "lang": "fr-en", "source": "p.tsv", "offset": 9, "text_a": f"\u202e{HOSTILE}", "text_b": "en"}
    return {
        "all": row(30, 22, HEADLINE["dropped"], 2), "relabelled": {"am": {"ti": 1}},
        "languages": {"am": row(10, 6, {"empty": 1, "too_short": 3}), "en": row(12, 10, {}, 2), "fr": row(8, 6, {"near_duplicate": 2})},
        "pairs": {"all": pair, "languages": {"fr-en": pair}},
        "samples": {"documents": {"near_duplicate": [shown]}, "pairs": {"length_ratio": [both]}},
        "sources": {"0": {"files": 3, "bytes": 4096, "damaged_bytes": 100, "quarantined": {"bad_utf8": 2}}},
    }  # fmt: skip


class Maker:
    """Writes files and evidence to a storage and gives inputs of the report."""

    def __init__(self, root: Path) -> None:
        self.storage = Storage.at(str(root), "test")
        self.storage.prepare()
        self.inputs: dict[str, Input] = {}
        self.objectives = ["mlm", "tlm"]

    def add(
        self, slot: str, stage: str, *, output: str = "", ledgers: dict[str, Ledger] | None = None, counts: dict[str, Any] | None = None,
        files: dict[str, Any] | None = None, evidence: dict[str, bytes] | None = None, warnings: tuple[str, ...] = (),
        settings: dict[str, Any] | None = None, libraries: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        instance = slot.partition(".")[2] or stage
        folder = f"artifacts/{stage}/{instance}"
        published = {name: self.storage.write(f"{folder}/{name}", canonical(value)) for name, value in (files or {}).items()}
        shown = {name: self.storage.write(f"{folder}/evidence/{name}", data) for name, data in (evidence or {}).items()}
        output = output or slot.partition(".")[0]
        record = {
            "run": "r1", "instance": instance, "started": 1.0, "seconds": 2.5, "peak_bytes": 3 << 30, "host": "h", "python": "3.11.7",
            "libraries": libraries or {"pyarrow": "25.0.1"}, "settings": settings or {}, "warnings": list(warnings), "metrics": {},
            "evidence": {name: {"path": p.path, "sha256": p.sha256, "bytes": p.bytes} for name, p in shown.items()},
        }  # fmt: skip
        content = SlotContent(slot.partition(".")[0], (), published)
        plain = {name: ledger.plain() for name, ledger in (ledgers or {}).items()}
        manifest = Manifest(f"{folder}/manifest.json", stage, instance, {output: content}, plain, counts or {}, record)
        self.storage.write_json(manifest.path, manifest.plain())
        self.inputs[slot] = Input(slot, instance, content, manifest, self.storage)

    def corpus(self) -> None:
        """Read, cleaned, chosen: 30 in = 22 kept + 6 dropped + 2 quarantined."""
        self.add(
            "documents", "ingest", ledgers={"documents": documents({"am": {"empty": 1}}, {"am": 10, "en": 12, "fr": 8}, quarantined=2)}
        )
        self.add("cleaned", "clean", output="documents", ledgers={"documents": documents({}, {"am": 9, "en": 10, "fr": 8})})
        held = documents({"am": {"not_drawn": 8}, "en": {"not_drawn": 9}, "fr": {"not_drawn": 7}}, {"am": 9, "en": 10, "fr": 8})
        self.add("heldout", "heldout", ledgers={"documents": held}, counts={"groups": ["10", "2", HOSTILE], "documents": 3})
        chosen = documents({"am": {"too_short": 3}, "fr": {"near_duplicate": 2}}, {"am": 9, "en": 10, "fr": 8})
        self.add(
            "decisions", "dedup", ledgers={"documents": chosen}, counts={"contaminants": 77}, warnings=(f"odd label {HOSTILE}",),
            settings={"rules": [HOSTILE], "length": {"min_words": 3}, "empty": {}},
        )  # fmt: skip

        self.add(
            "card",
            "card",
            counts={"documents": HEADLINE},
            files={"card.json": card()},
            evidence={"lengths.svg": SVG, "confidence.svg": SVG},
        )

    def training(self) -> None:
        """Vocabulary to export."""
        entry = {
            "words": 50, "pieces": 120, "characters": 300, "fertility": 24_000, "characters_per_piece": 25_000, "unknown_share": 1,
            "byte_fallback_share": 39, "pieces_used": 70, "pieces_used_share": 44,
        }  # fmt: skip
        languages = {"am": entry | {"parity": 20_000}, "en": entry | {"parity": 10_000}, "fr": entry}
        card = {"size": 16_000, "pieces_used": 150, "mean": entry, "languages": languages}
        other = {**card, "size": 250_000, "mean": entry | {"characters_per_piece": 33_300}}
        card |= {"longest": ["▁interplanetary", "▁\u202eevil"], "compared": {"xlm-r": other}}
        self.add(
            "vocabulary", "vocabulary", counts={"characters": {"am": 100, "en": 400, "fr": 300}}, files={"card.json": card},
            evidence={"fertility.svg": SVG},
        )  # fmt: skip
        self.add("tokens", "encode", counts={"documents_tokens": {"am": 60, "en": 200, "fr": 140}}, libraries={"pyarrow": "25.0.2"})
        parts = {
            "am/train": {"documents": 5, "rows": 2, "tokens": 50, "filled": 57}, "am/heldout": {"documents": 1, "rows": 1, "tokens": 10, "filled": 12},
            "en/train": {"documents": 9, "rows": 6, "tokens": 180, "filled": 195}, "en/heldout": {"documents": 1, "rows": 1, "tokens": 20, "filled": 22},
            "fr/train": {"documents": 5, "rows": 4, "tokens": 120, "filled": 129}, "fr/heldout": {"documents": 1, "rows": 1, "tokens": 20, "filled": 22},
        }  # fmt: skip
        self.add("packing", "pack", counts={"length": 32, "parts": parts})
        held = {
            "loss": {"am": 8.0, "en": 5.0, "fr": 6.5}, "masked_tokens": {"am": 3, "en": 4, "fr": 5},
            "corpus_unigram": {"am": 9.0, "en": 7.0, "fr": 7.0}, "language_unigram": {"am": 7.5, "en": 6.0, "fr": 7.0},
            "summary": {"loss": 6.5, "corpus_unigram": 7.667, "language_unigram": 6.833},
            "objectives": {"tlm": {"loss": {"am-en": 5.0, "fr-en": 7.0}, "baseline": {"am-en": 6.0, "fr-en": 6.5}}},
        }  # fmt: skip
        curve = [
            {"step": 1, "loss": 9.0, "seconds": 2.0, "tokens": 300.0, "mfu": 0.2}, {"step": 2, "loss": 8.0, "seconds": 1.0, "tokens": 300.0, "mfu": 0.5},
        ]  # fmt: skip
        self.add(
            "checkpoint", "pretrain",
            counts={"heldout": held, "tokens": {"am": 100, "en": 300, "fr": 200}, "training": {"world_size": 2, "precision": "fp32"}},
            files={
                "training.json": {
                    "model": "mini", "parameters": 1_234_567, "objectives": self.objectives, "steps": 2, "length": 32, "planned_tokens": {"am": 80, "en": 300},
                },
            },
            evidence={"curve.json": canonical(curve), "loss.svg": SVG, "throughput.svg": SVG}, warnings=("train longer",),
        )  # fmt: skip
        self.add(
            "models.export",
            "export",
            output="model",
            counts={"lines_verified": 60, "languages_verified": 3},
            files={"model/config.json": {}},
        )

    def task(self, *, seen: bool = True) -> None:
        """A fine-tuning and its evaluation."""
        about = {"labels": ["a", "b"], "steps": 4, "final_loss": 0.5}
        counts = {
            "examples": 20,
            "languages": {"en": 20},
            "labels": ["a", "b"],
            "training": {"baseline": {**about, "final_loss": None}, "model": about},
        }
        self.add("models.finetune", "finetune", output="model", counts=counts, evidence={"loss.svg": SVG})
        figures = scores(seen)
        self.add(
            "scores.evaluate",
            "evaluate",
            files={"scores.json": figures},
            counts={"verdict": figures["verdict"]},
            evidence={"accuracy.svg": SVG},
        )


def scores(seen: bool) -> dict[str, Any]:
    def one(value: int, languages: int = 1) -> dict[str, Any]:
        return {
            "examples": 20 * languages,
            "languages": languages,
            "accuracy": [value, value - 300, value + 300],
            "macro_f1": [value, value - 500, value + 500],
        }

    systems = {}
    for name, value in (("model", 6_000), ("untrained", 4_000), ("majority", 2_500)):
        groups = {"zero_shot": one(value, 2), "trained_on": one(value + 1_000), "all": one(value + 500, 3)}
        systems[name] = {"languages": {lang: one(value) for lang in ("am", "en", "fr")}, "groups": groups}
    return {
        "set": "topics", "split": "test", "task": "classification", "trained_on": ["en"], "text_seen_unlabelled": seen, "labels": 2, "systems": systems,
        "verdict": "The model is better than each baseline.",
    }  # fmt: skip


def surroundings(maker: Maker) -> tuple[Output, Any]:
    """An output folder and what the report uses of a context."""
    from stages.report import OUTPUT

    settings = PipelineConfig.model_validate({"name": "small", "languages": ("en",), "stages": {}})
    output = Output(maker.storage, "artifacts/report/one", OUTPUT)
    return output, SimpleNamespace(settings=settings, storage=maker.storage, instance="report")
