"""Classification: files are read to the last line or refused with its number; features and feed are the same for every cut."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, MissingSourceError, PipelineError, StageError
from pipeline.tasks import TASKS
from pipeline.tasks.classification import (
    ClassificationBatch,
    ClassificationFeed,
    Columns,
    Example,
    Features,
    Quoting,
    featurize,
    label_ids,
    pair_lengths,
    parse_examples,
    prediction_batches,
    read_examples,
)

PLAIN = Columns("text", "label")
DATA = Path(os.environ.get("XLM_PIPELINE_TEST_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))


def encode(texts: list[str]) -> list[np.ndarray]:
    """A character is a token; its id is above the special ones."""
    return [np.array([4 + ord(character) % 500 for character in text], dtype=np.uint16) for text in texts]


def write(folder: Path, content: str | bytes, name: str = "train.tsv") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def features(sizes: list[int], max_length: int = 24) -> Features:
    examples = [Example(f"e{n}", "en" if n % 2 else "sw", chr(97 + n % 26) * size, None, "ab"[n % 2]) for n, size in enumerate(sizes)]
    return featurize(examples, encode, labels={"a": 0, "b": 1}, max_length=max_length)


def test_a_tsv_with_a_header_is_read_by_column_names(tmp_path: Path) -> None:
    path = write(tmp_path, 'index_id\tcategory\ttext\n548\tsports\tHabari "ya" leo, 1\n824\t travel \tSafari\n')
    assert read_examples(path, Columns("text", "category", id="index_id"), lang="sw") == [
        Example("548", "sw", 'Habari "ya" leo, 1', None, "sports"),
        Example("824", "sw", "Safari", None, "travel"),
    ]


def test_a_file_without_a_header_is_read_by_column_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "Il dort.\tIl ne dort pas.\tcontradiction\nA\tB\tneutral\n")
    found = read_examples(path, Columns(0, 2, text_pair=1), lang="fr")
    assert found == [Example("fr:1", "fr", "Il dort.", "Il ne dort pas.", "contradiction"), Example("fr:2", "fr", "A", "B", "neutral")]


def test_a_csv_may_hold_line_ends_in_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,label\n"satu,\r\ndua ""tiga""",positive\nempat,negative\n', "train.csv")
    found = read_examples(path, PLAIN, lang="id")
    assert [(e.id, e.text, e.label) for e in found] == [("id:2", 'satu,\r\ndua "tiga"', "positive"), ("id:4", "empat", "negative")]


def test_a_quotation_mark_that_never_closes_is_text_in_a_tsv(tmp_path: Path) -> None:
    path = write(tmp_path, 'text\tlabel\n"half\ta\nother\tb\n')
    assert [e.text for e in read_examples(path, PLAIN, lang="en")] == ['"half', "other"]
    with pytest.raises(StageError, match=r"train\.tsv:2: .*quote fields as RFC 4180"):
        read_examples(path, PLAIN, lang="en", quoting=Quoting.DOUBLE)


def test_byte_order_mark_windows_line_ends_empty_lines_and_strange_separators_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbftext\tlabel\r\n" + "a\u2028b\u0085c\x0b\tx\r\n\r\n   \r\nd\ty".encode())
    assert [(e.id, e.text, e.label) for e in read_examples(path, PLAIN, lang="en")] == [
        ("en:2", "a\u2028b\u0085c\x0b", "x"),
        ("en:5", "d", "y"),
    ]


@given(rows=st.lists(st.tuples(st.text(min_size=1), st.sampled_from(["x", "y"])), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None)
def test_any_text_comes_back_from_a_csv_as_it_was(rows: list[tuple[str, str]]) -> None:
    import csv
    import io
    import tempfile

    rows = [(text, label) for text, label in rows if text.strip() and text.encode("utf-8", "ignore").decode() == text]
    if not rows:
        return
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), out.getvalue(), "t.csv")
        assert [(e.text, e.label) for e in read_examples(path, PLAIN, lang="en")] == rows


