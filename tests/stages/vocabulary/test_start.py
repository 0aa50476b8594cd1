"""A vocabulary that begins as another: the whole stage, on Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.text.normalise import normalise
from pipeline.text.tokenizer import Tokenizer
from tests.end_to_end import inside, tiny

cli = inside.cli
UNTIL = ("--until", "vocabulary")


def vocabulary(file: Path) -> dict[str, Path]:
    storage = file.parent / "storage"
    files = tiny.manifests(storage)["vocabulary"]["content"]["outputs"]["vocabulary"]["files"]
    return {name: storage / entry["path"] for name, entry in files.items()}


def test_a_vocabulary_is_trimmed_to_a_corpus_grown_by_it_and_its_rows_are_told(tmp_path: Path, cli: inside.Cli) -> None:
    first = tiny.make(tmp_path / "first", stages={"vocabulary": {"language_tokens": True}})
    assert cli("run", first, *UNTIL).code == 0
    made = vocabulary(first)
    old = Tokenizer(made["vocabulary.model"].read_bytes())
    assert list(old.language_ids) == ["de", "en", "hi", "ru"] and "rows.json" not in made
    start = {"path": str(made["vocabulary.model"]), "trim": True, "add": 20}
    both = {"start": start, "language_tokens": True, "compare": {"first": start["path"]}}
    second = tiny.make(tmp_path / "second", languages=["de", "en"], stages={"vocabulary": both})
    done = cli("run", second, *UNTIL)
    assert done.code == 0, done.text
    files = vocabulary(second)
    new, told = Tokenizer(files["vocabulary.model"].read_bytes()), json.loads(files["rows.json"].read_text())
    assert new.size < old.size and list(new.language_ids) == ["de", "en"]
    assert told["size_before"] == old.size - 1 and len(told["rows"]) == new.size  # <mask> lies outside the model that was given
    assert (
        told["rows"][:4] == [[0], [1], [2], [3]]
        and told["rows"][-1] == []
        and told["rows"][new.language_ids["de"]] == [old.language_ids["de"]]
    )
    card = json.loads(files["card.json"].read_text())
    assert set(card["languages"]) == {"de", "en"} and card["mean"]["unknown_share"] == 0
    compared = card["compared"]
    assert set(compared) == {"before", "first"}
    assert compared["before"]["mean"] == compared["first"]["mean"]
    assert compared["first"]["mean"]["words"] == card["mean"]["words"]
    shown = cli("show", second, "vocabulary", "compared").out
    ratio = compared["first"]["languages"]["de"]["characters_per_piece"] / 10_000
    assert "first" in shown and f"{ratio:.4f}" in shown
    # Without growth the text has the pieces that it had.
    assert cli("run", second, *UNTIL, "stages.vocabulary.start.add=0").code == 0
    cut = Tokenizer(vocabulary(second)["vocabulary.model"].read_bytes())
    names, before = cut.pieces(), old.pieces()
    lines = [normalise(line) for lang in ("de", "en") for line in tiny.text(lang).split("\n")]
    assert [[names[i] for i in ids] for ids in cut.encode(lines)] == [[before[i] for i in ids] for ids in old.encode(lines)]
    assert cli("run", second, *UNTIL, "stages.vocabulary.start.add=0").out.startswith("tiny: up to date")


@pytest.mark.slow
def test_a_unigram_vocabulary_is_the_same_for_any_number_of_workers_and_order(tmp_path: Path) -> None:
    digests = []
    for name, workers, env in (("two", 2, {}), ("one", 1, {"PIPELINE_UNIT_ORDER": "shuffle:3", "PYTHONHASHSEED": "77"})):
        file = tiny.make(
            tmp_path / name, stages={"vocabulary": {"model": "unigram", "size": 500, "sample_words": 20_000, "sampling": "unimax"}}
        )
        done = tiny.run(file, *UNTIL, f"cluster.workers={workers}", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(tiny.exact_digests(file.parent / "storage")["vocabulary"])
    assert digests[0] == digests[1]
