import pytest
import torch

from pipeline.model.sizes import ModelSize

SMALL = ModelSize(2, 32, 4, 48, 514, None)
VOCAB = 97


@pytest.fixture(autouse=True)
def compute(one_thread: None) -> None:
    """These tests compute on one thread."""


def ragged_batch(seed: int, rows: int = 4, places: int = 12) -> dict[str, torch.Tensor]:
    """Rows of unequal length, unequally masked, and padding among the predictions."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, places + 1, (rows,), generator=generator)
    attention = torch.arange(places) < lengths[:, None]
    ids = torch.randint(5, VOCAB - 1, (rows, places), generator=generator)
    ids = torch.where(attention, ids, 1)
    positions = torch.where(attention, torch.arange(2, places + 2).expand(rows, places), 1)
    flat = torch.nonzero(attention.flatten()).flatten()
    chosen = flat[torch.randperm(len(flat), generator=generator)[: len(flat) // 3]]
    padding = 5
    return {
        "input_ids_BT": ids,
        "attention_BT": attention,
        "positions_BT": positions,
        "masked_index_M": torch.cat([chosen, torch.zeros(padding, dtype=torch.int64)]),
        "labels_M": torch.randint(5, VOCAB - 1, (len(chosen) + padding,), generator=generator),
        "weights_M": torch.cat([torch.ones(len(chosen)), torch.zeros(padding)]),
    }
