"""Named places where a test may kill or pause the process, so that every commit border can be reached.

`PIPELINE_FAILPOINT=shard.after_write:kill:3` sends SIGKILL to the process at its third passage of `shard.after_write`.
Actions: `kill` (SIGKILL, the default), `stop` (SIGSTOP; the kernel sets it going again if its session's leader dies), `hang` (sleeps on), `raise` (OSError: no space left; `raise-EMFILE` another one). Several are joined by commas. With
`PIPELINE_FAILPOINT_ONCE=<file>` the action happens in one process only: whoever creates the file; where it is a folder, once for each place.
Without the variable a passage costs one dictionary look-up.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

_passages: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Pass the place `name`; does nothing unless the environment asks for it.

    Raises:
        OSError: ENOSPC when the action is `raise`, what it names when it is `raise-NAME`.
    """
    wanted = os.environ.get("PIPELINE_FAILPOINT")
    if not wanted:
        return
    _passages[name] = _passages.get(name, 0) + 1
    for item in wanted.split(","):
        given = item.split(":")
        place, action, count = (*given, *("kill", "1")[len(given) - 1 :])
        if place == name and _passages[name] == int(count) and _first(place):
            _act(action, name)


def _first(place: str) -> bool:
    given = os.environ.get("PIPELINE_FAILPOINT_ONCE")
    if not given:
        return True
    once = Path(given)
    try:
        with (once / place if once.is_dir() else once).open("x"):
            return True
    except FileExistsError:
        return False


def _act(action: str, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "hang":
        time.sleep(86_400)
    elif action == "raise":
        raise OSError(errno.ENOSPC, f"no space left on device (failpoint {name})")
    elif action.startswith("raise-") and hasattr(errno, action.partition("-")[2]):
        number = getattr(errno, action.partition("-")[2])
        raise OSError(number, f"{os.strerror(number)} (failpoint {name})")
    else:
        raise ValueError(f"PIPELINE_FAILPOINT action {action!r}: allowed are kill, stop, hang, raise, raise-<name of an errno>")