@pytest.mark.parametrize(
    ("content", "columns", "kind", "message"),
    [
        ("text\tlabel\na\tx\nb\n", PLAIN, StageError, r"file:3: label is field 2, but the line has 1"),
        ("text\tlabel\na\tx\n \tx\n", PLAIN, StageError, r"file:3: text \(field 1\) is empty"),
        ("text\tlabel\na\tx\n\xff\tx\n".encode("latin-1"), PLAIN, StageError, r"file:3: not UTF-8 at byte 0 of the line"),
        ("id\ttext\tlabel\n1\ta\tx\n1\tb\ty\n", Columns("text", "label", id="id"), StageError, r"file:3: id '1' came before, in line 2"),
        ("text\tlabel\n", PLAIN, StageError, "file: no example in the file"),
        ("", PLAIN, StageError, "file: no example in the file"),
        ("text\tlabels\na\tx\n", PLAIN, ConfigError, "file:1: no column 'label'; the header has text, labels"),
        ("text\ttext\tlabel\na\tb\tx\n", PLAIN, ConfigError, "file:1: 2 columns 'text'; the header has text, text, label"),
        ("a\tx\n", Columns(0, 2), StageError, "file:1: label is field 3, but the line has 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(
    content: str | bytes, columns: Columns, kind: type[PipelineError], message: str
) -> None:
    lines = (content if isinstance(content, bytes) else content.encode()).splitlines(keepends=True)
    with pytest.raises(kind, match=message):
        parse_examples(lines, columns, where="file", lang="en")


def test_a_file_may_hold_several_languages_and_ids_repeat_over_them() -> None:
    found = parse_examples([b"1\tsw\ta\tx\n", b"1\ten\tb\ty\n"], Columns(2, 3, id=0, lang=1), where="file")
    assert [(e.id, e.lang) for e in found] == [("1", "sw"), ("1", "en")]


def test_columns_and_languages_that_make_no_sense_are_refused() -> None:
    for make, message in (
        (lambda: Columns("text", 1), "mix names and numbers"),
        (lambda: Columns("text", "text"), "name one column twice"),
        (lambda: Columns(0, -1), "column -1 does not exist"),
        (lambda: parse_examples([], PLAIN, where="file"), "give the language of the file, or the column"),
        (lambda: parse_examples([], Columns(0, 1, lang=2), where="file", lang="en"), "and not both"),
        (lambda: parse_examples([], PLAIN, where="file", lang="en", quoting=Quoting.AUTO), "quoting is auto"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_a_missing_file_is_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=r"nothing\.tsv: no such file of examples"):
        read_examples(tmp_path / "nothing.tsv", PLAIN, lang="en")


def test_labels_are_numbered_in_sorted_order_and_one_alone_is_refused() -> None:
    examples = [Example("1", "en", "t", None, label) for label in ("travel", "Zebra", "art", "travel")]
    assert label_ids(examples) == {"Zebra": 0, "art": 1, "travel": 2}
    with pytest.raises(StageError, match=r"labels \['travel'\]"):
        label_ids(examples[:1])


def test_single_texts_and_pairs_have_the_form_of_xlm_r() -> None:
    single = featurize([Example("1", "en", "ab", None, "x")], encode, labels={"x": 0}, max_length=8)
    a, b = encode(["ab"])[0].tolist()
    assert single.ids_N.tolist() == [0, a, b, 2]
    pair = featurize([Example("1", "en", "ab", "b", "x")], encode, labels={"x": 0}, max_length=8)
    assert pair.ids_N.tolist() == [0, a, b, 2, 2, b, 2]
    assert (single.num_truncated, pair.num_truncated) == (0, 0)


def test_long_texts_are_cut_at_the_end_and_counted() -> None:
    made = features([30, 3, 22, 23], max_length=24)
    assert np.diff(made.offsets).tolist() == [24, 5, 24, 24]
    assert made.num_truncated == 2
    assert made.ids_N[23] == 2


@given(a=st.integers(0, 40), b=st.integers(0, 40), budget=st.integers(4, 40))
@settings(max_examples=300, deadline=None)
def test_the_longer_text_of_a_pair_is_cut_first(a: int, b: int, budget: int) -> None:
    left, right = a, b
    while left + right > budget:
        if left > right:
            left -= 1
        else:
            right -= 1
    assert pair_lengths(a, b, budget) == (left, right)


def test_features_refuse_unknown_labels_mixed_pairs_and_nothing() -> None:
    one, two = Example("1", "en", "a", None, "x"), Example("2", "sw", "a", "b", "y")
    with pytest.raises(StageError, match=r"example 2 \(sw\) has label 'y'; known are x"):
        featurize([two], encode, labels={"x": 0}, max_length=8)
    with pytest.raises(ValueError, match="1 of 2 examples are pairs"):
        featurize([one, two], encode, labels={"x": 0, "y": 1}, max_length=8)
    with pytest.raises(ValueError, match="no examples"):
        featurize([], encode, labels={"x": 0}, max_length=8)
    with pytest.raises(ValueError, match="max_length is 7"):
        featurize([one], encode, labels={"x": 0}, max_length=7)


def rows_in(batches: list[ClassificationBatch]) -> list[tuple[Any, ...]]:
    """Each real row with everything it brings, sorted."""
    found = []
    for batch in batches:
        for b, row in enumerate(batch.rows_B.tolist()):
            assert (row >= 0) == (batch.weights_B[b] == 1.0)
            if row >= 0:
                used = batch.attention_BT[b]
                found.append((row, batch.input_ids_BT[b][used].tolist(), batch.positions_BT[b][used].tolist(), int(batch.labels_B[b])))
                assert set(batch.input_ids_BT[b][~used].tolist()) <= {1}
                assert set(batch.positions_BT[b][~used].tolist()) <= {1}
    return sorted(found)


def test_every_cut_of_a_step_holds_the_same_examples() -> None:
    feed = ClassificationFeed(features([3, 9, 14, 2, 20, 7, 7, 1, 5, 11, 4]), seed=3, global_batch=8)
    for step in (0, 1, 5):
        whole = rows_in(list(feed.micro_batches(step, 0, 1, 8)))
        assert len(whole) == 8
        for ranks, micro in ((2, 4), (2, 2), (4, 2), (8, 1)):
            batches = [batch for rank in range(ranks) for batch in feed.micro_batches(step, rank, ranks, micro)]
            assert rows_in(batches) == whole
            assert sum(float(batch.weights_B.sum()) for batch in batches) == feed.weight(step) == 8.0


@pytest.mark.parametrize("ranks", range(1, 9))
def test_each_epoch_has_every_example_once_over_all_ranks(ranks: int) -> None:
    made = features(list(range(1, 12)))
    feed = ClassificationFeed(made, seed=1, global_batch=ranks)
    assert feed.steps(3) == -(-33 // ranks)
    order = [b.rows_B[0] for step in range(feed.steps(3)) for rank in range(ranks) for b in feed.micro_batches(step, rank, ranks, 1)]
    epochs = [order[e * 11 : (e + 1) * 11] for e in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(range(11))
    assert epochs[0] != epochs[1] != list(range(11))


def test_a_resumed_fine_tuning_sees_what_an_uninterrupted_one_sees() -> None:
    through = [
        list(feed.micro_batches(step, 1, 2, 2)) for feed in [ClassificationFeed(features([3, 9, 14, 2, 20]), 3, 4)] for step in range(5)
    ]
    again = ClassificationFeed(features([3, 9, 14, 2, 20]), 3, 4)
    for step in (3, 4):
        for a, b in zip(again.micro_batches(step, 1, 2, 2), through[step], strict=True):
            for field in dataclasses.fields(ClassificationBatch):
                assert np.array_equal(getattr(a, field.name), getattr(b, field.name))


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=30), ranks=st.integers(1, 8), micro=st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_predictions_cover_every_example_once_over_all_ranks(sizes: list[int], ranks: int, micro: int) -> None:
    made = features(sizes)
    by_rank = [list(prediction_batches(made, rank=rank, world_size=ranks, micro_batch=micro)) for rank in range(ranks)]
    assert len({len(batches) for batches in by_rank}) == 1
    found = rows_in([batch for batches in by_rank for batch in batches])
    assert [row for row, *_ in found] == list(range(len(sizes)))
    assert [label for *_, label in found] == made.labels_E.tolist()
    assert [ids for _, ids, _, _ in found] == [made.ids_N[a:b].tolist() for a, b in zip(made.offsets, made.offsets[1:], strict=False)]


def test_predictions_put_rows_of_like_length_together() -> None:
    made = features([1, 20, 2, 21, 1, 19])
    widths = [batch.input_ids_BT.shape[1] for batch in prediction_batches(made, rank=0, world_size=1, micro_batch=3)]
    assert widths == [24, 8]


def test_a_batch_is_as_wide_as_max_length_when_not_trimmed_and_typed_as_promised() -> None:
    feed = ClassificationFeed(features([1, 2]), seed=0, global_batch=2, trim=False)
    (batch,) = feed.micro_batches(0, 0, 1, 2)
    assert batch.input_ids_BT.shape == (2, 24)
    assert batch.langs_BT is None
    kinds = [getattr(batch, field.name).dtype for field in dataclasses.fields(batch) if field.name != "langs_BT"]
    assert kinds == [np.int64, np.bool_, np.int64, np.int64, np.float32, np.int64]


def test_a_cut_that_does_not_divide_the_global_batch_is_refused() -> None:
    feed = ClassificationFeed(features([1, 2]), seed=0, global_batch=6)
    with pytest.raises(ValueError, match="world size 2 × micro-batch 2 = 4 does not divide the global batch of 6"):
        list(feed.micro_batches(0, 0, 2, 2))


def test_every_registered_task_can_be_imported() -> None:
    for module in TASKS.values():
        assert hasattr(importlib.import_module(module), "read_examples")


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared test data is not at {DATA} (set XLM_PIPELINE_TEST_DATA)")


@needs_data
@pytest.mark.parametrize(
    ("path", "count", "columns", "quoting"),
    [
        ("sib200/swe_Latn/train.tsv", 701, Columns("text", "category", id="index_id"), Quoting.AUTO),
        ("xnli/data/xnli/dev-hi.tsv", 2490, Columns(0, 2, text_pair=1), Quoting.AUTO),
        ("sick/SICK.txt", 9927, Columns("sentence_A", "entailment_judgment", text_pair="sentence_B", id="pair_ID"), Quoting.AUTO),
        ("nusax/datasets/sentiment/indonesian/train.csv", None, Columns("text", "label", id="id"), Quoting.AUTO),
        ("masakhanews/data/eng/dev.tsv", None, Columns("text", "category"), Quoting.DOUBLE),
    ],
)
def test_public_data_sets_are_read_whole(path: str, count: int | None, columns: Columns, quoting: Quoting) -> None:
    if not (DATA / path).exists():
        pytest.skip(f"{path} is not in the test data")
    found = read_examples(DATA / path, columns, lang="xx", quoting=quoting)
    if count is None:  # quoted line ends: ask another reader how many records there are
        import pandas

        count = len(pandas.read_csv(DATA / path, sep="," if path.endswith("csv") else "\t"))
    assert len(found) == count
    assert 2 <= len(label_ids(found)) <= 12
