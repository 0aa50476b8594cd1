"""Which checkpoints of a run stay: the newest, the best by held-out loss, and one every so many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.jobs import INDEX, checkpoints
from pipeline.storage import Storage


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay."""

    last: int = 2
    """The newest so many, at least 1."""
    best: int = 0
    """Those of the lowest held-out loss, of checkpoints at whose step it was measured."""
    every: int = 0
    """Those at a multiple of so many steps; 0: none for that."""

    def keeps(self, losses: Mapping[int, float | None]) -> frozenset[int]:
        """The steps that stay, of step -> held-out loss, None where it was not measured; of equal losses the later."""
        steps = sorted(losses)
        measured = sorted((loss, -step) for step, loss in losses.items() if loss is not None)
        kept = {*steps[-max(1, self.last) :], *(-step for _, step in measured[: self.best])}
        return frozenset(kept | {step for step in steps if self.every and step % self.every == 0})


def retain(storage: Storage, folder: str, retention: Retention) -> None:
    """Remove the checkpoints below `folder` that `retention` does not keep; the newest always stays."""
    paths = {int(path.rpartition("/step-")[2]): path for path in checkpoints(storage, folder)}
    losses = {step: _held_out_loss(storage, path) if retention.best else None for step, path in paths.items()}
    for step in sorted(paths.keys() - retention.keeps(losses)):
        storage.remove(paths[step])


def _held_out_loss(storage: Storage, path: str) -> float | None:
    loss = storage.read_json(f"{path}/{INDEX}")["meta"].get("heldout_loss")
    return None if loss is None else float(loss)
