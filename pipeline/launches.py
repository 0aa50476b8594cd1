"""Which launch of a gang may write: its token lies in storage, and a rank of a launch before it, should one still live, is refused.

    driver   claim: <folder>/launch.json = token              before every launch
    rank     meet:  waits until it reads that token            else the storage of this node is another one: refused at the start
             require: the token is still its own               before a record or a checkpoint becomes one

What a rank has not finished lies under names that hold the token, so that no two launches write into one folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PreflightError, StageError
from pipeline.storage import Storage

FILE = "launch.json"
MEET_S = 60.0
"""A network file system shows a new file within this time."""


class SupersededError(StageError):
    """A later launch of the same job has taken over; this rank must write no more."""


@dataclass(frozen=True)
class Launch:
    """One launch of the job whose checkpoints lie in `folder`; `token` is fit for a file name."""

    storage: Storage
    folder: str
    token: str

    @classmethod
    def of(cls, storage: Storage, plain: Mapping[str, Any]) -> Launch:
        """What `plain` was made of, at the far end."""
        return cls(storage, plain["folder"], plain["token"])

    def plain(self) -> dict[str, Any]:
        """Folder and token, as plain data."""
        return {"folder": self.folder, "token": self.token}

    def claim(self) -> None:
        """Make this the launch that may write."""
        self.storage.write_json(f"{self.folder}/{FILE}", {"token": self.token})

    def meet(self, where: str, wait_s: float = MEET_S) -> None:
        """Wait until the driver's token is seen here; `where` names this node in the message.

        Raises:
            PreflightError: it is not, so this node does not see the driver's storage.
        """
        end = time.monotonic() + wait_s
        while (found := self._found()) != self.token:
            if time.monotonic() >= end:
                says = "holds nothing of this run" if found is None else f"holds another launch ({found}; this is {self.token})"
                raise PreflightError(
                    f"storage {self.storage.url(self.folder)} as node {where} sees it {says}: it is not the one that the driver writes to. "
                    "Give a storage that every node of the cluster has under the same name: a shared folder or an object store."
                )
            time.sleep(min(1.0, wait_s / 10))

    def require(self) -> None:
        """Check that no later launch has begun.

        Raises:
            SupersededError: one has.
        """
        found = self._found()
        if found != self.token:
            raise SupersededError(f"{self.folder}: launch {self.token} was superseded by {found}; nothing more is written by it")

    def unfinished(self, name: str) -> str:
        """The name under which this launch writes what will be `name`."""
        return f"unfinished-{self.token}-{name}"

    def _found(self) -> str | None:
        content = self.storage.read_json(f"{self.folder}/{FILE}")
        return None if content is None else str(content["token"])
