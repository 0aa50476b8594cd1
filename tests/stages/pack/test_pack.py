"""Pack: an index that a reader turns back into every token of every document, pairs whole, nothing lost uncounted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest import Shard
from pipeline.storage import Storage
from pipeline.tables import read_table
from pipeline.text.pairs import pack_pairs
from stages.pretrain.rows import packed_rows
from tests.stages import encoded

SHARDS = [
    [
        ("en", "train", "one two. cat dog sat here! four five", True, []),
        ("ja", "train", "日本語。日本。日本語。", True, []),
        ("en", "heldout", "cat sat", True, []),
    ],
    [
        ("en", "train", "dog", True, []),
        ("en", "train", "no", False, []),
        ("ja", "train", "", True, []),
        ("en", "train", "five. " * 30, True, []),
    ],
]
PAIRS = [
    ("en", "ja", "train", "one two. three", "日本。"),
    ("en", "sw", "train", "cat", "dog sat"),
    ("en", "ja", "train", "", "日本"),
    ("en", "ja", "train", "four five", "語"),
    ("en", "ja", "train", "cat dog. " * 9, "日本"),
]


def token_shards(held: Storage) -> list[Shard]:
    return [encoded.encoded(held, f"shard{number}", documents)[0].files["tokens"] for number, documents in enumerate(SHARDS)]


def documents_of(held: Storage, shards: Sequence[Shard], lang: str, split: str) -> list[list[int]]:
    rows = [row for shard in shards for row in read_table(held.local(shard.path)).to_pylist()]
    return [row["ids"] for row in rows if (row["lang"], row["split"]) == (lang, split) and row["ids"]]


@pytest.mark.parametrize("method", ["sentences", "best-fit", "concatenate"])
def test_a_reader_finds_every_token_of_every_document_once(tmp_path: Path, method: str) -> None:
    held = encoded.storage(tmp_path)
    shards = token_shards(held)
    made = encoded.packed(held, encoded.surveyed(held, shards), length=16, method=method)
    found = packed_rows(held, [result.files["packing"].plain() for result, _ in made], [shard.plain() for shard in shards])
    assert sorted((split, lang) for split in found for lang in found[split]) == [("heldout", "en"), ("train", "en"), ("train", "ja")]
    for split, lang in (("heldout", "en"), ("train", "en"), ("train", "ja")):
        rows = found[split][lang]
        ids, lengths, segments = rows.gather(np.arange(len(rows)))
        spans = [
            ids[b, : lengths[b]][segments[b, : lengths[b]] == number].tolist()
            for b in range(len(rows))
            for number in range(segments[b].max() + 1)
        ]
        pieces = [tuple(span[span[0] == 0 : -1]) for span in spans]
        wanted = documents_of(held, shards, lang, split)
        whole = {tuple(document) for document in wanted}
        assert sorted(token for piece in pieces for token in piece) == sorted(token for document in wanted for token in document)
        if method == "best-fit":
            assert all(document in pieces for document in whole if len(document) <= 14)
        else:
            assert [token for piece in pieces for token in piece] == [token for document in wanted for token in document]
        assert not any(isinstance(array, np.ndarray) and array.flags.owndata for array in (rows.row_offsets, rows.span_start, *rows.shards))
    for result, task in made:
        task.ledger.check("pack", result.counts["tokens"])


def test_another_length_reads_no_token_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = encoded.storage(tmp_path)
    shards = token_shards(held)
    units = encoded.surveyed(held, shards)
    for shard in shards:
        (tmp_path / shard.path).unlink()
    rows = [
        sum(result.counts["rows"] for result, _ in encoded.packed(held, units, length=length, method="sentences")) for length in (16, 8)
    ]
    assert rows[1] > rows[0] > 0


@pytest.mark.parametrize("method", ["sentences", "best-fit"])
def test_pairs_lie_whole_in_rows_side_by_side_and_what_is_left_out_is_counted(tmp_path: Path, method: str) -> None:
    held = encoded.storage(tmp_path)
    shard = encoded.encoded_pairs(held, "pairs", PAIRS)[0].files["tokens"]
    made = encoded.packed(held, encoded.surveyed(held, [shard], pairs=True), length=24, method=method, pairs=True)
    found = packed_rows(held, [result.files["packing"].plain() for result, _ in made], [shard.plain()])["train"]
    assert sorted(found) == ["en-ja", "en-sw"]
    rows = found["en-ja"]
    ids, lengths, segments = rows.gather(np.arange(len(rows)))
    encoded_rows = read_table(held.local(shard.path)).to_pylist()
    wanted = [[*row["ids"][: row["side_a"]], 2, *row["ids"][row["side_a"] :], 2] for row in (encoded_rows[0], encoded_rows[3])]
    seen = [ids[b][segments[b] == number].tolist() for b in range(len(rows)) for number in range(segments[b].max() + 1)]
    assert sorted(pair[pair[0] == 0 :] for pair in seen) == sorted(wanted)
    (task,) = [task for result, task in made if task.argument["lang"] == "en-ja"]
    assert task.ledger.dropped == {"empty_side": len(encoded_rows[2]["ids"]), "longer_than_a_row": len(encoded_rows[4]["ids"])}
    task.ledger.check("pack", sum(len(encoded_rows[n]["ids"]) for n in (0, 2, 3, 4)))
    assert lengths.max() <= 24


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=60), st.integers(8, 64), st.booleans())
def test_every_pair_that_fits_is_in_one_row_and_no_token_is_lost_uncounted(
    sides: list[tuple[int, int]], length: int, best_fit: bool
) -> None:
    packed, dropped = pack_pairs(np.array(sides, np.int64).reshape(-1, 2), max_tokens=length, best_fit=best_fit)
    fits = [n for n, (a, b) in enumerate(sides) if a and b and a + b + 3 <= length]
    assert sorted(packed.span_document[::2].tolist()) == fits
    assert packed.span_document[::2].tolist() == packed.span_document[1::2].tolist()
    for a, b in zip(range(0, len(packed.span_start), 2), range(1, len(packed.span_start), 2), strict=True):
        pair = sides[int(packed.span_document[a])]
        assert (packed.span_start[a], packed.span_length[a], packed.span_start[b], packed.span_length[b]) == (0, pair[0], *pair)
    sizes = [1 + sum(packed.span_length[s] + 1 for s in range(*packed.row_offsets[r : r + 2])) for r in range(packed.num_rows)]
    assert max(sizes, default=0) <= length and (packed.row_offsets % 2 == 0).all()
    assert int(packed.span_length.sum()) + sum(dropped.values()) == sum(a + b for a, b in sides)
