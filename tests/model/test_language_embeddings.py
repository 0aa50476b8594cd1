"""Language embeddings of XLM: which row each token takes, in every objective, against the library's own forward pass; and models that do not have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.model.architectures import configuration_of
from pipeline.model.build import build_masked_lm, training_module
from pipeline.model.language_embeddings import ids_of, sides_by_name, table_of, with_languages
from pipeline.model.sizes import ModelSize
from pipeline.model.start import started_model
from pipeline.tasks.classification import Example, featurize, prediction_batches
from pipeline.training.batches import held_out_batches
from pipeline.training.loop import tensors_of
from pipeline.training.objectives.next_sentence import WithNextSentence
from pipeline.training.objectives.summed import pretraining_loss
from pipeline.training.packed_rows import PackedRows
from stages.pretrain import measures
from stages.pretrain.feeds import feed_of
from tests.training.pairs import LENGTH, config, pairs, texts
from tests.training.test_batches import VOCAB

SIZE = ModelSize(2, 32, 4, 128, 514, None)
LANGUAGES = ("en", "sw", "zh")


def model(languages: tuple[str, ...] = LANGUAGES) -> Any:
    return build_masked_lm(SIZE, VOCAB, seed=2, dropout=0.0, max_length=LENGTH, architecture="xlm", languages=languages)


def langs() -> dict[str, tuple[int, int]]:
    return sides_by_name(ids_of(model().config) or {}, texts(), pairs())


def spans(rows: PackedRows, row: int) -> list[list[int]]:
    """The spans of a row, each with its `</s>`."""
    return [
        [*rows.shards[0][int(rows.span_start[s]) : int(rows.span_start[s]) + int(rows.span_length[s])].tolist(), 2]
        for s in range(rows.row_offsets[row], rows.row_offsets[row + 1])
    ]


def test_names_of_pairs_are_cut_where_both_parts_are_languages() -> None:
    ids = {"en": 0, "pt-BR": 1, "zh-Hant": 2}
    assert sides_by_name(ids, ["en", "zh-Hant"], ["en-zh-Hant", "zh-Hant-pt-BR"]) == {
        "en": (0, 0), "zh-Hant": (2, 2), "en-zh-Hant": (0, 2), "zh-Hant-pt-BR": (2, 1),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="pairs of en-fr: the model has no language embedding of fr; it has en, pt-BR"):
        sides_by_name(ids, ["en"], ["en-fr"])


def test_loss_and_gradients_of_pairs_are_the_librarys_given_the_language_of_each_token() -> None:
    ours, theirs = model(), model()
    (feed,) = feed_of(config(objectives={"tlm": 1.0}, phases=[]), texts(), VOCAB, 5, pairs(), None, langs()).feeds
    ids, turned = ids_of(ours.config) or {}, 0
    for step in range(4):
        (batch,) = feed.micro_batches(step, 0, 1, 8)
        plan = feed.mixture.samples(step * 8, step * 8 + 8)
        true_BT = batch.input_ids_BT.copy()
        used = batch.weights_M > 0
        true_BT.reshape(-1)[batch.masked_index_M[used]] = batch.labels_M[used]
        expected_BT = np.zeros_like(true_BT)
        for b in range(8):
            name = feed.mixture.languages[plan.language_N[b]]
            own, at = [ids[lang] for lang in name.split("-")], 1
            parts = spans(feed.rows[name], int(plan.row_N[b]))
            for first, second in zip(parts[::2], parts[1::2], strict=True):
                is_turned = true_BT[b, at : at + len(first) + len(second)].tolist() == second + first
                turned += is_turned
                for part, row in ((second, own[1]), (first, own[0])) if is_turned else ((first, own[0]), (second, own[1])):
                    expected_BT[b, at : at + len(part)] = row
                    at += len(part)
            expected_BT[b, 0] = expected_BT[b, 1]
        real = batch.attention_BT
        assert np.array_equal(batch.langs_BT[real], expected_BT[real])
        fields = tensors_of(batch, torch.device("cpu"))
        loss = pretraining_loss(training_module(ours), fields)
        loss.backward()
        logits = theirs(
            input_ids=fields["input_ids_BT"], attention_mask=fields["attention_BT"].long(), langs=torch.from_numpy(expected_BT),
            position_ids=(fields["positions_BT"] - 2).clamp_min(0),
        ).logits.flatten(0, 1)  # fmt: skip
        nll = functional.cross_entropy(logits[fields["masked_index_M"]], fields["labels_M"], reduction="none")
        expected = (nll * fields["weights_M"]).sum()
        expected.backward()
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert turned
    rows = dict(ours.named_parameters())["transformer.lang_embeddings.weight"].grad
    assert rows.abs().sum(1).min() > 0, "every language was learned from"
    for name, parameter in theirs.named_parameters():
        assert torch.allclose(dict(ours.named_parameters())[name].grad, parameter.grad, atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("objective", ["mlm", "nsp", "contrast"])
def test_rows_of_one_language_are_of_it_throughout_and_train_its_embedding(objective: str) -> None:
    (feed,) = feed_of(config(objectives={objective: 1.0}, phases=[]), texts(), VOCAB, 5, pairs(), None, langs()).feeds
    (batch,) = feed.micro_batches(0, 0, 1, 8)
    plan = feed.mixture.samples(0, 8)
    names = [feed.mixture.languages[number] for number in plan.language_N]
    if objective == "contrast":
        by_row = [name.split("-")[0] for name in names] + [name.split("-")[1] for name in names]
    else:
        by_row = names
    ids = ids_of(model().config) or {}
    assert batch.langs_BT.shape == batch.input_ids_BT.shape
    assert (batch.langs_BT == np.array([[ids[lang]] for lang in by_row])).all()
    if objective == "contrast":
        return
    trained: Any = WithNextSentence(training_module(model()), SIZE.hidden, seed=3) if objective == "nsp" else training_module(model())
    flags = {"is_full": torch.tensor(False)}
    pretraining_loss(trained, tensors_of(batch, torch.device("cpu")) | flags).backward()
    gradient = trained.model.transformer.lang_embeddings.weight.grad.abs().sum(1)
    assert {name for name in LANGUAGES if gradient[ids[name]] > 0} == set(by_row)


def test_held_out_measures_take_the_language_of_each_side_of_each_text() -> None:
    held_pairs, every = pairs(), langs()
    (batch, *_) = held_out_batches(held_pairs, vocab_size=VOCAB, rank=0, world_size=1, micro_batch=4, restart=True, langs=every)
    ids = ids_of(model().config) or {}
    parts = spans(held_pairs["en-sw"], 0)
    expected = [ids["en"], *(ids[lang] for number, part in enumerate(parts) for lang in [("en", "sw")[number % 2]] * len(part))]
    assert batch.langs_BT is not None and batch.langs_BT[0, : len(expected)].tolist() == expected
    settings = config(objectives={"tlm": 1.0, "nsp": 1.0, "contrast": 1.0}, phases=[])
    trained: Any = WithNextSentence(training_module(model()), SIZE.hidden, seed=3).eval()
    with torch.no_grad():
        trained.model.transformer.lang_embeddings.weight.mul_(30)
        told = measures.measure(trained, settings, texts(), held_pairs, VOCAB, 0, 1, every)
        swapped = {name: (row[1], row[0]) if "-" in name else ((row[0] + 1) % 3,) * 2 for name, row in every.items()}
        mistaken = measures.measure(trained, settings, texts(), held_pairs, VOCAB, 0, 1, swapped)
    assert all(told[name] != mistaken[name] for name in ("tlm", "nsp", "contrast"))


def test_fine_tuning_and_prediction_tell_the_model_the_language_of_each_text() -> None:
    examples = [Example(str(n), lang, "x", None, "ab"[n % 2]) for n, lang in enumerate(("zh", "en", "sw", "en"))]
    encode = lambda found: [np.array([5, 6, 7]) for _ in found]  # noqa: E731
    ids = ids_of(model().config) or {}
    features = featurize(examples, encode, labels={"a": 0, "b": 1}, max_length=8, langs=ids)
    (batch,) = prediction_batches(features, rank=0, world_size=1, micro_batch=4)
    assert batch.langs_BT is not None
    assert {(int(row), *set(found)) for row, found in zip(batch.rows_B, batch.langs_BT.tolist(), strict=True)} == {
        (number, ids[example.lang]) for number, example in enumerate(examples)
    }
    with pytest.raises(ConfigError, match="examples: the model has no language embedding of fr"):
        featurize([Example("1", "fr", "x", None, "a")], encode, labels={"a": 0, "b": 1}, max_length=8, langs=ids)


def test_an_exported_model_says_which_row_is_which_language_and_can_be_gone_on_from(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    again = started_model(tmp_path, VOCAB, rows=None, dropout=0.1, max_length=LENGTH)
    assert ids_of(again.config) == {"en": 0, "sw": 1, "zh": 2}
    cut = started_model(tmp_path, VOCAB - 1, rows=[[i] for i in range(VOCAB) if i != 9], dropout=0.1, max_length=LENGTH)
    assert torch.equal(dict(cut.named_parameters())["transformer.lang_embeddings.weight"], model().transformer.lang_embeddings.weight)


def test_models_without_language_embeddings_are_told_so() -> None:
    assert ids_of(build_masked_lm(SIZE, VOCAB, seed=0, dropout=0.0, max_length=LENGTH).config) is None
    assert ids_of(configuration_of("xlm", SIZE, VOCAB, dropout=0.0, max_length=16)) is None
    assert table_of(None, ["en"]) is None
    with pytest.raises(ConfigError, match="'xlm-roberta' has none; set architecture: xlm"):
        with_languages(configuration_of("xlm-r", SIZE, VOCAB, dropout=0.0, max_length=16), LANGUAGES)
    with pytest.raises(ConfigError, match="1 language; they tell at least two apart"):
        with_languages(configuration_of("xlm", SIZE, VOCAB, dropout=0.0, max_length=16), ["en"])
    with pytest.raises(ValueError, match="language_embeddings: xlm-r has none; set architecture: xlm"):
        config(language_embeddings=True)
    ours = training_module(build_masked_lm(SIZE, VOCAB, seed=0, dropout=0.0, max_length=LENGTH))
    ids = torch.tensor([[0, 5, 6, 2]])
    none = ids[0, :0]
    with pytest.raises(ConfigError, match="language_embeddings: xlm-r has none"):
        ours(ids, ids > -1, ids + 2, none, none, none.float(), langs_BT=torch.zeros_like(ids))
