"""A run goes on from a model with the rows that another vocabulary names only where these are the model's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.manifest import Shard
from pipeline.model.build import build_masked_lm
from pipeline.storage import Storage
from pipeline.text.imported import imported
from pipeline.text.tokenizer import Tokenizer, train
from pipeline.text.tokenizer_export import export_huggingface
from pipeline.text.words import count_words
from stages.pretrain import Config
from stages.pretrain.models import TOKENIZER, model_of
from tests.training.cases import SIZE

LENGTH = 24
ONE = ("the house on the hill by the sea", "another house stands there in another land", "the sea and the land and the hills")
TWO = ("a quick brown fox jumps over lazy dogs", "dogs and foxes jump quickly over a brown log", "lazy foxes jumped on quick dogs")


def vocabulary(*words: str) -> bytes:
    return train(count_words(list(words) * 20), size=296)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    made = Storage.at(str(tmp_path / "storage"), "test")
    made.prepare()
    return made


def argument(storage: Storage, folder: Path, named: Path, ids: int) -> dict[str, Any]:
    """Of a gang that goes on from the model in `folder` with the rows of the vocabulary that `named` was; every id as it was."""
    was = imported(named, named.name)
    told = {"size_before": was.size_before, "identity": was.identity, "rows": [[index] for index in range(ids)]}
    rows = storage.write("rows.json", json.dumps(told).encode())
    start = {
        path.name: Shard("", published.path, published.sha256, published.bytes, 0).plain()
        for path in sorted(folder.iterdir())
        for published in [storage.write(f"start/{folder.name}/{path.name}", path.read_bytes())]
    }
    return {"start": start, "rows": {"path": rows.path, "sha256": rows.sha256}, "seed": 0}


def test_rows_of_another_vocabulary_than_the_models_are_refused(storage: Storage, tmp_path: Path) -> None:
    one, two = vocabulary(*ONE), vocabulary(*TWO)
    ids = Tokenizer(one).size
    assert Tokenizer(two).size == ids, "else sizes would tell"
    for name, model in (("one", one), ("two", two)):
        build_masked_lm(SIZE, ids, seed=1, dropout=0.0, max_length=LENGTH).save_pretrained(tmp_path / name)
        export_huggingface(model, tmp_path / name, LENGTH)
    config = Config(dropout=0.0)
    given = argument(storage, tmp_path / "one", tmp_path / "one" / TOKENIZER, ids)
    assert model_of(config, given, storage, vocab_size=ids, length=LENGTH).config.vocab_size == ids
    crossed = argument(storage, tmp_path / "one", tmp_path / "two" / TOKENIZER, ids)
    with pytest.raises(
        ConfigError, match=r"tokenizer.json gives other ids than the file at vocabulary.start.path; name the tokenizer.json"
    ):
        model_of(config, crossed, storage, vocab_size=ids, length=LENGTH)


def test_rows_of_a_larger_vocabulary_than_the_models_are_refused_where_it_has_no_tokenizer(storage: Storage, tmp_path: Path) -> None:
    one = vocabulary(*ONE)
    export_huggingface(one, tmp_path / "named", LENGTH)
    ids = Tokenizer(one).size - 9
    build_masked_lm(SIZE, ids, seed=1, dropout=0.0, max_length=LENGTH).save_pretrained(tmp_path / "bare")
    given = argument(storage, tmp_path / "bare", tmp_path / "named" / TOKENIZER, ids)
    with pytest.raises(ConfigError, match=rf"its config.json has {ids} ids, fewer than the {ids + 9} of the file at vocabulary.start.path"):
        model_of(Config(dropout=0.0), given, storage, vocab_size=ids, length=LENGTH)
