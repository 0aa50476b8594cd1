"""A model that follows its vocabulary: trimmed to six languages, its logits over kept pieces are as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, XLMRobertaConfig, XLMRobertaForMaskedLM

from pipeline.errors import StageError
from pipeline.model.rows import changed_model, mapped_rows
from pipeline.text.tokenizer import Tokenizer, train
from pipeline.text.tokenizer_export import export_huggingface, verify_export
from pipeline.text.vocabulary_change import grown, kept_only, needed, rows
from pipeline.text.words import count_words
from tests.text.test_tokenizer import TEXTS

SIX = [text for text in TEXTS if not text.startswith("人")]  # two of them are English
SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}


@pytest.fixture(scope="module")
def vocabulary() -> bytes:
    return train(count_words(TEXTS), size=600)


@pytest.fixture(scope="module")
def original(vocabulary: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    torch.manual_seed(1)
    config = XLMRobertaConfig(
        vocab_size=600, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=258, type_vocab_size=1
    )  # fmt: skip
    model = XLMRobertaForMaskedLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(folder)
    export_huggingface(vocabulary, folder, 256)
    return folder


def logits(folder: Path, text: str) -> torch.Tensor:
    """Of all ids at all places; shape (tokens, ids)."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits[0]


def test_a_model_trimmed_to_six_languages_keeps_ids_and_logits_and_opens_in_transformers(
    original: Path, vocabulary: bytes, tmp_path: Path
) -> None:
    old = Tokenizer(vocabulary)
    cut, origins = kept_only(old, vocabulary, needed(old, count_words(SIX)))
    new = Tokenizer(cut)
    assert new.size < old.size
    assert changed_model(original, tmp_path, rows(old, new, origins), SPECIAL_IDS) == 256
    export_huggingface(cut, tmp_path, 256)
    assert verify_export(cut, tmp_path, SIX) == 7
    before, after = AutoTokenizer.from_pretrained(original), AutoTokenizer.from_pretrained(tmp_path)
    assert len(after) == new.size == AutoModelForMaskedLM.from_pretrained(tmp_path).config.vocab_size
    for text in [*SIX, SIX[0].replace("born", "<mask>")]:
        assert [origins[index] for index in after(text).input_ids] == before(text).input_ids
        torch.testing.assert_close(logits(tmp_path, text), logits(original, text)[:, origins], rtol=0, atol=1e-6)


def test_rows_are_copied_or_the_mean_of_what_a_new_piece_splits_into(original: Path, vocabulary: bytes, tmp_path: Path) -> None:
    old = Tokenizer(vocabulary)
    made, origins = grown(old, vocabulary, [("▁Rechtensbruch", 0.0)])
    new = Tokenizer(made)
    found = rows(old, new, origins)
    changed_model(original, tmp_path, found, SPECIAL_IDS)
    before, after = (AutoModelForMaskedLM.from_pretrained(folder).get_input_embeddings().weight for folder in (original, tmp_path))
    fresh = new.id_of("▁Rechtensbruch")
    assert len(found[fresh]) > 1
    torch.testing.assert_close(after[fresh], before[found[fresh]].mean(dim=0))
    assert torch.equal(after[:fresh], before[:fresh]) and torch.equal(after[-1], before[-1])


def test_vectors_are_mapped_too_nothing_known_is_the_mean_of_all_and_other_models_are_refused() -> None:
    weight = torch.arange(12.0).reshape(4, 3)
    assert mapped_rows(weight, [[2], [0, 1], []]).tolist() == [[6.0, 7.0, 8.0], [1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]
    assert mapped_rows(weight[:, 0].to(torch.bfloat16), [[3], [0, 1]]).tolist() == [9.0, 1.5]
    with pytest.raises(StageError, match="row 4 of an embedding that has 4"):
        mapped_rows(weight, [[4]])
