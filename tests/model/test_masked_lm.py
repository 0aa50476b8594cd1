import shutil

import pytest
import torch
from torch.nn import functional

from pipeline.model import loss as loss_module
from pipeline.model.build import build_masked_lm
from pipeline.model.loss import classification_loss
from pipeline.model.masked_lm import MaskedLM, masked_lm_loss
from tests.model.conftest import SMALL, VOCAB, ragged_batch


def full_logit_loss(module: MaskedLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The slow reference: logits everywhere by the library's own forward, then a sum over the masked positions."""
    output = module.model(batch["input_ids_BT"], attention_mask=batch["attention_BT"], position_ids=batch["positions_BT"])
    logits_MV = output.logits.flatten(0, 1)[batch["masked_index_M"]]
    nll_M = functional.cross_entropy(logits_MV, batch["labels_M"], reduction="none")
    return (nll_M * batch["weights_M"]).sum()


def gradients(module: MaskedLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    (loss / 7).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("slice_elements", [1 << 24, 3 * VOCAB, 1])
def test_loss_and_gradients_at_masked_positions_are_those_of_the_full_logits(monkeypatch: pytest.MonkeyPatch, slice_elements: int) -> None:
    monkeypatch.setattr(loss_module, "SLICE_ELEMENTS", slice_elements)
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.0, max_length=16))
    batch = ragged_batch(1)
    ours, reference = masked_lm_loss(module, batch), full_logit_loss(module, batch)
    assert ours.item() == pytest.approx(reference.item(), rel=1e-6)
    assert ours.dtype == torch.float32
    expected = gradients(module, reference)
    found = gradients(module, ours)
    assert expected.keys() == found.keys() and len(found) > 20
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_librarys_own_mean_loss_is_our_sum_over_the_number_of_masked_positions() -> None:
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.0, max_length=16))
    batch = ragged_batch(2)
    kept = batch["weights_M"] > 0
    labels = torch.full(batch["input_ids_BT"].shape, -100).flatten()
    labels[batch["masked_index_M"][kept]] = batch["labels_M"][kept]
    library = module.model(
        batch["input_ids_BT"],
        attention_mask=batch["attention_BT"],
        position_ids=batch["positions_BT"],
        labels=labels.view_as(batch["input_ids_BT"]),
    )
    assert masked_lm_loss(module, batch).item() / kept.sum().item() == pytest.approx(library.loss.item(), rel=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_layers_computed_again_give_the_same_loss_and_gradients(dropout: float) -> None:
    batch = ragged_batch(4) | {"dropout_keys_B": torch.tensor([3, 1, 4, 1])}
    found = []
    for recompute in (False, True):
        module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=dropout, max_length=16), recompute=recompute).train()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor
        ):
            loss = masked_lm_loss(module, batch)
        found.append((loss.item(), gradients(module, loss), sum(kept)))
    assert found[0][0] == found[1][0]
    for name, expected in found[0][1].items():
        assert torch.equal(found[1][1][name], expected), name
    assert found[1][2] < found[0][2] / 2, "layers keep their inputs only"


def test_padding_among_the_predictions_changes_nothing() -> None:
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.0, max_length=16))
    batch = ragged_batch(3)
    kept = batch["weights_M"] > 0
    bare = batch | {name: batch[name][kept] for name in ("masked_index_M", "labels_M", "weights_M")}
    assert masked_lm_loss(module, batch).item() == pytest.approx(masked_lm_loss(module, bare).item(), rel=1e-6)
    other = batch | {"labels_M": torch.where(kept, batch["labels_M"], 7)}
    assert masked_lm_loss(module, batch).item() == masked_lm_loss(module, other).item()


def test_the_nats_of_each_position_add_up_to_the_loss() -> None:
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.0, max_length=16)).eval()
    batch = ragged_batch(4)
    with torch.no_grad():
        loss_sum, weight_sum, nll_M = module(**batch, per_position=True)
    assert (nll_M * batch["weights_M"]).sum().item() == pytest.approx(loss_sum.item(), rel=1e-6)
    assert weight_sum.item() == (batch["weights_M"] > 0).sum().item()
    assert not nll_M.requires_grad


def test_the_loss_is_taken_in_float32_when_the_model_is_in_bfloat16() -> None:
    exact = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.0, max_length=16))
    batch = ragged_batch(5)
    expected = masked_lm_loss(exact, batch).item()
    low = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.0, max_length=16)).to(torch.bfloat16)
    found = masked_lm_loss(low, batch)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=2e-3)
    found.backward()
    assert low.output.weight.grad is not None and low.output.weight.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = masked_lm_loss(exact, batch)
    assert under_autocast.dtype == torch.float32 and under_autocast.item() == pytest.approx(expected, rel=2e-3)
    assert {gradient.dtype for gradient in gradients(exact, under_autocast).values()} == {torch.float32}


def test_the_parameters_of_the_wrapper_are_those_of_the_model_each_once() -> None:
    model = build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.0, max_length=16)
    assert [name for name, _ in MaskedLM(model).named_parameters()] == [f"model.{name}" for name, _ in model.named_parameters()]


def test_the_classification_loss_counts_each_example_by_its_weight() -> None:
    logits_BK = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, -5.0]])
    labels_B = torch.tensor([0, 0, 1])
    full = functional.cross_entropy(logits_BK[:2], labels_B[:2], reduction="sum")
    assert classification_loss(logits_BK, labels_B, torch.tensor([1.0, 1.0, 0.0])).item() == pytest.approx(full.item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs a C++ compiler, and there is none")
def test_compiled_layers_give_the_same_loss_and_gradients() -> None:
    batch, found = ragged_batch(2), []
    for compiled in (False, True):
        module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=3, dropout=0.0, max_length=16), compiled=compiled)
        loss = module(**batch)
        loss.backward()
        found.append((float(loss.detach()), {name: parameter.grad for name, parameter in module.named_parameters()}))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert all(torch.allclose(found[1][1][name], gradient, atol=1e-5) for name, gradient in found[0][1].items())
