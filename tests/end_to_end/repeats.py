"""A corpus for `ingest`, `clean` and `dedup` in which every phase of theirs has something to do; two languages, some seconds.

    text/<lang>.txt     documents of `tiny`, some of them twice                              texts
    web/<lang>.jsonl    near-copies, equal addresses, lines that stand in several documents,  candidates … verify, urls, lines
                        articles in both languages under one group                            align, pair
    pairs/de-en.tsv     sentence pairs, some of them twice                                    pair_judge, pair_texts, pair_decide

PHASES names them all; a test compares it with what a run leaves below `units/`, so that a phase that is added is not forgotten.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.end_to_end import tiny

STAGES = ("ingest", "clean", "dedup")
PHASES = {
    "ingest": ("read", "align", "pair"),
    "clean": ("documents", "bitext"),
    "dedup": (
        "contaminants", "hash", "overlap", "judge", "urls", "texts", "twins", "candidates", "components", "scatter", "shingles", "verify", "join",
        "lines", "decide",
        "pair_judge", "pair_texts", "pair_decide",
    ),
}  # fmt: skip
"""The phases of each stage, in the order in which they run."""
BORDERS = ("start", "after_file", "before_record", "after_record", "collected")
"""Failpoints of every phase: all but the last are passed by workers, that one by the driver."""
PUBLISH_BORDERS = ("publish.before_sync", "publish.before_rename", "publish.after_rename")
"""Failpoints of every file that is published, by whomever."""
MANIFEST_BORDERS = ("manifest.before", "manifest.after", "state.after")
LANGS = ("en", "de")
MARK = "Quittenschnaps"
"""A word that stands in one document, of which there is no copy, and in one pair; see `tests.end_to_end.poison`."""
MARK_OF_COPY = "Hagebuttentee"
"""A word that stands in one document that is nearly another one."""


def web(lang: str) -> list[dict[str, Any]]:
    """Records of JSON lines."""
    rng = random.Random(f"repeats-{lang}")
    words = [word + ending for word in tiny.WORDS[lang].split() for ending in ("", "n", "st")]

    def text(count: int = 60) -> list[str]:
        return rng.choices(words, k=count)

    shared = " ".join(text(12))  # shorter than the n-grams of decontamination
    made: list[dict[str, Any]] = []
    for number in range(6):
        base = text()
        near = list(base)
        near[7 * number % 60] = MARK_OF_COPY if (lang, number) == ("de", 0) else "anders"
        made += [{"text": " ".join(base)}, {"text": " ".join(near)}]
        made += [{"text": " ".join(text()), "url": f"https://{lang}.example/{number // 2}"}]
        made += [{"text": " ".join(text(40)) + "\n" + shared}]
        made += [{"text": " ".join(text()), "group": f"article {number}"}]
    made.append({"text": f"{' '.join(text(30))} {MARK} {' '.join(text(30))}" if lang == "de" else " ".join(text())})
    return made


def settings() -> dict[str, Any]:
    """The pipeline file as plain data."""
    return {
        "name": "repeats",
        "languages": list(LANGS),
        "storage": "storage",
        "stages": {
            "ingest": {
                "sources": [
                    {"kind": "text", "path": "text/{lang}.txt", "documents": "blank-line"},
                    {"kind": "jsonl", "path": "web/{lang}.jsonl", "group_field": "group", "url_field": "url"},
                    {"kind": "tsv-pairs", "path": "pairs/{lang}-en.tsv", "lang_b": "en"},
                ],
                "unit_bytes": 4096,
                "pivot": "en",
            },
            "clean": {"identify": False},
            "heldout": {"share": 0.1},
            "dedup": {"rules": ["length"], "partitions": 2},
            **dict.fromkeys(("vocabulary", "encode", "pack", "pretrain", "export", "finetune", "evaluate", "report")),
        },
        "cluster": {"workers": 2},
    }


def make(folder: Path, **overrides: Any) -> Path:
    """Write the text and the pipeline file into `folder`; `overrides` are laid over the file's data."""
    for name in ("text", "web", "pairs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for lang in LANGS:
        (folder / "text" / f"{lang}.txt").write_text(tiny.text(lang, 24), encoding="utf-8")
        rows = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in web(lang))
        (folder / "web" / f"{lang}.jsonl").write_text(rows, encoding="utf-8")
    lines = tiny.pairs("de").splitlines()
    marked = f"Der Vater trinkt am Abend {MARK} im Haus.\tAt night father drinks quince brandy at home."
    (folder / "pairs" / "de-en.tsv").write_text("\n".join([*lines[:12], marked, *lines[:4]]) + "\n", encoding="utf-8")
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps(tiny.merged(settings(), overrides), indent=1, ensure_ascii=False), encoding="utf-8")
    return file


def phases_of(storage: Path) -> dict[str, set[str]]:
    """The phases of each stage that left units."""
    return {stage: {path.name for path in (storage / "units" / stage).iterdir()} for stage in STAGES}


def digests(storage: Path) -> dict[str, dict[str, str]]:
    """As `tiny.exact_digests`, for this corpus."""
    return tiny.exact_digests(storage, "repeats")


def units(storage: Path) -> dict[str, bytes]:
    """All files of all units."""
    top = storage / "units"
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}
