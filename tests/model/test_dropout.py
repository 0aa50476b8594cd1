"""Dropout by row: a function of (seed, sample, site), equal by compiled code and by tensors, and unbiased."""

import numpy as np
import pytest
import torch

from pipeline.model.build import build_masked_lm
from pipeline.model.dropout import RowDropout, _fill, keep_on_device
from pipeline.model.masked_lm import MaskedLM, masked_lm_loss
from tests.model.conftest import SMALL, VOCAB, ragged_batch

CPU = torch.device("cpu")
KEYS = torch.tensor([1, -7, 2**62, 12345, 0])


@pytest.mark.parametrize("per_row", [1, 2, 7, 4096])
def test_compiled_code_and_tensors_keep_the_same_places(per_row: int) -> None:
    keys = KEYS.numpy().astype(np.uint64)
    kept = np.empty((len(keys), per_row), np.float32)
    _fill(keys, 6554, kept, np.float32(1))
    assert torch.equal(torch.from_numpy(kept) > 0, keep_on_device(keys, per_row, 6554, CPU))


def test_a_rows_mask_depends_on_its_key_and_site_and_on_nothing_else() -> None:
    one = RowDropout(KEYS, 0.3).keep(1, (5, 8, 64), CPU, torch.float32)
    torch.set_num_threads(2)
    try:
        assert torch.equal(one, RowDropout(KEYS, 0.3).keep(1, (5, 8, 64), CPU, torch.float32))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one[3:4], RowDropout(KEYS[3:4], 0.3).keep(1, (1, 8, 64), CPU, torch.float32))
    assert torch.equal(one, RowDropout(KEYS, 0.3).keep(1, (5, 8, 64), CPU, torch.bfloat16).float())
    other = RowDropout(KEYS, 0.3).keep(2, (5, 8, 64), CPU, torch.float32)
    assert 0.3 < float((one != other).float().mean()) < 0.54  # 2 · 0.3 · 0.7 where independent


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_as_many_go_as_the_probability_says_and_neighbours_do_not_know_of_each_other(probability: float) -> None:
    keys = torch.arange(64)
    kept = RowDropout(keys, probability).keep(1, (64, 1 << 14), CPU, torch.float32)
    count = kept.numel()
    spread = (probability * (1 - probability) / count) ** 0.5
    assert abs(float(kept.mean()) - (1 - probability)) < 5 * spread
    for left, right in ((kept[:, :-1], kept[:, 1:]), (kept[:-1], kept[1:])):
        both = float(((left - kept.mean()) * (right - kept.mean())).mean()) / (probability * (1 - probability))
        assert abs(both) < 5 / count**0.5


def test_the_loss_with_dropout_depends_on_rows_and_not_on_how_they_are_cut() -> None:
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.2, max_length=16))
    batch = ragged_batch(3) | {"dropout_keys_B": torch.arange(10, 14)}
    whole = masked_lm_loss(module, batch).item()
    assert whole == masked_lm_loss(module, batch).item()
    assert whole != masked_lm_loss(module, batch | {"dropout_keys_B": torch.arange(11, 15)}).item()
    parts = 0.0
    for row in range(4):
        mine = (batch["masked_index_M"] // 12 == row) & (batch["weights_M"] > 0)
        part = {name: batch[name][row : row + 1] for name in ("input_ids_BT", "attention_BT", "positions_BT", "dropout_keys_B")}
        part |= {"masked_index_M": batch["masked_index_M"][mine] - 12 * row, "labels_M": batch["labels_M"][mine]}
        parts += masked_lm_loss(module, part | {"weights_M": batch["weights_M"][mine]}).item()
    assert parts == pytest.approx(whole, rel=1e-5)
    assert masked_lm_loss(module.eval(), batch).item() == masked_lm_loss(module.eval(), ragged_batch(3)).item()


def test_gradients_with_dropped_attention_are_those_of_finite_differences() -> None:
    module = MaskedLM(build_masked_lm(SMALL, VOCAB, seed=0, dropout=0.2, max_length=16)).double()
    batch = ragged_batch(4) | {"dropout_keys_B": torch.arange(4)}
    masked_lm_loss(module, batch).backward()
    for name in ("query.weight", "key.weight", "value.weight"):
        parameter = next(p for n, p in module.named_parameters() if n.endswith(f"layer.0.attention.self.{name}"))
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        expected = float((parameter.grad * direction).sum())
        losses = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            losses.append(masked_lm_loss(module, batch).item())
            with torch.no_grad():
                parameter.add_(direction, alpha=-step)
        assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(expected, rel=2e-2, abs=2e-3), name
