import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from pipeline.errors import StageError
from pipeline.model.build import build_classifier, build_masked_lm
from pipeline.model.export import export_huggingface, restore_weights
from pipeline.model.masked_lm import MaskedLM, SequenceClassifier
from tests.model.conftest import SMALL, VOCAB, ragged_batch


def test_an_exported_model_opened_by_the_library_gives_the_same_logits(tmp_path: Path) -> None:
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.1, max_length=16))
    export_huggingface(module, tmp_path)
    opened = AutoModelForMaskedLM.from_pretrained(tmp_path, use_safetensors=True).eval()
    module.eval()
    batch = ragged_batch(0)
    with torch.no_grad():
        expected = module.model(batch["input_ids_BT"], attention_mask=batch["attention_BT"], position_ids=batch["positions_BT"]).logits
        found = opened(batch["input_ids_BT"], attention_mask=batch["attention_BT"]).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]


def test_exporting_twice_gives_the_same_bytes_and_names_no_path(tmp_path: Path) -> None:
    for place in ("one", "two"):
        base = tmp_path / place / "base"
        export_huggingface(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.1, max_length=16), base)
        export_huggingface(SequenceClassifier(build_classifier(base, ["a", "b"], seed=1, dropout=0.1)), tmp_path / place / "task")
    for name in ("base/config.json", "base/model.safetensors", "task/config.json", "task/model.safetensors"):
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert str(tmp_path).encode() not in content
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one" / "task")
    assert opened.config.id2label == {0: "a", 1: "b"}
    assert json.loads((tmp_path / "one/task/config.json").read_text())["architectures"] == ["XLMRobertaForSequenceClassification"]


def test_restored_weights_are_the_ones_given() -> None:
    source = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=1, dropout=0.1, max_length=16))
    target = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=2, dropout=0.1, max_length=16))
    restore_weights(target, {name: p.detach().clone() for name, p in source.named_parameters()})
    assert all(torch.equal(p, source.get_parameter(name)) for name, p in target.named_parameters())
    assert torch.equal(target.output.weight, source.model.lm_head.decoder.weight)


def test_weights_of_another_model_are_refused_by_name() -> None:
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=1, dropout=0.1, max_length=16))
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    del weights["model.lm_head.bias"]
    with pytest.raises(StageError, match=r"model\.lm_head\.bias has shape \(97,\) in the model and none"):
        restore_weights(module, weights)


def test_what_is_not_a_hugging_face_model_or_not_float32_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="holds no Hugging Face model"):
        export_huggingface(nn.Linear(2, 2), tmp_path)
    with pytest.raises(StageError, match="bfloat16"):
        export_huggingface(build_masked_lm(SMALL, VOCAB, seed=1, dropout=0.1, max_length=16).to(torch.bfloat16), tmp_path)
