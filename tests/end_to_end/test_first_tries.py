"""What goes wrong at a first try: languages nobody has text of, records without a language, contradictions, Ctrl-C while something starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline import runner
from pipeline.cluster import Cluster
from pipeline.errors import InterruptedRunError
from tests.end_to_end import inside

cli = inside.cli

TEXT = "All human beings are born free and equal in dignity and rights, paragraph {}.\n\n"


def make(folder: Path, sources: list[dict[str, Any]], **more: Any) -> Path:
    (folder / "en.txt").write_text("".join(TEXT.format(number) for number in range(8)))
    file = folder / "pipeline.yaml"
    stages = {"ingest": {"sources": sources}, "heldout": None, "examples": None}
    file.write_text(json.dumps({"name": "first", "languages": ["en", "sw"], "storage": "storage", "stages": stages, **more}))
    return file


def test_a_language_without_text_and_records_without_a_language_are_warned_of(tmp_path: Path, cli: inside.Cli) -> None:
    (tmp_path / "crawl.jsonl").write_text("".join(json.dumps({"text": TEXT.format(n), "lang": "sw"}) + "\n" for n in range(3)))
    sources = [{"kind": "text", "path": "{lang}.txt", "documents": "blank-line"}, {"kind": "jsonl", "path": "crawl.jsonl"}]
    outcome = cli("run", make(tmp_path, sources), "--until", "ingest")
    assert outcome.code == 0, outcome.text
    assert "no text of sw in any source" in outcome.err
    assert "3 documents say no language and stand under und" in outcome.err and "lang_field" in outcome.err
    sources[1]["lang_field"] = "lang"
    outcome = cli("run", make(tmp_path, sources), "--until", "ingest")
    assert outcome.code == 0 and "in any source" not in outcome.err and "und" not in outcome.err.split(), outcome.text


def test_a_source_of_which_nothing_could_be_read_counts_whole(tmp_path: Path, cli: inside.Cli) -> None:
    file = make(tmp_path, [{"kind": "text", "path": "{lang}.txt"}, {"kind": "tmx", "path": "en.txt"}])
    outcome = cli("run", file, "--until", "ingest")
    assert outcome.code == 4 and "100.00% of its bytes" in outcome.text, outcome.text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lang": "sw"}, "both say the language; give one"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_source_that_contradicts_itself_is_one_error_at_its_place(
    tmp_path: Path, cli: inside.Cli, change: dict[str, Any], told: str
) -> None:
    outcome = cli("plan", make(tmp_path, [{"kind": "text", "path": "{lang}.txt", **change}]))
    assert outcome.code == 2 and told in outcome.text, outcome.text
    assert "at least 1 item" not in outcome.text


def test_a_model_of_no_known_size_and_stages_in_the_wrong_order_are_refused_before_work(tmp_path: Path, cli: inside.Cli) -> None:
    file = make(tmp_path, [{"kind": "text", "path": "{lang}.txt"}])
    outcome = cli("plan", file, "stages.pretrain.model=xlm-r-huge")
    assert outcome.code == 2 and 'unknown size "xlm-r-huge"'.replace('"', "'") in outcome.text, outcome.text
    outcome = cli("plan", file, "stages.pretrain.objectives={mml: 1}")
    assert outcome.code == 2 and 'did you mean "mlm"' in outcome.text, outcome.text
    outcome = cli("run", file, "--from", "dedup", "--until", "clean")
    assert outcome.code == 2, outcome.text
    assert not (tmp_path / "storage" / "artifacts").exists()


def test_ctrl_c_that_a_library_swallows_while_ray_starts_still_ends_the_run(
    tmp_path: Path, cli: inside.Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Cluster.open

    def swallowing(*arguments: Any, **options: Any) -> Cluster:
        with contextlib.suppress(InterruptedRunError):  # as `except Exception` of a library does
            os.kill(os.getpid(), signal.SIGINT)
        return opened(*arguments, **options)

    monkeypatch.setattr(runner.Cluster, "open", swallowing)
    outcome = cli("run", make(tmp_path, [{"kind": "text", "path": "{lang}.txt"}]), "--until", "ingest")
    assert outcome.code == 130, outcome.text
    monkeypatch.undo()
    outcome = cli("run", tmp_path / "pipeline.yaml", "--until", "ingest")
    assert outcome.code == 0, outcome.text
