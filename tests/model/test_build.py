from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from pipeline.errors import ConfigError, IntegrityError, MissingSourceError
from pipeline.model.build import build_classifier, build_masked_lm, untrained_twin
from pipeline.model.export import export_huggingface
from pipeline.model.sizes import SIZES, ModelSize
from tests.model.conftest import SMALL, VOCAB, ragged_batch


def test_the_same_seed_gives_the_same_weights_whatever_the_threads_and_the_state_of_the_generator() -> None:
    first = build_masked_lm(SMALL, VOCAB, seed=3, dropout=0.1, max_length=16).state_dict()
    torch.set_num_threads(2)
    torch.rand(17)
    second = build_masked_lm(SMALL, VOCAB, seed=3, dropout=0.1, max_length=16).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_masked_lm(SMALL, VOCAB, seed=4, dropout=0.1, max_length=16).state_dict()
    assert not torch.equal(first["lm_head.dense.weight"], other["lm_head.dense.weight"])


def test_building_leaves_the_callers_generator_as_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build_masked_lm(SMALL, VOCAB, seed=3, dropout=0.1, max_length=16)
    assert torch.equal(torch.rand(3), expected)


def test_the_configuration_is_that_of_xlm_r_and_not_the_librarys_default() -> None:
    config = build_masked_lm(SIZES["tiny"], VOCAB, seed=0, dropout=0.1, max_length=16).config
    assert (config.layer_norm_eps, config.type_vocab_size, config.max_position_embeddings) == (1e-5, 1, 18)
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id, config.tie_word_embeddings) == (0, 1, 2, True)
    assert config._attn_implementation == "sdpa"


def test_input_and_output_embeddings_are_one_parameter() -> None:
    model = build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.1, max_length=16)
    assert model.lm_head.decoder.weight is model.roberta.embeddings.word_embeddings.weight
    assert model.lm_head.decoder.bias is model.lm_head.bias


def test_positions_given_explicitly_are_those_the_model_counts_itself() -> None:
    model = build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.0, max_length=16).eval()
    batch = ragged_batch(0)
    with torch.no_grad():
        own = model(batch["input_ids_BT"], attention_mask=batch["attention_BT"]).logits
        given = model(batch["input_ids_BT"], attention_mask=batch["attention_BT"], position_ids=batch["positions_BT"]).logits
    assert torch.equal(own, given)


@pytest.mark.parametrize(
    ("size", "dropout", "message"),
    [(ModelSize(1, 30, 4, 8, 34, None), 0.1, "4 heads do not divide a width of 30"), (SMALL, 1.0, "dropout is 1.0")],
)
def test_a_shape_that_cannot_be_is_refused(size: ModelSize, dropout: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_masked_lm(size, VOCAB, seed=0, dropout=dropout, max_length=16)


def test_a_classifier_takes_the_encoder_of_an_export_and_a_head_from_its_seed(tmp_path: Path) -> None:
    base = build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.1, max_length=16)
    export_huggingface(base, tmp_path / "base")
    one = build_classifier(tmp_path / "base", ["yes", "no", "maybe"], seed=5, dropout=0.2)
    two = build_classifier(tmp_path / "base", ["yes", "no", "maybe"], seed=5, dropout=0.2)
    three = build_classifier(tmp_path / "base", ["yes", "no", "maybe"], seed=6, dropout=0.2)
    assert torch.equal(one.roberta.encoder.layer[0].output.dense.weight, base.roberta.encoder.layer[0].output.dense.weight)
    assert torch.equal(one.classifier.dense.weight, two.classifier.dense.weight)
    assert not torch.equal(one.classifier.dense.weight, three.classifier.dense.weight)
    assert one.config.id2label == {0: "yes", 1: "no", 2: "maybe"}
    assert one.config.hidden_dropout_prob == 0.2
    assert one.training


def test_a_classifier_refuses_what_is_no_export_and_what_is_no_choice(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=r"no config\.json"):
        build_classifier(tmp_path, ["a", "b"], seed=0, dropout=0.1)
    with pytest.raises(ConfigError, match="at least two"):
        build_classifier(tmp_path, ["a", "a"], seed=0, dropout=0.1)


def test_a_classifier_is_not_built_on_an_encoder_with_weights_missing(tmp_path: Path) -> None:
    export_huggingface(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.1, max_length=16), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["roberta.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"no roberta\.encoder\.layer\.1\.output\.dense\.weight"):
        build_classifier(tmp_path, ["a", "b"], seed=0, dropout=0.1)


def test_an_untrained_twin_has_the_shape_and_none_of_the_weights(tmp_path: Path) -> None:
    export_huggingface(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.1, max_length=16), tmp_path)
    trained = AutoModelForMaskedLM.from_pretrained(tmp_path)
    twin, again = untrained_twin(tmp_path, 9), untrained_twin(tmp_path, 9)
    assert type(twin) is type(trained)
    weights = {name: p for name, p in twin.named_parameters() if p.ndim == 2 and "token_type" not in name}
    assert weights
    for name, parameter in weights.items():
        assert parameter.shape == trained.get_parameter(name).shape
        assert not torch.equal(parameter, trained.get_parameter(name))
        assert torch.equal(parameter, again.get_parameter(name))
