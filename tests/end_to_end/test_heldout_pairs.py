"""Translation pairs are held out too: drawn once, kept out of vocabulary and training, packed apart."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage import Storage
from pipeline.tables import rows
from tests.end_to_end import inside, tiny

cli = inside.cli
PAIRS = ("de-en", "hi-en", "ru-en")


def test_held_out_pairs_are_encoded_and_packed_apart_and_teach_nothing(tmp_path: Path, cli: inside.Cli) -> None:
    file = tiny.make(tmp_path)
    done = cli("run", file, "--until", "pack")
    assert done.code == 0, done.text
    made = {name: each["content"] for name, each in tiny.manifests(tmp_path / "storage").items()}
    storage = Storage.at(str(tmp_path / "storage"))

    def table(stage: str, slot: str) -> list[dict]:
        return [row for shard in made[stage]["outputs"][slot]["shards"] for row in rows(storage.local(shard["path"], shard["sha256"]))]

    held = {row["id"]: row for row in table("heldout", "heldout") if row["task"] == "pair"}
    assert 2 <= len(held) <= 15  # of 60 at a tenth
    assert {row["lang"] for row in held.values()} <= set(PAIRS) and all(row["text_pair"] for row in held.values())
    account = made["heldout"]["ledgers"]["pairs"]["languages"]
    assert sum(account[name]["in"] for name in PAIRS) == 60 and sum(account[name]["kept"] for name in PAIRS) == len(held)
    decided = table("dedup", "pair_decisions")
    kept = {row["id"].hex() for row in decided if row["keep"] and row["split"] == "heldout"}
    assert kept and kept <= set(held) and {row["id"].hex() for row in decided if row["split"] == "heldout"} == set(held)
    words = made["vocabulary"]["ledgers"]["rows"]["languages"]
    assert sum(words[name]["dropped"].get("held_out", 0) for name in PAIRS) == len(kept)
    encoded = table("encode", "pair_tokens")
    assert {row["id"].hex() for row in encoded if row["split"] == "heldout"} == kept
    parts = made["pack"]["counts"]["pair_parts"]
    assert sum(parts[name]["documents"] for name in parts if name.endswith("/heldout")) == len(kept)
    assert sum(parts[name]["documents"] for name in parts) == sum(row["keep"] for row in decided)
