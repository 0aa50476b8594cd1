"""Status and show, on a small pipeline whose artifacts are written by hand: documents → vocabulary → tokens → packing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from pipeline import condition, dag, inspection, lease
from pipeline import manifest as manifests
from pipeline.artifacts import DOCUMENTS, PACKING, TOKENS, VOCABULARY
from pipeline.artifacts import documents as documents_artifact
from pipeline.artifacts import packing as packing_artifact
from pipeline.artifacts import tokens as tokens_artifact
from pipeline.config import Section
from pipeline.errors import ConfigError, IntegrityError, MissingSourceError
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest, Shard, SlotContent, State
from pipeline.sources import Source
from pipeline.stage import Grade, Slot
from pipeline.storage import Published, digest
from pipeline.tables import write_table
from pipeline.text.tokenizer import Tokenizer, train

HORRIBLE = "good \x1b[31mred\x1b[0m\x07 \u202eover\u2028ride \x9b2J <b>tag</b>\nsecond line"
TEXTS = {"en": ["the cat sat on the mat", "a dog ran to the cat", HORRIBLE], "de": ["die katze sass auf der matte " * 40]}


class _Config(Section):
    length: int = 16
    """A setting."""


def _stage(name: str, inputs: Mapping[str, Slot], output: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(f"inspected_{name}")
    contents = {
        "Config": _Config, "VERSION": 1, "LIBRARIES": (), "GRADE": Grade.EXACT, "INPUTS": inputs, "OUTPUT": output, "run": lambda *_: None,
    }  # fmt: skip
    for key, value in contents.items():
        setattr(module, key, value)
    return module


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    modules = {
        "docs": _stage("docs", {}, {"documents": DOCUMENTS}),
        "words": _stage("words", {"documents": Slot(DOCUMENTS, "docs")}, {"vocabulary": VOCABULARY}),
        "encode": _stage("encode", {"documents": Slot(DOCUMENTS, "docs"), "vocabulary": Slot(VOCABULARY, "words")}, {"tokens": TOKENS}),
        "pack": _stage("pack", {"tokens": Slot(TOKENS, "encode")}, {"packing": PACKING}),
    }
    for module in modules.values():
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return {name: module.__name__ for name, module in modules.items()}


@pytest.fixture
def graph(tmp_path: Path, registry: dict[str, str]) -> dag.Graph:
    """The pipeline, everything in it done."""
    file = tmp_path / "p.yaml"
    file.write_text(f"name: tiny\nlanguages: [en, de]\nstorage: {tmp_path / 'store'}\nstages: {{docs: {{}}}}\n")
    graph = dag.load(file, (), registry)
    tokenizer = Tokenizer(_model())
    _remember(
        graph, "docs", {"documents": SlotContent("documents", tuple(_documents(graph)))}, ledgers={"rows": _ledger().plain()}, evidence=True
    )
    files = {"vocabulary.model": graph.storage.write("artifacts/words/k/vocabulary/vocabulary.model", _model())}
    card = {"size": tokenizer.size, "languages": {"en": {"fertility": 15000, "words": 12}, "de": {"fertility": 20000, "words": 7}}}
    files["card.json"] = graph.storage.write_json("artifacts/words/k/vocabulary/card.json", card)
    _remember(graph, "words", {"vocabulary": SlotContent("vocabulary", (), files)})
    shard = _tokens(graph, tokenizer)
    _remember(graph, "encode", {"tokens": SlotContent("tokens", (shard,))})
    _remember(graph, "pack", {"packing": SlotContent("packing", (_packing(graph, shard),))})
    return graph


def _model() -> bytes:
    counts = {f"▁{word}": 5 for texts in TEXTS.values() for text in texts for word in text.split() if word.isalpha()}
    return train(counts, size=320)


def _shard(graph: dag.Graph, name: str, schema: Any, rows: list[dict[str, Any]]) -> Shard:
    temporary = graph.storage.temporary()
    with write_table(temporary, schema) as table:
        for row in rows:
            table.row(row)
    key = digest(name)
    published = graph.storage.publish(temporary, f"units/{name}/map/{key[:2]}/{key}.{name}.arrow")
    return Shard(key, published.path, published.sha256, published.bytes, len(rows))


def _documents(graph: dag.Graph) -> list[Shard]:
    shards = []
    for lang, texts in TEXTS.items():
        rows = [
            {"id": bytes([n]) * 16, "lang": lang, "text": text, "source": f"{lang}.txt", "offset": n, "licence": "CC0"}
            for n, text in enumerate(texts)
        ]
        shards.append(_shard(graph, f"docs-{lang}", documents_artifact.schema(), rows))
    return shards


def _tokens(graph: dag.Graph, tokenizer: Tokenizer) -> Shard:
    rows = []
    for number, (lang, text) in enumerate([(lang, text) for lang, texts in TEXTS.items() for text in texts[:2]]):
        ids = tokenizer.encode([text])[0].tolist()
        rows.append({"id": bytes([number]) * 16, "lang": lang, "split": "train", "ids": ids, "sentences": [len(ids)], "side_a": len(ids)})
    return _shard(graph, "tokens", tokens_artifact.schema(tokenizer.size), rows)


def _packing(graph: dag.Graph, tokens: Shard) -> Shard:
    first, second = (len(Tokenizer(_model()).encode([text])[0]) for text in TEXTS["en"][:2])
    spans = [{"shard": 0, "start": 0, "length": first}, {"shard": 0, "start": first, "length": second}]
    about = {"lang": "en", "split": "train", "length": 16, "token_shards": [tokens.sha256]}
    return _shard(graph, "packing", packing_artifact.schema().with_metadata({"packing": json.dumps(about)}), [{"spans": spans}])


def _ledger() -> Ledger:
    ledger = Ledger("documents")
    ledger.keep("en", 3)
    ledger.drop("en", "too_short", 2)
    ledger.quarantine("en", "encoding")
    ledger.keep("de")
    ledger.relabel("en", "de", 1)
    return ledger


def _remember(graph: dag.Graph, name: str, outputs: dict[str, SlotContent], *, ledgers: Any = None, evidence: bool = False) -> Manifest:
    """Write the manifest of an instance and file it in the state as the plan would have it."""
    key = digest(name)
    record: dict[str, Any] = {"run": "r1", "started": 0.0, "seconds": 1.5}
    if evidence:
        kept = graph.storage.write_json(
            f"artifacts/{name}/{key}/evidence/profile.json", {"kinds": [{"lang": "en", "lines": 3}, {"lang": "de", "lines": 1}]}
        )
        record["evidence"] = {"profile.json": vars(kept)}
    made = Manifest(manifests.manifest_path(name, key), name, key, outputs, ledgers or {}, {"rows": 4}, record)
    graph.storage.write_json(made.path, made.plain())
    state = State.load(graph.storage, graph.settings.name)
    planned = {item.instance.name: item for item in dag.plan(graph)}[name]
    state.instances[name] = {
        "recipe": dict(planned.recipe), "recipe_key": planned.recipe_key, "manifest": made.path, "key": key, "digests": made.digests(),
        "seconds": 1.5, "run": "r1",
    }  # fmt: skip
    state.save(graph.storage)
    return made


def _states(graph: dag.Graph, *, verify: bool = False) -> dict[str, str]:
    return {row["stage"]: row["state"] for row in condition.status(graph, verify=verify)["stages"]}


def _show(graph: dag.Graph, stage: str, part: str | None = None, lang: str | None = None, rows: int = 5) -> str:
    return "\n".join(inspection.show(graph, stage, part, lang, rows))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


# status


def test_status_names_state_path_digest_and_seconds_of_each_stage(graph: dag.Graph) -> None:
    found = condition.status(graph, verify=False)
    assert [row["stage"] for row in found["stages"]] == ["docs", "words", "encode", "pack"]
    row = found["stages"][0]
    made = manifests.load(graph.storage, manifests.manifest_path("docs", digest("docs")))
    assert made is not None
    assert (row["state"], row["seconds"], row["run"], row["key"]) == ("done", 1.5, "r1", digest("docs"))
    assert row["digest"] == made.outputs["documents"].identity()
    assert Path(row["path"]).is_absolute()
    assert (Path(row["path"]) / "manifest.json").is_file()
    assert (found["holder"], found["damaged"]) == (None, [])
    json.dumps(found)


def test_status_of_a_new_pipeline_says_never_run(tmp_path: Path, registry: dict[str, str]) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"name: fresh\nstorage: {tmp_path / 'store'}\nstages: {{}}\n")
    rows = condition.status(dag.load(file, (), registry), verify=True)["stages"]
    assert {(row["state"], row["path"], row["digest"], row["seconds"]) for row in rows} == {("never run", None, None, None)}


def test_a_changed_setting_makes_its_stage_and_those_after_it_stale(graph: dag.Graph, registry: dict[str, str]) -> None:
    changed = dag.load(graph.path, ("stages.words.length=17",), registry)
    assert _states(changed) == {"docs": "done", "words": "stale", "encode": "stale", "pack": "stale"}
    row = next(row for row in condition.status(changed, verify=False)["stages"] if row["stage"] == "words")
    assert row["reasons"] == ["settings.length: 16 → 17"]


def test_a_file_cut_short_is_seen_without_verify_and_a_flipped_bit_only_with_it(graph: dag.Graph) -> None:
    shards = _documents(graph)
    path = Path(graph.storage.root) / shards[0].path
    graph.storage.local(shards[0].path, shards[0].sha256)  # this process has verified it: verify must look again
    _flip(path)
    assert _states(graph)["docs"] == "done"
    found = condition.status(graph, verify=True)
    assert found["damaged"] == [str(path)]
    assert {row["stage"]: row["state"] for row in found["stages"]}["docs"] == "damaged"
    path.write_bytes(path.read_bytes()[:-1])
    assert _states(graph)["docs"] == "damaged"


def test_a_damaged_manifest_is_named(graph: dag.Graph) -> None:
    path = Path(graph.storage.root) / manifests.manifest_path("words", digest("words"))
    path.write_text(path.read_text().replace('"rows":4', '"rows":5'))
    assert _states(graph)["words"] == "damaged"
    assert str(path) in condition.status(graph, verify=True)["damaged"]


def test_a_source_that_is_gone_leaves_the_rest_of_the_status_to_be_seen(
    graph: dag.Graph, registry: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> list[Source]:
        raise MissingSourceError("source /corpus/en.txt: no such file")

    monkeypatch.setattr(sys.modules[registry["words"]], "list_inputs", gone, raising=False)
    found = condition.status(graph, verify=False)
    assert {row["stage"]: row["state"] for row in found["stages"]} == {
        "docs": "done",
        "words": "no source",
        "encode": "no source",
        "pack": "no source",
    }
    assert found["stages"][1]["reasons"] == ["source /corpus/en.txt: no such file"]


def test_the_holder_of_the_lease_is_named_while_it_lives(graph: dag.Graph) -> None:
    with lease.hold(graph.storage, "pipelines/tiny/lease.json", "run-7"):
        holder = condition.status(graph, verify=False)["holder"]
        assert holder is not None
        assert holder.startswith(f"run run-7 (pid {os.getpid()} on ")
    assert condition.status(graph, verify=False)["holder"] is None
    dead = {**lease.identity(), "started": "1", "run": "run-8", "since": "?"}
    graph.storage.write_json("pipelines/tiny/lease.json", dead)
    assert condition.status(graph, verify=False)["holder"] is None


def test_status_loads_no_heavy_library() -> None:
    script = (
        "import sys; from pipeline import condition, dag; from pathlib import Path\n"
        "import tempfile; d = Path(tempfile.mkdtemp()); f = d / 'p.yaml'\n"
        "f.write_text(f'name: a\\nstorage: {d}/s\\nstages: {{}}\\n')\n"
        "condition.status(dag.load(f, (), {}), verify=False)\n"
        "print([m for m in ('pyarrow', 'ray', 'mlflow', 'torch', 'deepspeed', 'sentencepiece', 'fsspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.strip() == "[]"


# show


def test_documents_are_shown_with_text_shortened_and_nothing_that_a_terminal_obeys(graph: dag.Graph) -> None:
    text = _show(graph, "docs", "documents")
    assert "documents: 4 rows in 2 shards" in text
    assert "text: the cat sat on the mat" in text
    assert "\\x1b[31mred\\x1b[0m\\x07 \\u202eover\\u2028ride \\x9b2J <b>tag</b>\\nsecond line" in text
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\u2028"} & set(text)
    long = next(line for line in text.splitlines() if "die katze" in line)
    assert long.endswith("…")
    assert len(long) <= inspection.TEXT_CHARACTERS + len("    text: ")


def test_rows_and_language_limit_what_is_shown(graph: dag.Graph) -> None:
    assert _show(graph, "docs", "documents", rows=1).count("text: ") == 1
    german = _show(graph, "docs", "documents", lang="de")
    assert "die katze" in german
    assert "lang=en" not in german
    assert _show(graph, "docs", "documents", lang="fr").endswith("no row in fr")
    with pytest.raises(ConfigError, match="at least 1"):
        _show(graph, "docs", rows=0)


def test_a_packed_row_is_decoded_with_the_vocabulary_of_the_run(graph: dag.Graph) -> None:
    text = _show(graph, "pack", "packing")
    line = next(line for line in text.splitlines() if line.startswith("[0]"))
    assert line.endswith("tokens: <s> the cat sat on the mat </s> a dog ran to the cat </s>")
    lengths = [len(Tokenizer(_model()).encode([each])[0]) for each in TEXTS["en"][:2]]
    assert line.startswith(f"[0] {sum(lengths) + 3} tokens")
    assert _show(graph, "pack", "packing", lang="de") == "no row in de"


def test_tokens_are_shown_with_their_text(graph: dag.Graph) -> None:
    assert "text: a dog ran to the cat" in _show(graph, "encode", "tokens")


def test_the_vocabulary_shows_pieces_and_its_card_as_a_table(graph: dag.Graph) -> None:
    pieces = _show(graph, "words", "pieces", rows=100)
    assert pieces.startswith("320 ids\n0 <s>  1 <pad>  2 </s>  3 <unk>")
    assert pieces.endswith("319 <mask>")
    card = _show(graph, "words", "card")
    assert [line.split() for line in card.splitlines()] == [
        ["size:", "320"], ["languages:"], ["fertility", "words"], ["de", "2.0000", "7"], ["en", "1.5000", "12"],
    ]  # fmt: skip
    assert "de" not in _show(graph, "words", "card", lang="en")
    assert _show(graph, "words", "card.json") == card


def test_a_ledger_is_a_table_by_language_whose_sums_are_those_counted(graph: dag.Graph) -> None:
    lines = [line.split() for line in _show(graph, "docs", "ledger").splitlines()]
    assert lines[2] == ["de", "1", "1", "0", "0"]
    assert lines[3] == ["en", "6", "3", "2", "1", "too_short", "2,", "encoding", "1"]
    assert lines[4] == ["all", "7", "4", "2", "1"]
    assert lines[5] == ["relabelled", "en", "→", "de", "1"]


def test_files_and_evidence_are_listed_and_shown(graph: dag.Graph) -> None:
    files = _show(graph, "docs", "files")
    assert "3 files" in files
    assert "evidence/profile.json" in files
    profile = _show(graph, "docs", "profile", lang="de")
    assert profile.splitlines()[0] == "kinds: 1"
    assert profile.splitlines()[-1].split() == ["0", "de", "1"]


def test_the_overview_holds_every_part(graph: dag.Graph) -> None:
    text = _show(graph, "docs")
    assert "parts: documents, profile, ledger, counts, files" in text
    assert all(f"== {part}" in text for part in ("documents", "profile", "ledger", "counts", "files"))


def test_unknown_parts_and_stages_and_those_never_run_are_config_errors_that_name_what_there_is(graph: dag.Graph) -> None:
    with pytest.raises(ConfigError, match="docs has no part 'pieces'; it has documents, profile, ledger, counts, files"):
        inspection.show(graph, "docs", "pieces", None, 5)
    with pytest.raises(ConfigError, match="did you mean words"):
        inspection.show(graph, "wrds", None, None, 5)
    graph.storage.remove("pipelines/tiny/state.json")
    with pytest.raises(ConfigError, match="never run"):
        inspection.show(graph, "docs", None, None, 5)


def test_a_damaged_shard_is_not_shown(graph: dag.Graph) -> None:
    _flip(Path(graph.storage.root) / _documents(graph)[0].path)
    with pytest.raises(IntegrityError, match="damaged"):
        _show(graph, "docs", "documents")


@pytest.mark.parametrize("text", ["", "a" * 500, "\x00\x1b\x7f\x85\u200f\ud800\U000e0001", "க்‍ष नि می‌خواهم"])
def test_clean_text_is_one_harmless_line_no_longer_than_asked_before_escapes(text: str) -> None:
    shown = inspection.clean_text(text, 50)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown.splitlines()) <= 1
    assert all(character.isprintable() or character in "\u200c\u200d" for character in shown)
    if text.startswith("a"):
        assert shown == "a" * 49 + "…"


def test_published_is_hashable_so_that_each_file_is_read_once() -> None:
    assert len({Published("a", "b", 1), Published("a", "b", 1)}) == 1


def test_pyarrow_ids_of_a_shard_are_flat(graph: dag.Graph) -> None:
    made = manifests.load(graph.storage, manifests.manifest_path("encode", digest("encode")))
    assert made is not None
    shard = made.outputs["tokens"].shards[0]
    flat = inspection._flat_ids(graph.storage, {shard.sha256: shard}, shard.sha256, "pack")
    assert isinstance(flat, pa.Array)
    assert flat.type == pa.uint16()
    with pytest.raises(IntegrityError, match="no longer there"):
        inspection._flat_ids(graph.storage, {}, shard.sha256, "pack")
