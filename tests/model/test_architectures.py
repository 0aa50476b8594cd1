"""Other encoders than XLM-R: the library's classes under our losses, against the library's own; and a start from a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from pipeline.capacity import Job
from pipeline.errors import ConfigError
from pipeline.model.architectures import KINDS, configuration_of, size_of
from pipeline.model.build import build_classifier, build_masked_lm, training_module
from pipeline.model.documents import Within
from pipeline.model.library_lm import LibraryLM
from pipeline.model.sizes import ARCHITECTURES, ModelSize, count_parameters
from pipeline.model.start import started_model
from pipeline.training.optimizers import is_hidden_matrix
from tests.model.conftest import VOCAB, ragged_batch

SIZE = ModelSize(4, 32, 4, 128, 514, None)  # XLM's inner width is four times its width
OTHERS = tuple(name for name in ARCHITECTURES if name != "xlm-r")


def model(architecture: str, seed: int = 0, **changes: Any) -> Any:
    return build_masked_lm(SIZE, VOCAB, seed=seed, architecture=architecture, **({"dropout": 0.0, "max_length": 16} | changes))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_count_of_parameters_is_that_of_the_model_and_its_shape_is_read_back(architecture: str) -> None:
    built = model(architecture)
    assert sum(p.numel() for p in built.parameters()) == count_parameters(SIZE, VOCAB, 18, architecture)
    found = size_of(built.config)
    assert (found.layers, found.hidden, found.heads, found.intermediate) == (SIZE.layers, SIZE.hidden, SIZE.heads, SIZE.intermediate)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_muon_takes_the_matrices_of_the_layers_and_nothing_else(architecture: str) -> None:
    named = training_module(model(architecture)).named_parameters()
    found = sum(parameter.numel() for name, parameter in named if is_hidden_matrix(name, parameter))
    assert found == Job(SIZE, VOCAB, 16, 1, 1, 1, 0, "fp32", 0.0, 2, architecture=architecture).hidden_matrices


@pytest.mark.parametrize("architecture", OTHERS)
def test_loss_and_gradients_are_the_librarys_own(architecture: str) -> None:
    ours, theirs, batch = model(architecture), model(architecture), ragged_batch(3)
    loss = training_module(ours)(**batch)
    loss.backward()
    logits = theirs(input_ids=batch["input_ids_BT"], attention_mask=batch["attention_BT"].long()).logits.flatten(0, 1)
    nll = functional.cross_entropy(logits[batch["masked_index_M"]], batch["labels_M"], reduction="none")
    expected = (nll * batch["weights_M"]).sum()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name].grad, atol=1e-5, rtol=1e-4), name


@pytest.mark.parametrize("architecture", ["modernbert", "eurobert"])
def test_documents_of_a_row_are_as_if_each_were_alone_and_causal_rows_see_nothing_that_comes(architecture: str) -> None:
    module = training_module(model(architecture)).eval()
    parts = [torch.randint(5, VOCAB - 1, (1, size), generator=torch.Generator().manual_seed(size)) for size in (5, 7)]
    ids, segments = torch.cat(parts, 1), torch.tensor([[0] * 5 + [1] * 7])
    positions = torch.cat([torch.arange(2, 2 + size) for size in (5, 7)])[None]
    alike = {"masked_index_M": torch.arange(12), "labels_M": ids[0], "weights_M": torch.ones(12), "per_position": True}
    packed = module(ids, torch.ones(1, 12, dtype=torch.bool), positions, within=Within(segments), **alike)[2]
    alone = [
        module(part, torch.ones_like(part, dtype=torch.bool), torch.arange(2, 2 + part.shape[1])[None],
               **alike | {"masked_index_M": torch.arange(part.shape[1]), "labels_M": part[0], "weights_M": torch.ones(part.shape[1])})[2]
        for part in parts
    ]  # fmt: skip
    assert torch.allclose(packed, torch.cat(alone), atol=1e-5)
    plain = torch.arange(2, 14)[None]
    before = module(ids, torch.ones(1, 12, dtype=torch.bool), plain, is_causal=True, **alike)[2]
    changed = ids.clone()
    changed[0, 8:] = 5
    after = module(changed, torch.ones(1, 12, dtype=torch.bool), plain, is_causal=True, **alike)[2]
    assert torch.allclose(before[:8], after[:8], atol=1e-6) and not torch.allclose(before[8:], after[8:], atol=1e-3)


def test_local_attention_sees_as_far_as_the_librarys() -> None:
    config = configuration_of("modernbert", SIZE, VOCAB, dropout=0.0, max_length=16)
    config.local_attention = 6
    built = KINDS["modernbert"].model._from_config(config, attn_implementation="sdpa").eval()
    module = LibraryLM(built)
    batch = ragged_batch(4)
    mask = batch["attention_BT"][:, None, None, :].expand(-1, -1, batch["attention_BT"].shape[1], -1)
    expected = built.model(input_ids=batch["input_ids_BT"], attention_mask=batch["attention_BT"].long()).last_hidden_state
    found = built.model(input_ids=batch["input_ids_BT"], attention_mask=module._mask(mask)).last_hidden_state
    assert torch.allclose(found[batch["attention_BT"]], expected[batch["attention_BT"]], atol=1e-5)


@pytest.mark.parametrize("architecture", OTHERS)
@pytest.mark.parametrize("pool", ["encoder", "embeddings"])
def test_vectors_of_rows_leave_no_parameter_without_a_gradient(architecture: str, pool: str) -> None:
    module, batch = training_module(model(architecture)), ragged_batch(5)
    none = batch["labels_M"][:0]
    vectors = module(
        batch["input_ids_BT"], batch["attention_BT"], batch["positions_BT"], none, none, none.float(), pool=pool
    )  # fmt: skip
    vectors.square().sum().backward()
    assert vectors.shape == (len(batch["input_ids_BT"]), SIZE.hidden)
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("architecture", ["modernbert", "eurobert"])
def test_layers_computed_again_give_the_same_gradients(architecture: str) -> None:
    batch, gradients = ragged_batch(6), []
    for recompute in (False, True):
        module = training_module(model(architecture), recompute=recompute)
        module(**batch).backward()
        gradients.append({name: p.grad for name, p in module.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    with pytest.raises(ConfigError, match="activation_checkpointing: xlm has none"):
        training_module(model("xlm"), recompute=True)


def test_xlm_takes_no_mask_between_tokens_and_has_an_inner_width_of_its_own() -> None:
    with pytest.raises(ConfigError, match="xlm takes no mask between tokens"):
        training_module(model("xlm"))(**ragged_batch(1), is_causal=True)
    with pytest.raises(ConfigError, match="four times its width"):
        configuration_of("xlm", ModelSize(2, 32, 4, 48, 514, None), VOCAB, dropout=0.0, max_length=16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_start_has_the_weights_of_its_directory_and_rows_of_the_new_ids(architecture: str, tmp_path: Path) -> None:
    old = model(architecture, seed=4).eval()
    old.save_pretrained(tmp_path)
    same = started_model(tmp_path, VOCAB, rows=None, dropout=0.2, max_length=16)
    assert all(torch.equal(p, dict(old.named_parameters())[name]) for name, p in same.named_parameters())
    assert 0.2 in {getattr(same.config, name, None) for name in ("hidden_dropout_prob", "attention_dropout", "dropout")}
    kept = [0, 1, 2, 3, *range(10, 60), VOCAB - 1]
    cut = started_model(tmp_path, len(kept) + 1, rows=[*([i] for i in kept[:-1]), [20, 30], [kept[-1]]], dropout=0.0, max_length=12).eval()
    words_old, words_new = old.get_input_embeddings().weight, cut.get_input_embeddings().weight
    assert torch.equal(words_new[:-2], words_old[kept[:-1]]) and torch.equal(words_new[-1], words_old[-1])
    assert torch.allclose(words_new[-2], (words_old[20] + words_old[30]) / 2)
    ids = torch.tensor([[0, 5, 9, 2]])
    there = torch.tensor([[0, kept[5], kept[9], 2]])
    assert torch.allclose(cut(input_ids=ids).logits[0, :, :-2], old(input_ids=there).logits[0][:, kept[:-1]], atol=1e-5)


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model("xlm-r").save_pretrained(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"97 ids and the vocabulary 98; set vocabulary\.start"):
        started_model(tmp_path / "a", VOCAB + 1, rows=None, dropout=0.0, max_length=16)
    with pytest.raises(ConfigError, match=r"reads 16 tokens at most and rows have 17; lower pack\.length"):
        started_model(tmp_path / "a", VOCAB, rows=None, dropout=0.0, max_length=17)
    from transformers import BertConfig, BertForMaskedLM

    BertForMaskedLM(
        BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path / "b")
    with pytest.raises(ConfigError, match="of type 'bert' cannot be trained; known: xlm-roberta"):
        started_model(tmp_path / "b", 32, rows=None, dropout=0.0, max_length=8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_classifier_drops_what_its_fine_tuning_says_whatever_was_dropped_before(architecture: str, tmp_path: Path) -> None:
    model(architecture).save_pretrained(tmp_path)
    built: Any = build_classifier(tmp_path, ["yes", "no"], seed=0, dropout=0.25)
    assert {part.p for part in built.modules() if isinstance(part, torch.nn.Dropout)} <= {0.25}
    wanted = {name for name in vars(built.config) if "dropout" in name}
    assert wanted and {getattr(built.config, name) for name in wanted} == {0.25}
