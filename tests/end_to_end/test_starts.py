"""A run goes on from an exported model, of any architecture, while its vocabulary is cut and grown; a start that does not fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from tests.end_to_end import inside, tiny

cli = inside.cli


def exported(folder: Path, name: str) -> Path:
    """The exported directory of a run's storage, as a directory of its own."""
    manifest = tiny.manifests(folder / "storage", name)["export"]["content"]["outputs"]["model"]["files"]
    target = folder / "exported"
    target.mkdir()
    for file, published in manifest.items():
        if file.startswith("model/"):
            shutil.copyfile(folder / "storage" / published["path"], target / file.removeprefix("model/"))
    return target


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["xlm-r", "modernbert"])
def test_a_run_goes_on_from_an_exported_model_while_its_vocabulary_is_cut_and_grown(
    architecture: str, tmp_path: Path, cli: inside.Cli
) -> None:
    first = tiny.make(tmp_path / "first", stages={"pretrain": {"architecture": architecture}})
    done = cli("run", first, "--until", "export")
    assert done.code == 0, done.text
    base = exported(tmp_path / "first", "tiny")
    start = {
        "vocabulary": {"start": {"path": str(base / "tokenizer.json"), "trim": True, "add": 20}},
        "pretrain": {"start": {"path": str(base)}, "steps": 1, "learning_rate": 1e-9},
    }
    second = tiny.make(tmp_path / "second", name="second", languages=["en", "de"], stages=start)
    done = cli("run", second, "--until", "export")
    assert done.code == 0, done.text
    made = tiny.manifests(tmp_path / "second" / "storage", "second")
    rows_file = made["vocabulary"]["content"]["outputs"]["vocabulary"]["files"]["rows.json"]["path"]
    rows = json.loads((tmp_path / "second" / "storage" / rows_file).read_text())["rows"]
    grown = exported(tmp_path / "second", "second")
    old, new = (
        AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).get_input_embeddings().weight.detach()
        for folder in (base, grown)
    )
    assert len(new) == len(rows) != len(old)
    kept = [index for index, row in enumerate(rows) if len(row) == 1]
    assert torch.allclose(new[kept], old[[rows[index][0] for index in kept]], atol=1e-6)
    training = made["pretrain"]["content"]["outputs"]["checkpoint"]["files"]["training.json"]["path"]
    about = json.loads((tmp_path / "second" / "storage" / training).read_text())
    assert (about["model"], about["architecture"]) == ("start", architecture)
    # The same file again does nothing; another model at the same place is seen.
    assert not cli("run", second, "--until", "export").ran()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"note": "another"}))
    assert "pretrain" in cli("plan", second).text


def test_a_start_without_weights_is_refused_before_any_work(tmp_path: Path, cli: inside.Cli) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    file = tiny.make(tmp_path, stages={"pretrain": {"start": {"path": "base"}}})
    done = cli("run", file)
    assert done.code == 3 and "has no *.safetensors; give the directory of a Hugging Face model" in done.text
    assert "ingest" not in done.ran()


@pytest.mark.slow
def test_a_start_of_another_vocabulary_is_refused_with_the_remedy(tmp_path: Path, cli: inside.Cli) -> None:
    done = cli("run", tiny.make(tmp_path / "first"), "--until", "export")
    assert done.code == 0, done.text
    base = exported(tmp_path / "first", "tiny")
    changed = {"vocabulary": {"size": 520}, "pretrain": {"start": {"path": str(base)}}}
    file = tiny.make(tmp_path / "second", languages=["en", "de"], stages=changed)
    done = cli("run", file, "--until", "pretrain")
    assert done.code == 2, done.text
    assert "the model was trained with another vocabulary; set vocabulary.start.path to the tokenizer.json" in done.text
