"""CLM: what is predicted, and the library's own decoder on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import XLMRobertaForCausalLM

from pipeline.model.masked_lm import masked_lm_loss
from pipeline.training.loop import tensors_of
from tests.training.pairs import module, token_feed


def test_every_token_but_the_first_of_a_row_is_predicted_from_the_place_before_it() -> None:
    feed = token_feed("clm")
    for step in range(3):
        for batch in feed.micro_batches(step, 0, 1, 4):
            expected = []
            places = batch.input_ids_BT.shape[1]
            for b, (ids, attention) in enumerate(zip(batch.input_ids_BT, batch.attention_BT, strict=True)):
                expected += [(b * places + t, int(ids[t + 1])) for t in range(int(attention.sum()) - 1)]
            used = batch.weights_M > 0
            assert list(zip(batch.masked_index_M[used].tolist(), batch.labels_M[used].tolist(), strict=True)) == expected
            assert batch.is_causal
        assert feed.weight(step) == sum(batch.weights_M.sum() for batch in feed.micro_batches(step, 0, 1, 4))


def test_loss_and_gradients_are_those_of_the_librarys_decoder() -> None:
    ours = module()
    configuration = type(ours.model.config).from_dict(ours.model.config.to_dict() | {"is_decoder": True})
    library = XLMRobertaForCausalLM(configuration)
    library.load_state_dict(ours.model.state_dict(), strict=False)
    library.tie_weights()
    (batch,) = token_feed("clm").micro_batches(0, 0, 1, 8)
    assert not batch.attention_BT.all(), "no row is padded: the test would not see padding"
    fields = tensors_of(batch, torch.device("cpu"))
    loss = masked_lm_loss(ours, fields | {"is_causal": torch.tensor(True)})
    labels_BT = torch.where(fields["attention_BT"], fields["input_ids_BT"], -100)
    found = library(
        fields["input_ids_BT"], attention_mask=fields["attention_BT"].long(), position_ids=fields["positions_BT"], labels=labels_BT
    )
    count = float(np.sum(batch.weights_M))
    assert loss.item() / count == pytest.approx(found.loss.item(), rel=1e-5)
    (loss / count).backward()
    found.loss.backward()
    theirs = dict(library.named_parameters())
    compared = 0
    for name, parameter in ours.model.named_parameters():
        if parameter.grad is not None and name in theirs:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)
            compared += 1
    assert compared > 20


def test_a_later_token_changes_no_earlier_prediction() -> None:
    ours = module().eval()
    (batch,) = token_feed("clm").micro_batches(1, 0, 1, 8)
    fields = {
        name: value
        for name, value in tensors_of(batch, torch.device("cpu")).items()
        if name not in ("segments_BT", "languages_B", "samples_B")
    }
    with torch.no_grad():
        _, _, before_M = ours(**fields, is_causal=True, per_position=True)
        changed_BT = fields["input_ids_BT"].clone()
        changed_BT[:, 9] = 17
        _, _, after_M = ours(**fields | {"input_ids_BT": changed_BT}, is_causal=True, per_position=True)
    places = batch.input_ids_BT.shape[1]
    place_M = torch.from_numpy(batch.masked_index_M) % places
    assert torch.allclose(before_M[place_M < 9], after_M[place_M < 9], atol=1e-6)
    assert not torch.allclose(before_M[place_M == 9], after_M[place_M == 9], atol=1e-4)
