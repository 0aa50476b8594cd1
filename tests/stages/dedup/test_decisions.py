"""Decisions without Ray: what is redone when a bound changes, who stays of duplicates, short texts, paragraphs, rejects, quarantined records."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.tables import rows, utf8
from pipeline.text import minhash, shingles
from stages.dedup import near
from stages.dedup.work import partitions_for
from tests.stages.dedup.inside import Run, Stage

DRAW = random.Random(5)
VOCABULARY = ["".join(DRAW.choices("abcdefghijklmnoprstu", k=DRAW.randint(3, 8))) for _ in range(2_000)]
TEXT_PHASES = {"hash", "overlap", "shingles", "rejects"}


def words(count: int, seed: object) -> list[str]:
    return random.Random(str(seed)).choices(VOCABULARY, k=count)


def edited(text: list[str], places: int, seed: object) -> list[str]:
    draw = random.Random(str(seed))
    copy = list(text)
    for place in draw.sample(range(len(copy)), places):
        copy[place] = draw.choice(VOCABULARY)
    return copy


def record(name: str, text: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "text": text, **more}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "storage")


def corpus(seed: int, size: int) -> list[dict[str, Any]]:
    """Originals with copies, near-copies, shared lines and shared addresses, from sources of two ranks."""
    draw = random.Random(seed)
    made = []
    for n in range(size):
        base = words(80, f"{seed} {n}")
        made.append(record(f"{n}", " ".join(base), source=draw.choice(["wiki-a", "web-b"]), url=f"https://{draw.randrange(3 * size)}/"))
        for copy in range(draw.choice([0, 0, 1, 3])):
            text = base if draw.random() < 0.4 else edited(base, 1, f"{n} {copy}")
            shared = "\n" + " ".join(words(12, f"line {draw.randrange(3)}")) if draw.random() < 0.5 else ""
            made.append(record(f"{n}.{copy}", " ".join(text) + shared, source=draw.choice(["wiki-a", "web-b"])))
    draw.shuffle(made)
    return made


def test_a_changed_bound_reads_no_text_again(stage: Stage) -> None:
    records = corpus(1, 30)
    shards = [stage.shard(records[:25]), stage.shard(records[25:])]
    evaluation = [stage.examples([{"text": " ".join(words(40, "held"))}])]
    first = stage.run(shards, evaluation=evaluation)
    assert {phase: first.worked[phase] for phase in ("hash", "overlap", "shingles", "judge", "decide")} == dict.fromkeys(
        ("hash", "overlap", "shingles", "judge", "decide"), 2
    )
    assert not stage.run(shards, evaluation=evaluation).worked
    for settings in (
        {"length": {"min_words": 82}},
        {"length": {"languages": {"en": {"min_words": 81}}}},
        {"near": {"min_similarity": 0.9}},
        {"priority": ("web-*",)},
        {"derive": {"min_documents": 5, "bounds": {"length.min_words": {"quantile": 0.95, "ceiling": 1000.0}}}},
    ):
        again = stage.run(shards, settings, evaluation)
        assert again.worked and not TEXT_PHASES & again.worked.keys(), settings
        assert again.rows != first.rows, settings


def test_the_same_stays_whatever_the_order_of_the_shards_and_the_number_of_partitions(stage: Stage) -> None:
    records = corpus(2, 24)
    parts = [records[:10], records[10:30], records[30:]]
    settings = {"priority": ("wiki-*",), "partitions": 1, "paragraphs": {}}
    one = stage.run([stage.shard(part) for part in parts], settings)
    other = stage.run([stage.shard(part) for part in reversed(parts)], {**settings, "partitions": 5})
    assert one.rows == other.rows
    reasons = set(one.reasons().values())
    assert reasons >= {"duplicate", "near_duplicate", "duplicate_url"} and any(row["dropped_lines"] for row in one.rows.values())


@pytest.mark.parametrize("partitions", [1, 4])
def test_of_equal_files_under_two_names_one_stays_though_their_documents_have_equal_ids(stage: Stage, partitions: int) -> None:
    texts = [" ".join(words(60, f"equal {n}")) + "\n" + " ".join(words(20, "a line of both")) for n in range(4)]
    first, second = (
        [{"name": f"{name} {n}", "id": f"equal {n}", "text": text, "source": name} for n, text in enumerate(texts)] for name in ("a", "b")
    )
    alone = stage.run([stage.shard(first)], {"partitions": partitions})
    for one, other in ((first, second), (second, first)):
        found = stage.run([stage.shard(one), stage.shard(other)], {"partitions": partitions})
        ledger = found.summary.ledgers["documents"]
        assert (ledger.taken, ledger.kept, ledger.dropped) == (8, 4, {"duplicate": 4})
        assert found.reasons() == {each["name"]: "duplicate" for each in other}  # the file that comes first in the listing stays
        for n, (mine, its) in enumerate(zip(one, other, strict=True)):
            kept, lost = found.rows[mine["name"]], found.rows[its["name"]]
            assert kept["id"] == lost["id"] == kept["cluster"] == lost["cluster"] and kept["cluster_size"] == 2
            assert kept["dropped_lines"] == alone.rows[f"a {n}"]["dropped_lines"] and lost["dropped_lines"] == []
    best = stage.run([stage.shard(first), stage.shard(second)], {"partitions": partitions, "priority": ("b",)})
    assert best.reasons() == {each["name"]: "duplicate" for each in first}


def test_no_two_that_stay_are_alike_and_each_that_went_is_like_another(stage: Stage) -> None:
    records = corpus(3, 30)
    found = stage.run([stage.shard(records[:30]), stage.shard(records[30:])])
    values, starts = shingles.distinct_shingles(*utf8(pa.array([each["text"] for each in records], pa.large_string())))
    pairs = np.array([(a, b) for a in range(len(records)) for b in range(a)])
    similarity = minhash.jaccard(values, starts, pairs)
    reason = [found.rows[each["name"]]["reason"] for each in records]
    alike = [pair for pair, share in zip(pairs.tolist(), similarity.tolist(), strict=True) if share >= 9_000]
    assert alike and not [pair for pair in alike if reason[pair[0]] == reason[pair[1]] == ""]
    like_another = {row for pair, share in zip(pairs.tolist(), similarity.tolist(), strict=True) if share >= 7_000 for row in pair}
    assert {row for row, why in enumerate(reason) if why == "near_duplicate"} <= like_another


def test_shingles_are_read_a_few_pairs_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shards = [corpus(4, 8), corpus(5, 8)]
    whole = stage.run([stage.shard(each) for each in shards], {"partitions": 2})
    monkeypatch.setattr(near, "AT_ONCE", 100)
    other = Stage(tmp_path / "other")
    parts = other.run([other.shard(each) for each in shards], {"partitions": 2})
    assert parts.rows == whole.rows and "near_duplicate" in parts.reasons().values()
    assert parts.summary.counts == whole.summary.counts


def test_a_twin_of_a_dropped_document_stands_in_its_place_among_near_duplicates(stage: Stage) -> None:
    base = words(150, "base")
    records = [
        record("twin, address taken", " ".join(base), url="https://a/", source="web"),
        record("page", " ".join(words(100, "page")), url="https://a/", source="wiki"),
        record("twin", " ".join(base), source="web"),
        record("near copy", " ".join(edited(base, 2, 1)), source="wiki"),
    ]
    found = stage.run([stage.shard([each]) for each in records], {"priority": ("wiki",)})
    assert found.reasons() == {"twin, address taken": "duplicate_url", "twin": "near_duplicate"}
    assert found.rows["near copy"]["cluster_size"] == 2


def test_what_a_rule_drops_takes_nothing_with_it(stage: Stage) -> None:
    text = words(60, "base")
    records = [record("a", " ".join(text), lang="de"), record("b", " ".join(text)), record("c", " ".join(edited(text, 1, 3)))]
    found = stage.run([stage.shard(records)], {"length": {"languages": {"de": {"min_words": 61}}}})
    assert found.rows["a"]["reason"] == "too_few_words"
    assert sorted(found.reasons().values()) == ["near_duplicate", "too_few_words"]


def test_near_duplicates_may_be_kept_to_one_language(stage: Stage) -> None:
    text = words(100, "base")
    shard = stage.shard([record("en", " ".join(text)), record("de", " ".join(edited(text, 1, 1)), lang="de")])
    assert list(stage.run([shard]).reasons().values()) == ["near_duplicate"]
    assert not stage.run([shard], {"near": {"across_languages": False}}).reasons()


@pytest.mark.parametrize(
    ("lang", "text", "same", "other"),
    [
        ("th", "สวัสดีครับ ยินดีต้อนรับ", "สวัสดีครับ! ยินดีต้อนรับ…", "สวัสดีครับ ยินดีต้อนรีบ"),
        ("zh", "人人生而自由平等", "「人人生而自由平等。」", "人人生而自由平安"),
        ("en", "All are equal here", "ALL are equal, here!", "All are equal there"),
    ],
)
def test_a_text_shorter_than_a_shingle_is_compared_as_a_whole(stage: Stage, lang: str, text: str, same: str, other: str) -> None:
    records = [record(name, body, lang=lang) for name, body in (("a", text), ("b", same), ("c", other))]
    found = stage.run([stage.shard(records)], {"length": {"min_characters": 0, "min_words": 0}})
    assert list(found.reasons().values()) == ["near_duplicate"] and not found.rows["c"]["reason"]


def test_a_paragraph_that_stands_elsewhere_goes_with_all_its_lines(stage: Stage) -> None:
    shared = " ".join(words(20, "one")) + "\n" + " ".join(words(20, "two"))
    own = [" ".join(words(60, f"own {n}")) for n in range(3)]
    records = [
        record("a", f"{own[0]}\n\n{shared}", source="wiki"),
        record("b", f"{own[1]}\n\n{shared}\n\n{own[2]}", source="web"),
        record("c", f"{shared.replace(' ', ', ').upper()}", source="web"),
    ]
    settings = {"priority": ("wiki",), "lines": None, "near": None}
    assert not any(row["dropped_lines"] for row in stage.run([stage.shard(records)], settings).rows.values())
    found = stage.run([stage.shard(records)], {**settings, "paragraphs": {"min_characters": 40}})
    assert found.rows["a"]["dropped_lines"] == [] and found.rows["b"]["dropped_lines"] == [2, 3, 4]
    assert found.rows["c"]["keep"]  # a document of one paragraph is compared as a document


def test_rejects_hold_each_dropped_document_with_its_reason_and_text(stage: Stage) -> None:
    shards = [stage.shard([record("short", "no"), record("long enough", " ".join(words(30, 1)))]), stage.shard([record("brief", "ok")])]
    assert "rejects" not in stage.run(shards).output.shards
    found = stage.run(shards, {"keep_rejects": True})
    kept = [row for shard in found.output.shards["rejects"] for row in rows(stage.storage.local(shard.path))]
    assert [(row["id"], row["reason"], row["text"]) for row in kept] == [
        (found.rows["short"]["id"], "too_short", "no"),
        (found.rows["brief"]["id"], "too_short", "ok"),
    ]


def test_a_record_that_kills_its_worker_is_quarantined_and_the_rest_stay_aligned(stage: Stage) -> None:
    records = [record(str(n), " ".join(words(30, n))) for n in range(4)]
    found = stage.run([stage.shard(records)], poison={"hash": frozenset({2})})
    assert {name: row["reason"] for name, row in found.rows.items()} == {"0": "", "1": "", "2": "poison", "3": ""}
    ledger = found.summary.ledgers["documents"]
    assert ledger.quarantined == {"poison": 1} and ledger.kept == 3 and ledger.taken == 4


def test_a_record_that_kills_in_the_search_for_near_duplicates_is_compared_with_none_and_stays(stage: Stage) -> None:
    text = words(60, "base")
    shard = stage.shard([record("a", " ".join(text)), record("b", " ".join(edited(text, 1, 1)))])
    assert list(stage.run([shard], poison={"shingles": frozenset({1})}).rows) == ["a", "b"]
    assert not stage.run([shard]).reasons()


def test_partitions_follow_the_corpus_in_powers_of_two() -> None:
    assert partitions_for(0, 0) == partitions_for(65_536, 1 << 27) == 1
    assert partitions_for(65_537, 0) == 2 and partitions_for(0, (1 << 27) * 5) == 8
    assert partitions_for(10**12, 0) == 4096


def _languages(found: Run) -> dict[str, int]:
    return {lang: account.kept for lang, account in found.summary.ledgers["documents"].accounts.items()}


def test_each_language_is_judged_by_its_own_bounds(stage: Stage) -> None:
    records = [record(f"{lang}{n}", " ".join(words(n, f"{lang} {n}")), lang=lang) for lang in ("en", "de") for n in (10, 20, 30)]
    settings = {"length": {"min_words": 15, "languages": {"de": {"min_words": 25}}}}
    assert _languages(stage.run([stage.shard(records)], settings)) == {"en": 2, "de": 1}
