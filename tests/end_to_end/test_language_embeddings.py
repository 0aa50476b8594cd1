"""A run of XLM with language embeddings, from text and pairs to zero-shot scores: each stage tells the model what language it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from tests.end_to_end import inside, tiny
from tests.end_to_end.test_starts import exported

cli = inside.cli


@pytest.mark.slow
def test_a_model_with_language_embeddings_is_trained_exported_fine_tuned_scored_and_gone_on_from(tmp_path: Path, cli: inside.Cli) -> None:
    labelled = {"train": "examples/{lang}-train.tsv", "test": "examples/{lang}.tsv", "decontaminate": False}
    stages = {
        "heldout": {"share": 0.4},
        "examples": {"sets": {"parts": labelled}},
        "pretrain": {"architecture": "xlm", "language_embeddings": True, "objectives": {"mlm": 1.0, "tlm": 1.0, "nsp": 1.0, "contrast": 1.0}, "steps": 8},
        "finetune": {"examples": "parts", "epochs": 1, "global_batch": 4},
        "evaluate": {"examples": "parts"},
    }  # fmt: skip
    file = tiny.make(tmp_path / "first", stages=stages)
    (tmp_path / "first" / "examples").mkdir()
    for lang, words in tiny.WORDS.items():
        lines = [f"{word}\t{'odd' if number % 2 else 'even'}" for number, word in enumerate(words.split()[:12])]
        (tmp_path / "first" / "examples" / f"{lang}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
        if lang == "en":
            (tmp_path / "first" / "examples" / "en-train.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    done = cli("run", file)
    assert done.code == 0, done.text
    made = tiny.manifests(tmp_path / "first" / "storage", "tiny")
    assert set(made["pretrain"]["content"]["counts"]["heldout"]["objectives"]) == {"tlm", "nsp", "contrast"}
    assert made["evaluate"]["content"]["counts"]["examples"] == 12 * len(tiny.WORDS)
    base = exported(tmp_path / "first", "tiny")
    model = AutoModelForMaskedLM.from_pretrained(base, local_files_only=True)
    assert model.config.lang2id == {lang: number for number, lang in enumerate(sorted(tiny.WORDS))}
    assert len(dict(model.named_parameters())["transformer.lang_embeddings.weight"]) == len(tiny.WORDS)

    def going_on(name: str, **changes: object) -> Path:
        start = {
            "vocabulary": {"start": {"path": str(base / "tokenizer.json")}},
            "pretrain": {"start": {"path": str(base)}, "steps": 1, **changes},
        }
        return tiny.make(tmp_path / name, name=name, languages=["en", "de"], stages=start)

    done = cli("run", going_on("second", language_embeddings=True), "--until", "pretrain")
    assert done.code == 0, done.text
    done = cli("run", going_on("third", max_restarts=0), "--until", "pretrain")
    assert done.code and "the model has language embeddings; set language_embeddings: true" in done.text
    assert json.loads((base / "config.json").read_text())["use_lang_emb"] is True
