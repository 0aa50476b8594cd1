"""Checkpoints in storage, from the ranks' side: saved into a folder of their launch's own, which becomes a checkpoint by one rename.

On an object store there is no rename: the files go up first, and the index, written last, makes them a checkpoint. Either is done only while no later launch has begun.

After each one those that nothing asks for are removed (`retention`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pipeline.failpoint import failpoint
from pipeline.jobs import INDEX
from pipeline.launches import Launch
from pipeline.retention import Retention, retain
from pipeline.storage import Storage
from pipeline.training import checkpoint


def start_folder(storage: Storage, folder: str) -> Path:
    """A local folder with the files of a checkpoint in storage."""
    if storage.is_local:
        return Path(storage.root) / folder
    for path in storage.list(folder):
        storage.local(path)
    return Path(storage.cache) / folder


def save_checkpoint(
    storage: Storage, folder: str, step: int, engine: Any, meta: Any, gang: Any, *, keep: Retention, launch: Launch | None = None
) -> None:
    """Save step `step` below `folder` and remove those that `keep` does not name; collective. Without a `launch` there is no other that could write.

    Raises:
        StageError: a rank could not write; the checkpoint before stays.
        SupersededError: a later launch has begun; raised on rank 0, on an object store on every rank.
    """
    name = f"step-{step:08d}"
    base = Path(storage.root if storage.is_local else storage.cache) / folder
    unfinished = base / (f"unfinished-{name}" if launch is None else launch.unfinished(name))
    mine = checkpoint.save(engine, unfinished, meta)
    failpoint("checkpoint.before_rename")
    if not storage.is_local:
        if launch is not None:
            launch.require()  # on every rank: the names below are the same for every launch
        for file in (f for f in mine if f != INDEX):
            storage.write(f"{folder}/{name}/{file}", (unfinished / file).read_bytes())
    if gang.world_size > 1:
        dist.barrier()
    if gang.rank == 0:
        if launch is not None:
            launch.require()
        if storage.is_local:
            target = base / name
            if target.exists():
                shutil.rmtree(target)
            unfinished.rename(target)
        else:
            storage.write(f"{folder}/{name}/{INDEX}", (unfinished / INDEX).read_bytes())
        failpoint("checkpoint.after_rename")
        retain(storage, folder, keep)
    if gang.world_size > 1:
        dist.barrier()
    if not storage.is_local:
        shutil.rmtree(unfinished, ignore_errors=True)  # whichever rank of this host comes first
